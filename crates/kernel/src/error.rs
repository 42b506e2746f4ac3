//! The error of everything that reads `/proc`.

use std::io;
use std::path::PathBuf;

/// A `/proc` file that could not be read, or that says something unexpected.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// The kernel refused access; `ENOENT` and `ESRCH` mean that the task is gone.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "open", "read", "list", …
        action: &'static str,
        /// The file, for people (`/proc/PID/…`).
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The text does not have the form that proc(5) promises.
    #[error("{file}: no valid {field} in {text:?}")]
    Parse {
        /// Kind of file, for example `stat`.
        file: &'static str,
        /// The field that is missing or malformed.
        field: &'static str,
        /// The offending line or word.
        text: String,
    },
    /// Reading from the given reader failed half-way.
    #[error("cannot read {file}: {source}")]
    Read {
        /// Kind of file, for example `smaps`.
        file: &'static str,
        /// The system's word.
        source: io::Error,
    },
}

/// Result of a `/proc` reader.
pub type ProcResult<T> = Result<T, ProcError>;

impl ProcError {
    /// Whether the task (or thread) has gone meanwhile.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Read { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
            }
            Self::Parse { .. } => false,
        }
    }

    pub(crate) fn parse(file: &'static str, field: &'static str, text: &str) -> Self {
        Self::Parse { file, field, text: text.trim_end().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gone_is_recognised() {
        let error = ProcError::Io {
            action: "open",
            path: "/proc/7/stat".into(),
            source: io::Error::from_raw_os_error(libc::ESRCH),
        };
        assert!(error.is_gone());
        assert!(error.to_string().starts_with("cannot open /proc/7/stat: No such process"));
        assert!(!ProcError::parse("stat", "pid", "x").is_gone());
    }
}
