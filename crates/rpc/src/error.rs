//! What ends the service itself.

use nix::errno::Errno;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// Failure of the service, as opposed to one of a request (see [`Failure`](crate::Failure)).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `swrk FD` was given something else than a socket.
    #[error(
        "descriptor {fd} is not a SOCK_SEQPACKET socket ({reason}); `swrk` is started by libcriu and the like"
    )]
    NotASocket {
        /// The descriptor.
        fd: RawFd,
        /// What it is.
        reason: String,
    },
    /// The service cannot listen at its address.
    #[error("--address {}: {reason}", path.display())]
    Address {
        /// The address.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file of the service's own.
    #[error("{option} {}: {source}", path.display())]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Whoever waits for a server to be ready could not be told.
    #[error("status-ready: {source}")]
    Stage {
        /// Its word.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A system call failed.
    #[error("{call}: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// The system's word.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn system(call: &'static str) -> impl Fn(Errno) -> Error {
        move |errno| Error::System { call, source: errno.into() }
    }
}
