//! Where images lie: [`DirStore`], a directory, or [`MemoryStore`], for tests and for streaming.

use std::{
    fmt,
    io::{Read, Seek, Write},
    ops::Range,
    os::fd::BorrowedFd,
};

use prost::{Message, Name};

use crate::{
    error::{Error, Result},
    frame::{FrameReader, write_entry, write_header},
    magic::Image,
};

mod dir;
mod memory;

pub use dir::DirStore;
pub use memory::MemoryStore;

/// An image being written.
pub trait ImageWriter: Write + Send {
    /// The open file, where there is one, for `splice(2)` and friends. Flush before you write to it.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Writes out what is buffered. An image dropped without this is incomplete.
    ///
    /// # Errors
    /// [`Error::Io`]: whatever the system did not say earlier, such as `ENOSPC`, is said here.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// An image being read.
pub trait ImageReader: Read + Seek + Send {
    /// The open file, where there is one, for `splice(2)`, `preadv(2)` and friends. Its own position is undefined.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;

    /// The image's length in bytes.
    fn len(&self) -> u64;

    /// Whether the image holds nothing at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A place for images, each under its file name.
pub trait Store: Send + Sync + fmt::Debug {
    /// Creates an image; one of the same name is emptied.
    ///
    /// # Errors
    /// [`Error::Io`], with the remedy where there is one.
    fn create(&self, name: &str) -> Result<Box<dyn ImageWriter>>;

    /// Opens an image.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none (see [`Error::is_missing`]), else [`Error::Io`].
    fn open(&self, name: &str) -> Result<Box<dyn ImageReader>>;

    /// Whether there is an image of this name.
    fn exists(&self, name: &str) -> bool;

    /// The names of all files, sorted.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn list(&self) -> Result<Vec<String>>;

    /// Removes an image. One that is not there is no error.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn remove(&self, name: &str) -> Result<()>;

    /// Gives an image another name, in one step; an image of that name is replaced.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`].
    fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Gives the space of parts of an image back, in bytes; they read as zeros then.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`]: the file system may not be able to (`EOPNOTSUPP`).
    fn punch(&self, name: &str, parts: &[Range<u64>]) -> Result<()>;

    /// The images of the checkpoint that this one builds upon, if any.
    ///
    /// # Errors
    /// [`Error::Io`] for a parent that is named but not there.
    fn parent(&self) -> Result<Option<Box<dyn Store>>>;
}

/// What every store can do on top: whole images of one kind of message.
pub trait StoreExt: Store {
    /// Creates an image and writes its header.
    ///
    /// # Errors
    /// As [`Store::create`].
    fn create_image(&self, image: Image, id: u64) -> Result<Box<dyn ImageWriter>> {
        let name = image.file_name(id);
        let mut writer = self.create(&name)?;
        write_header(&mut writer, image).map_err(|source| Error::io(name, "write", source))?;
        Ok(writer)
    }

    /// Opens an image and checks its header.
    ///
    /// # Errors
    /// As [`Store::open`] and [`FrameReader::open`].
    fn open_image(&self, image: Image, id: u64) -> Result<FrameReader<Box<dyn ImageReader>>> {
        let name = image.file_name(id);
        FrameReader::open(self.open(&name)?, image, name)
    }

    /// Writes a whole image without raw bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn write_image<M: Message>(&self, image: Image, id: u64, messages: &[M]) -> Result<()> {
        let mut writer = self.create_image(image, id)?;
        for message in messages {
            write_entry(&mut writer, message)
                .map_err(|source| Error::io(image.file_name(id), "write", source))?;
        }
        writer.finish()
    }

    /// Reads a whole image without raw bytes. Unknown fields are refused.
    ///
    /// # Errors
    /// All of [`Error`].
    fn read_image<M: Message + Name + Default>(&self, image: Image, id: u64) -> Result<Vec<M>> {
        self.open_image(image, id)?.entries().collect()
    }

    /// Reads a whole image that may be missing.
    ///
    /// # Errors
    /// As [`read_image`](Self::read_image), but for [`Error::Missing`].
    fn read_image_opt<M: Message + Name + Default>(&self, image: Image, id: u64) -> Result<Option<Vec<M>>> {
        optional(self.read_image(image, id))
    }

    /// Reads an image of exactly one entry.
    ///
    /// # Errors
    /// As [`read_image`](Self::read_image), and [`Error::NotOne`].
    fn read_one<M: Message + Name + Default>(&self, image: Image, id: u64) -> Result<M> {
        let mut messages = self.read_image(image, id)?;
        match messages.len() {
            1 => Ok(messages.remove(0)),
            found => Err(Error::NotOne { image: image.file_name(id), message: M::NAME, found }),
        }
    }

    /// Reads an image of exactly one entry that may be missing.
    ///
    /// # Errors
    /// As [`read_one`](Self::read_one), but for [`Error::Missing`].
    fn read_one_opt<M: Message + Name + Default>(&self, image: Image, id: u64) -> Result<Option<M>> {
        optional(self.read_one(image, id))
    }

    /// Removes what a failed dump has written. Goes on where one cannot be removed.
    ///
    /// # Errors
    /// The first that occurred.
    fn remove_incomplete<N: AsRef<str>>(&self, names: impl IntoIterator<Item = N>) -> Result<()> {
        names.into_iter().map(|name| self.remove(name.as_ref())).fold(Ok(()), Result::and)
    }
}

impl<S: Store + ?Sized> StoreExt for S {}

fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}
