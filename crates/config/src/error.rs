//! Everything that can be wrong with a configuration, all of it at once.

use std::fmt;
use std::path::PathBuf;

use crate::layers::Origin;

/// A configuration that cannot be used, with every problem found in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The problems in the order of the layers. Never empty.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// `--config` names a file that is not there, or a file cannot be read.
    #[error("cannot read the configuration file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's word.
        reason: String,
    },
    /// A line that is not in the syntax of configuration files.
    #[error("{origin}: {reason}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What is wrong.
        reason: String,
    },
    /// A key that no option has.
    #[error("{origin}: unknown option «{key}»{}", hint(nearest))]
    UnknownKey {
        /// Where.
        origin: Origin,
        /// The key as written.
        key: String,
        /// The key that may have been meant.
        nearest: Option<String>,
    },
    /// A value that the option does not take.
    #[error("{}: {reason}", origin.place(option))]
    Value {
        /// Where.
        origin: Origin,
        /// The option.
        option: String,
        /// What is wrong.
        reason: String,
    },
    /// An option whose function is not built.
    #[error("{} is not supported yet", origin.place(option))]
    NotSupported {
        /// Where it was set.
        origin: Origin,
        /// The option.
        option: &'static str,
    },
    /// An option that the reference refuses too.
    #[error("{} is no longer accepted; use {instead}", origin.place(option))]
    Removed {
        /// Where it was set.
        origin: Origin,
        /// The option.
        option: &'static str,
        /// What to use.
        instead: &'static str,
    },
    /// An option that means nothing without another.
    #[error("{} works only with {needs}", origin.place(option))]
    Needs {
        /// Where it was set.
        origin: Origin,
        /// The option.
        option: &'static str,
        /// The option that is missing.
        needs: &'static str,
    },
    /// The registry and [`Options`](crate::Options) disagree: a defect of this crate.
    #[error("internal: {0}")]
    Internal(String),
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|key| format!(", did you mean «{key}»?")).unwrap_or_default()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
