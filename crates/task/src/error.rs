//! What can go wrong with the state of a process or thread.

use criu_kernel::ProcError;

/// A failure. The engine puts task and resource in front.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of `/proc` could not be read or understood.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// Something that criu-rs does not carry over.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// An image lacks a part.
    #[error("the image of task {pid} has no {part}")]
    Missing {
        /// The task or thread.
        pid: i32,
        /// A message or field of the core image.
        part: &'static str,
    },
    /// An image holds a value that makes no sense.
    #[error("the image holds a wrong {what}: {value}")]
    Corrupt {
        /// The field.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// The register image of a thread is unusable.
    #[error("the register image has {got} values in {part} where {want} are needed")]
    Registers {
        /// The field.
        part: &'static str,
        /// What is there.
        got: usize,
        /// What should be there.
        want: usize,
    },
    /// A register set that is in use is missing on this processor.
    #[error(
        "the thread uses {feature} registers, which this processor or kernel does not offer; restore on a machine that has them"
    )]
    Processor {
        /// Name of the register set.
        feature: &'static str,
    },
    /// A hard limit above one's own.
    #[error(
        "{name}: the hard limit {want} is above criu-rs's own {have}, and raising it takes CAP_SYS_RESOURCE; \
         run criu-rs with that capability, or raise the limit where it is started (ulimit -H)"
    )]
    HardLimit {
        /// `RLIMIT_NOFILE` and the like.
        name: &'static str,
        /// As recorded.
        want: u64,
        /// criu-rs's own.
        have: u64,
    },
    /// Capabilities that cannot be given.
    #[error(
        "the task had {names}, which criu-rs itself does not have and so cannot give; run criu-rs with them"
    )]
    Capabilities {
        /// Names, separated by commas.
        names: String,
    },
    /// Seccomp filters that cannot be read.
    #[error(
        "the seccomp filters of thread {tid} cannot be read: {errno}; run criu-rs with CAP_SYS_ADMIN and under no \
         filter itself, on a kernel with CONFIG_CHECKPOINT_RESTORE"
    )]
    Seccomp {
        /// The thread.
        tid: i32,
        /// What ptrace(2) said.
        errno: nix::errno::Errno,
    },
    /// A session that cannot be rebuilt.
    #[error(
        "task {pid} belongs to session {sid}, whose leader is outside of the tree: it is a job of a shell; \
         use --shell-job (or the line `shell-job` in /etc/criu/default.conf)"
    )]
    ShellJob {
        /// The task.
        pid: i32,
        /// Its session; 0 when it lies outside of the pid namespace.
        sid: i32,
    },
    /// Parents, sessions and groups that no sequence of calls brings about.
    #[error("task {pid} cannot be rebuilt: {why}")]
    Tree {
        /// The task.
        pid: i32,
        /// What stands in the way.
        why: String,
    },
}

impl Error {
    pub(crate) fn corrupt(what: &'static str, value: impl std::fmt::Display) -> Self {
        Self::Corrupt { what, value: value.to_string() }
    }
}
