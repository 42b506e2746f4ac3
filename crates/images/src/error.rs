//! What can go wrong with an image: each case names the file, the place and what was expected.

use std::io;

use crate::unknown::UnknownField;

/// The result of everything that reads or writes images.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An image that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image of that name is in the store.
    #[error("{image}: no such image in {place}")]
    Missing {
        /// File name of the image.
        image: String,
        /// The store that was searched.
        place: String,
    },
    /// The file ends in the middle of something.
    #[error(
        "{image}: truncated at byte {offset}: {expected} expected; the checkpoint is incomplete, dump again"
    )]
    Truncated {
        /// File name of the image.
        image: String,
        /// Where in the file the missing thing begins, in bytes.
        offset: u64,
        /// What should be there.
        expected: String,
    },
    /// The file does not begin as an image of its kind does.
    #[error(
        "{image}: magic {found:#010x} at byte {offset}, {expected:#010x} ({kind}) expected: not an image of this kind"
    )]
    BadMagic {
        /// File name of the image.
        image: String,
        /// Where the wrong word lies, in bytes.
        offset: u64,
        /// The word found.
        found: u32,
        /// The word that belongs there.
        expected: u32,
        /// The kind of image asked for.
        kind: &'static str,
    },
    /// The bytes are there but make no sense.
    #[error("{image}: corrupt at byte {offset}: {message}: {reason}")]
    Corrupt {
        /// File name of the image.
        image: String,
        /// Where in the file the entry begins, in bytes.
        offset: u64,
        /// The message that was expected.
        message: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The checkpoint was made by another version of the format.
    #[error(
        "{image}: image format version {found} is not supported, only {supported} are; restore with the tool that dumped"
    )]
    Version {
        /// File name of the image.
        image: String,
        /// The version found.
        found: u32,
        /// The versions that can be read.
        supported: &'static str,
    },
    /// The images hold fields that this version would lose.
    #[error("{image}: unknown fields, written by a newer tool: {}; restore with that tool", list(.fields))]
    UnknownFields {
        /// File name of the image.
        image: String,
        /// The fields, each once.
        fields: Vec<UnknownField>,
    },
    /// The image must hold exactly one entry.
    #[error("{image}: {found} entries, exactly one {message} expected")]
    NotOne {
        /// File name of the image.
        image: String,
        /// The message expected.
        message: &'static str,
        /// The number of entries found.
        found: usize,
    },
    /// Entries of this kind are not made by this call.
    #[error("{image}: {reason}")]
    Misuse {
        /// File name of the image.
        image: String,
        /// What does not fit.
        reason: String,
    },
    /// The JSON form of an image is wrong.
    #[error("{path}: {reason}")]
    Json {
        /// Where in the document, such as `entries[3].regs.ip`.
        path: String,
        /// What is wrong there.
        reason: String,
    },
    /// The operating system refused.
    #[error("{image}: {op}: {source}{}", remedy(.source))]
    Io {
        /// File name of the image, or the directory.
        image: String,
        /// What was tried.
        op: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl Error {
    /// Wraps a system error with the image and the operation.
    pub fn io(image: impl Into<String>, op: &'static str, source: impl Into<io::Error>) -> Self {
        Error::Io { image: image.into(), op, source: source.into() }
    }

    /// Whether the image is simply not there, which optional images may be.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Missing { .. })
    }

    /// The file name of the image concerned; for [`Error::Json`] the place in the document.
    pub fn image(&self) -> &str {
        match self {
            Error::Missing { image, .. }
            | Error::Truncated { image, .. }
            | Error::BadMagic { image, .. }
            | Error::Corrupt { image, .. }
            | Error::Version { image, .. }
            | Error::UnknownFields { image, .. }
            | Error::NotOne { image, .. }
            | Error::Misuse { image, .. }
            | Error::Io { image, .. } => image,
            Error::Json { path, .. } => path,
        }
    }
}

fn list(fields: &[UnknownField]) -> String {
    let names: Vec<String> = fields.iter().map(ToString::to_string).collect();
    names.join(", ")
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space or choose another --images-dir"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a writable --images-dir"
        }
        _ => "",
    }
}
