//! Inert image entries: what resource crates return on dump and take on restore.

use std::{collections::BTreeMap, io::Write};

use prost::{Message, Name};

use crate::{
    error::{Error, Result},
    frame::{FrameReader, write_encoded},
    magic::{Family, Image},
    payload::payload_length,
    store::{Store, StoreExt},
    unknown::{Shape, UnknownField},
};

/// One entry of an image: its message, encoded, and the raw bytes after it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// The image that the entry belongs to.
    pub image: Image,
    /// The id in the image's file name; 0 where it has none.
    pub id: u64,
    /// The encoded message; empty for raw images.
    pub message: Vec<u8>,
    /// The raw bytes that follow, padding included; all of a raw image.
    pub payload: Vec<u8>,
}

impl Record {
    /// An entry without raw bytes.
    pub fn new<M: Message>(image: Image, id: u64, message: &M) -> Self {
        Record { image, id, message: message.encode_to_vec(), payload: Vec::new() }
    }

    /// The whole of a raw image.
    pub fn raw(image: Image, id: u64, bytes: Vec<u8>) -> Self {
        Record { image, id, message: Vec::new(), payload: bytes }
    }

    /// Adds the raw bytes that follow the message.
    #[must_use]
    pub fn with_payload(mut self, payload: Vec<u8>) -> Self {
        self.payload = payload;
        self
    }

    /// The name of the file that the entry goes to.
    pub fn file_name(&self) -> String {
        self.image.file_name(self.id)
    }

    /// The message. Fields that are not known were refused or reported when the image was read.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is no such message, [`Error::UnknownFields`] when decoding would lose some.
    pub fn decode<M: Message + Name + Default>(&self) -> Result<M> {
        let corrupt = |reason: String| Error::Corrupt {
            image: self.file_name(),
            offset: 0,
            message: M::NAME.to_owned(),
            reason,
        };
        let mut fields = Vec::new();
        if let Some(shape) = Shape::of(M::NAME) {
            shape.walk(&self.message, &mut fields).map_err(|missing| corrupt(missing.to_string()))?;
        }
        if !fields.is_empty() {
            return Err(Error::UnknownFields { image: self.file_name(), fields });
        }
        M::decode(self.message.as_slice()).map_err(|reason| corrupt(reason.to_string()))
    }

    /// Writes the entry, message and raw bytes; the header is not part of it.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_to<W: Write + ?Sized>(&self, writer: &mut W) -> std::io::Result<()> {
        if self.image.family() != Family::Raw {
            write_encoded(writer, &self.message)?;
        }
        writer.write_all(&self.payload)
    }
}

/// Records, grouped by the file that they go to. Within a file they keep the order of their coming.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordSet {
    files: BTreeMap<(Image, u64), Vec<Record>>,
}

impl RecordSet {
    /// No records.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record to its file.
    pub fn push(&mut self, record: Record) {
        self.files.entry((record.image, record.id)).or_default().push(record);
    }

    /// Makes sure that the file is written even if no record comes: an image with a header only.
    pub fn touch(&mut self, image: Image, id: u64) {
        self.files.entry((image, id)).or_default();
    }

    /// Moves all records and files of `other` here.
    pub fn append(&mut self, other: RecordSet) {
        for (file, records) in other.files {
            self.files.entry(file).or_default().extend(records);
        }
    }

    /// The records of one file.
    pub fn get(&self, image: Image, id: u64) -> &[Record] {
        self.files.get(&(image, id)).map_or(&[], Vec::as_slice)
    }

    /// All records, file by file.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.files.values().flatten()
    }

    /// The names of all files, in the order of writing.
    pub fn file_names(&self) -> impl Iterator<Item = String> {
        self.files.keys().map(|(image, id)| image.file_name(*id))
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.files.values().map(Vec::len).sum()
    }

    /// Whether there is no record. Touched files count for nothing here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes each file in one go. An inventory among them comes last: it is the commit mark.
    ///
    /// # Errors
    /// [`Error::Io`]; what was written remains, see [`StoreExt::remove_incomplete`].
    pub fn write_to(&self, store: &dyn Store) -> Result<()> {
        let (commit, others): (Vec<_>, Vec<_>) =
            self.files.iter().partition(|((image, _), _)| *image == Image::Inventory);
        for ((image, id), records) in others.into_iter().chain(commit) {
            let mut writer = store.create_image(*image, *id)?;
            for record in records {
                record
                    .write_to(&mut writer)
                    .map_err(|source| Error::io(record.file_name(), "write", source))?;
            }
            writer.finish()?;
        }
        Ok(())
    }
}

impl FromIterator<Record> for RecordSet {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        let mut set = RecordSet::new();
        set.extend(records);
        set
    }
}

impl Extend<Record> for RecordSet {
    fn extend<I: IntoIterator<Item = Record>>(&mut self, records: I) {
        for record in records {
            self.push(record);
        }
    }
}

/// Reads all records of an image, each with its raw bytes. Unknown fields are refused.
///
/// # Errors
/// All of [`Error`].
pub fn read_records(store: &dyn Store, image: Image, id: u64) -> Result<Vec<Record>> {
    let reader = store.open_image(image, id)?;
    Ok(collect(reader, id)?.0)
}

/// Reads all records that `reader` still holds, and the unknown fields it tolerated.
///
/// # Errors
/// All of [`Error`]; [`Error::Misuse`] for an image whose entries have no known message.
pub fn collect<R: std::io::Read>(
    mut reader: FrameReader<R>,
    id: u64,
) -> Result<(Vec<Record>, Vec<UnknownField>)> {
    let image = reader.image();
    if image.family() == Family::Raw {
        return Ok((vec![Record::raw(image, id, reader.rest()?)], Vec::new()));
    }
    let mut records = Vec::new();
    loop {
        let Some(name) = image.message_name_at(records.len()) else {
            return Err(Error::Misuse {
                image: reader.name().to_owned(),
                reason: format!("{} images have no known entries", image.name()),
            });
        };
        let Some(message) = reader.encoded(name)?.map(<[u8]>::to_vec) else {
            break;
        };
        let payload = payload_length(image, records.len(), &message)?.read(&mut reader)?;
        records.push(Record { image, id, message, payload });
    }
    Ok((records, reader.unknown().to_vec()))
}
