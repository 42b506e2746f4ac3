//! What can go wrong with terminals.

use nix::errno::Errno;

/// Failure to dump or restore a terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other end belongs to somebody outside of the tree.
    #[error(
        "terminal {path} belongs to a session outside of the tree; use --shell-job (or the line `shell-job` in /etc/criu/default.conf)"
    )]
    ShellJob {
        /// Its path.
        path: String,
    },
    /// A second terminal from outside.
    #[error("terminals {first} and {second} both come from outside of the tree; only one can be taken over")]
    SecondOutside {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// criu-rs has no terminal to give.
    #[error(
        "the tree was dumped on a terminal, and criu-rs has none: run the restore from a terminal, or pass one with --inherit-fd"
    )]
    NoTerminal,
    /// The number of a pty is in use.
    #[error(
        "pty {index} is in use (next free: {got}); close it, or restore in a mount namespace with a devpts of its own"
    )]
    IndexTaken {
        /// The number that is needed.
        index: u32,
        /// What the kernel gave.
        got: u32,
    },
    /// /dev/tty, whose meaning depends on who opens it.
    #[error("terminal {path}: a descriptor of /dev/tty is not supported yet without --shell-job")]
    DevTty {
        /// Its path.
        path: String,
    },
    /// An external terminal that nobody passed.
    #[error("terminal {key} is external: pass it with --inherit-fd fd[N]:{key}")]
    NotInherited {
        /// Its name on the command line.
        key: String,
    },
    /// The images do not fit together.
    #[error("tty-info.img: {0}")]
    Corrupt(String),
    /// A system call failed.
    #[error("terminal {path}: {call}: {errno}")]
    System {
        /// Which terminal.
        path: String,
        /// The call.
        call: &'static str,
        /// The system's word.
        errno: Errno,
    },
}

impl Error {
    pub(crate) fn system(path: &str, call: &'static str) -> impl Fn(Errno) -> Error {
        move |errno| Error::System { path: path.to_owned(), call, errno }
    }
}
