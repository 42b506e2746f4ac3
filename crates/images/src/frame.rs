//! Framing: a header of one or two magics, then entries, each a little-endian `u32` size, the encoded message
//! and, for some images, raw bytes whose length the message tells.

use std::{
    io::{self, Read, Write},
    marker::PhantomData,
};

use prost::{Message, Name};

use crate::{
    error::{Error, Result},
    magic::{COMMON_MAGIC, Family, Image, SERVICE_MAGIC},
    unknown::{Shape, UnknownField},
};

/// The largest message that is believed, in bytes: the reference reads sizes as signed 32-bit numbers.
pub const MAX_ENTRY: u32 = i32::MAX as u32;

/// The words that an image begins with; none for raw images.
pub fn header(image: Image) -> Vec<u8> {
    let words: &[u32] = match image.family() {
        Family::Common => &[COMMON_MAGIC, image.magic()],
        Family::Service => &[SERVICE_MAGIC, image.magic()],
        Family::Inventory => &[image.magic()],
        Family::Raw => &[],
    };
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Writes the header of `image`.
///
/// # Errors
/// Those of the writer.
pub fn write_header<W: Write + ?Sized>(writer: &mut W, image: Image) -> io::Result<()> {
    writer.write_all(&header(image))
}

/// Writes one entry: size and message. Raw bytes that belong to it are the caller's to write next.
///
/// # Errors
/// Those of the writer; [`io::ErrorKind::InvalidInput`] for a message over [`MAX_ENTRY`].
pub fn write_entry<W: Write + ?Sized, M: Message>(writer: &mut W, message: &M) -> io::Result<()> {
    write_encoded(writer, &message.encode_to_vec())
}

/// Writes one entry whose message is encoded already.
///
/// # Errors
/// As [`write_entry`].
pub fn write_encoded<W: Write + ?Sized>(writer: &mut W, message: &[u8]) -> io::Result<()> {
    let size = u32::try_from(message.len()).ok().filter(|size| *size <= MAX_ENTRY).ok_or_else(|| {
        let text = format!("a message of {} bytes does not fit an entry", message.len());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    writer.write_all(&size.to_le_bytes())?;
    writer.write_all(message)
}

/// Reads an image entry by entry, and the raw bytes between entries.
///
/// Knows the file's name and its own position, so that errors can name both. Sizes are checked while
/// reading: a wrong one leads to an error, never to an allocation beyond what the file holds.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    image: Image,
    name: String,
    offset: u64,
    buffer: Vec<u8>,
    unknown: Option<Vec<UnknownField>>,
}

impl<R: Read> FrameReader<R> {
    /// Reads and checks the header. `name` is the file's name, for errors.
    ///
    /// Images of format 1.0 lack the common magic; they are accepted.
    ///
    /// # Errors
    /// [`Error::BadMagic`], [`Error::Truncated`] and those of the reader.
    pub fn open(reader: R, image: Image, name: impl Into<String>) -> Result<Self> {
        let mut this = Self::headless(reader, image, name);
        if image.family() == Family::Raw {
            return Ok(this);
        }
        let found = this.magic()?;
        if found != image.magic() {
            return Err(Error::BadMagic {
                offset: this.offset - 4,
                image: this.name,
                found,
                expected: image.magic(),
                kind: image.name(),
            });
        }
        Ok(this)
    }

    /// As [`open`](Self::open), for an image whose kind is told by its name (without directories), or else
    /// by its magic.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Corrupt`] for a file that is no image.
    pub fn open_any(reader: R, name: &str) -> Result<Self> {
        if let Some((image, _)) = Image::from_file_name(name) {
            return Self::open(reader, image, name);
        }
        // The kind is corrected as soon as the magic is known.
        let mut this = Self::headless(reader, Image::Inventory, name);
        let found = this.magic()?;
        this.image = Image::from_magic(found).ok_or_else(|| {
            let reason = format!("magic {found:#010x} is of no known image");
            this.corrupt(this.offset - 4, "a magic", reason)
        })?;
        Ok(this)
    }

    /// Reads entries that no header precedes, such as those inside raw bytes.
    pub fn headless(reader: R, image: Image, name: impl Into<String>) -> Self {
        FrameReader { reader, image, name: name.into(), offset: 0, buffer: Vec::new(), unknown: None }
    }

    /// Collects unknown fields for [`unknown`](Self::unknown) from now on, instead of refusing them.
    #[must_use]
    pub fn tolerate_unknown(mut self) -> Self {
        self.unknown = Some(Vec::new());
        self
    }

    /// The unknown fields met so far, each once.
    pub fn unknown(&self) -> &[UnknownField] {
        self.unknown.as_deref().unwrap_or_default()
    }

    /// Where the next byte comes from, in bytes from the file's begin.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The image that is read.
    pub fn image(&self) -> Image {
        self.image
    }

    /// Gives back what the image was read from, at the present position.
    pub fn into_inner(self) -> R {
        self.reader
    }

    /// Reads the next entry; `None` at the file's end.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Corrupt`], [`Error::UnknownFields`] and those of the reader.
    pub fn entry<M: Message + Name + Default>(&mut self) -> Result<Option<M>> {
        let begin = self.offset;
        if !self.fill(M::NAME)? {
            return Ok(None);
        }
        self.check(M::NAME, begin)?;
        match M::decode(self.buffer.as_slice()) {
            Ok(message) => Ok(Some(message)),
            Err(reason) => Err(self.corrupt(begin, M::NAME, reason)),
        }
    }

    /// Reads the next entry without decoding it; `None` at the file's end.
    ///
    /// # Errors
    /// As [`entry`](Self::entry). `message` must be a message of the format.
    pub fn encoded(&mut self, message: &str) -> Result<Option<&[u8]>> {
        let begin = self.offset;
        if !self.fill(message)? {
            return Ok(None);
        }
        self.check(message, begin)?;
        Ok(Some(&self.buffer))
    }

    /// Reads the next entry, which must be there.
    ///
    /// # Errors
    /// As [`entry`](Self::entry), and [`Error::Truncated`] at the file's end.
    pub fn expect<M: Message + Name + Default>(&mut self) -> Result<M> {
        match self.entry()? {
            Some(message) => Ok(message),
            None => Err(self.truncated(self.offset, M::NAME.to_owned())),
        }
    }

    /// Reads the `length` raw bytes that follow an entry.
    ///
    /// # Errors
    /// [`Error::Truncated`] and those of the reader.
    pub fn payload(&mut self, length: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_into(&mut bytes, length, "raw data")?;
        Ok(bytes)
    }

    /// Copies the `length` raw bytes that follow an entry to `writer`, without holding them in memory.
    ///
    /// # Errors
    /// [`Error::Truncated`] and those of reader and writer.
    pub fn copy_payload<W: Write + ?Sized>(&mut self, length: u64, writer: &mut W) -> Result<()> {
        let begin = self.offset;
        let copied = io::copy(&mut (&mut self.reader).take(length), writer)
            .map_err(|source| Error::io(&self.name, "copy", source))?;
        self.offset += copied;
        if copied < length {
            return Err(self.truncated(begin, format!("{length} bytes of raw data")));
        }
        Ok(())
    }

    /// Reads all that is left.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let result = self.reader.read_to_end(&mut bytes);
        self.offset += bytes.len() as u64;
        result.map_err(|source| Error::io(&self.name, "read", source))?;
        Ok(bytes)
    }

    /// Reads all further entries as messages of one kind, for images without raw bytes.
    pub fn entries<M: Message + Name + Default>(self) -> Entries<M, R> {
        Entries { reader: self, failed: false, message: PhantomData }
    }

    /// The image's own magic; the family's before it is read over.
    fn magic(&mut self) -> Result<u32> {
        match self.word("the magic")? {
            COMMON_MAGIC | SERVICE_MAGIC => self.word("the second magic"),
            own => Ok(own),
        }
    }

    fn word(&mut self, what: &str) -> Result<u32> {
        let mut word = Vec::with_capacity(4);
        self.read_into(&mut word, 4, what)?;
        Ok(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
    }

    /// Reads the next entry into the buffer; `false` at the file's end.
    fn fill(&mut self, message: &str) -> Result<bool> {
        let begin = self.offset;
        let mut size = [0; 4];
        let got = self.read_up_to(&mut size)?;
        if got == 0 {
            return Ok(false);
        }
        if got < size.len() {
            return Err(self.truncated(begin, format!("the size of {message}")));
        }
        let size = u32::from_le_bytes(size);
        if size > MAX_ENTRY {
            return Err(self.corrupt(begin, message, format!("size {size:#x} is out of range")));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let result = self.read_into(&mut buffer, size.into(), message);
        self.buffer = buffer;
        result.map(|()| true)
    }

    fn read_up_to(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut got = 0;
        while got < buffer.len() {
            match self.reader.read(&mut buffer[got..]) {
                Ok(0) => break,
                Ok(count) => got += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::io(&self.name, "read", source)),
            }
        }
        self.offset += got as u64;
        Ok(got)
    }

    /// Appends exactly `length` bytes; the buffer grows only as bytes really come.
    fn read_into(&mut self, buffer: &mut Vec<u8>, length: u64, what: &str) -> Result<()> {
        let begin = self.offset;
        let before = buffer.len();
        let result = (&mut self.reader).take(length).read_to_end(buffer);
        let got = (buffer.len() - before) as u64;
        self.offset += got;
        result.map_err(|source| Error::io(&self.name, "read", source))?;
        if got < length {
            return Err(self.truncated(begin, format!("{length} bytes of {what}")));
        }
        Ok(())
    }

    fn check(&mut self, message: &str, begin: u64) -> Result<()> {
        let Some(shape) = Shape::of(message) else {
            return Err(Error::Misuse {
                image: self.name.clone(),
                reason: format!("there is no message {message} in the format"),
            });
        };
        let mut found = Vec::new();
        let collected = self.unknown.as_mut();
        let refuse = collected.is_none();
        shape
            .walk(&self.buffer, collected.unwrap_or(&mut found))
            .map_err(|missing| self.corrupt(begin, message, missing))?;
        if refuse && !found.is_empty() {
            return Err(Error::UnknownFields { image: self.name.clone(), fields: found });
        }
        Ok(())
    }

    fn truncated(&self, offset: u64, expected: String) -> Error {
        Error::Truncated { image: self.name.clone(), offset, expected }
    }

    fn corrupt(&self, offset: u64, message: &str, reason: impl ToString) -> Error {
        Error::Corrupt {
            image: self.name.clone(),
            offset,
            message: message.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// Iterates over entries of one kind. Ends after the first error.
#[derive(Debug)]
pub struct Entries<M, R> {
    reader: FrameReader<R>,
    failed: bool,
    message: PhantomData<fn() -> M>,
}

impl<M, R> Entries<M, R> {
    /// The reader beneath, for its position or its unknown fields.
    pub fn reader(&self) -> &FrameReader<R> {
        &self.reader
    }

    /// Gives the reader back, to go on with raw bytes.
    pub fn into_reader(self) -> FrameReader<R> {
        self.reader
    }
}

impl<M: Message + Name + Default, R: Read> Iterator for Entries<M, R> {
    type Item = Result<M>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.reader.entry().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}
