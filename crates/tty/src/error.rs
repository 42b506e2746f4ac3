//! What can go wrong with terminals.

use nix::errno::Errno;

/// A terminal that cannot be dumped or restored. The descriptor table names task and descriptor in front.
#[derive(Debug, thiserror::Error)]
pub enum TtyError {
    /// A system call failed.
    #[error("{terminal}: {call}: {errno}")]
    Call {
        /// Which terminal.
        terminal: String,
        /// Which call.
        call: &'static str,
        /// Why.
        errno: Errno,
    },
    /// The terminal of a session whose leader is not dumped.
    #[error(
        "terminal {terminal} belongs to session {sid}, whose leader lies outside of the tree; use --shell-job \
         (or the line `shell-job` in /etc/criu/default.conf)"
    )]
    ShellJob {
        /// Which terminal.
        terminal: String,
        /// The session.
        sid: i32,
    },
    /// The other end of a pty is not dumped.
    #[error(
        "the master of terminal {terminal} lies outside of the tree; use --shell-job (or the line `shell-job` in \
         /etc/criu/default.conf), or --external {key}"
    )]
    Unpaired {
        /// Which terminal.
        terminal: String,
        /// How options name it.
        key: String,
    },
    /// Two terminals from outside, of which only one could be replaced by that of criu-rs.
    #[error(
        "terminals {first} and {second} both have their masters outside of the tree, and restore can replace only \
         one; use --external {key} for the other"
    )]
    Several {
        /// The first one found.
        first: String,
        /// The other one.
        second: String,
        /// How options name it.
        key: String,
    },
    /// A session leader's terminal that nobody in the tree has open.
    #[error(
        "the controlling terminal {terminal} of pid {pid} is open nowhere in the tree; start the task with setsid, \
         or use --shell-job to drop the terminal"
    )]
    Unheld {
        /// Which terminal.
        terminal: String,
        /// The session leader.
        pid: i32,
    },
    /// `/dev/tty` outlived the tie between session and terminal.
    #[error(
        "/dev/tty stands for {terminal}, which is no controlling terminal of the tree; close it before the dump"
    )]
    Stray {
        /// Which terminal.
        terminal: String,
    },
    /// A pty number that has no place in the images.
    #[error("pty number {index} is beyond {most}, the largest that the image format has room for")]
    Index {
        /// The number.
        index: u32,
        /// The largest.
        most: u32,
    },
    /// More terminals than the image format has ids for.
    #[error("too many terminals outside of /dev/pts, or equal pty numbers of several devpts mounts")]
    Ids,
    /// The number of a pty is in use.
    #[error(
        "{ptmx}: pty number {index} is taken by another terminal; close that one, or restore in a mount namespace \
         with a devpts of its own"
    )]
    Taken {
        /// The file that makes ptys.
        ptmx: String,
        /// The number.
        index: u32,
    },
    /// Nothing to take the place of the terminal of a shell job.
    #[error(
        "the tree is the job of a shell, but criu-rs has no terminal for it: neither is its standard input one, nor \
         has it a controlling terminal; start it from a terminal"
    )]
    NoTerminal,
    /// A terminal that the caller has to provide.
    #[error("terminal {key} is provided from outside; use --inherit-fd fd[N]:{key}")]
    External {
        /// How options name it.
        key: String,
    },
    /// The images contradict themselves.
    #[error("tty-info.img: {0}")]
    Image(String),
    /// A session that is nowhere in the images.
    #[error("tty-info.img: no task leads session {sid} of terminal {terminal}; use --shell-job")]
    NoLeader {
        /// Which terminal.
        terminal: String,
        /// The session.
        sid: u32,
    },
}

impl TtyError {
    /// For `map_err` on a system call.
    pub(crate) fn call(terminal: impl Into<String>, call: &'static str) -> impl FnOnce(Errno) -> TtyError {
        let terminal = terminal.into();
        move |errno| TtyError::Call { terminal, call, errno }
    }
}
