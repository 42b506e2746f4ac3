//! What ends a dump or a restore.

use criu_resource::BoxError;
use std::io;

/// Failure of a dump or a restore. The text names the task, the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A resource could not be dumped or restored.
    #[error("{resource}: {source}")]
    Resource {
        /// Its name.
        resource: &'static str,
        /// Its own word, which names task and remedy.
        source: BoxError,
    },
    /// A resource of one task could not be dumped or restored.
    #[error("{resource}: pid {pid}: {source}")]
    TaskResource {
        /// Its name.
        resource: &'static str,
        /// The task.
        pid: i32,
        /// Its own word.
        source: BoxError,
    },
    /// A target could not be seized, infected or let go.
    #[error("parasite: {0}")]
    Parasite(#[from] criu_parasite::Error),
    /// An image could not be written or read.
    #[error("images: {0}")]
    Images(#[from] criu_images::Error),
    /// /proc could not be read.
    #[error(transparent)]
    Proc(#[from] criu_kernel::ProcError),
    /// A step of a script failed inside of a task.
    #[error("{what}: pid {pid}: {call}: {errno}")]
    Step {
        /// The resource that asked for the step.
        what: &'static str,
        /// The task.
        pid: i32,
        /// The call with its arguments.
        call: String,
        /// The system's word, or an unexpected result.
        errno: String,
    },
    /// A namespace other than criu-rs's own.
    #[error("pid {pid} lives in a {kind} namespace of its own, which is not supported yet")]
    Namespace {
        /// The task.
        pid: i32,
        /// `pid`, `net`, `mnt`…
        kind: &'static str,
    },
    /// A pid that a restored task needs is in use.
    #[error(
        "pid {pid} is needed for the restore but taken by {holder}; end that process or restore in a new pid namespace"
    )]
    PidTaken {
        /// The pid.
        pid: i32,
        /// Who has it.
        holder: String,
    },
    /// A pid is in use although no process has it: the kernel gives it free a moment after its last one.
    #[error("pid {pid} is needed for the restore but not free yet; try again")]
    PidLingers {
        /// The pid.
        pid: i32,
    },
    /// The image directory holds no complete dump.
    #[error("images: no inventory.img: the dump did not complete, or --images-dir names another directory")]
    Incomplete,
    /// The image directory is that of a pre-dump.
    #[error(
        "images: these are of a pre-dump, which holds memory alone; restore from the dump that has them as its parent"
    )]
    MemoryOnly,
    /// The images do not fit together.
    #[error("images: {0}")]
    Inconsistent(String),
    /// A restored task ended before it was complete.
    #[error("restore: pid {pid} was killed before it was complete ({how})")]
    Died {
        /// The task.
        pid: i32,
        /// What is known of its end.
        how: String,
    },
    /// A task takes too long to stop.
    #[error(
        "pid {pid} did not stop within {seconds} s: it is in a system call that nothing interrupts, vfork say, or one that waits for a file server; dump again later, or raise --timeout"
    )]
    Restless {
        /// The process or thread.
        pid: i32,
        /// How long it was.
        seconds: u64,
    },
    /// The scripts stand still.
    #[error(
        "restore: no task has got further for {seconds} s (waiting for {missing} of {total} threads); raise --timeout"
    )]
    Timeout {
        /// How long it was.
        seconds: u64,
        /// Threads not done.
        missing: u32,
        /// Threads in all.
        total: u32,
    },
    /// The user or a signal wants it to stop.
    #[error("interrupted; all is as before")]
    Cancelled,
    /// A hook (action script, RPC client) failed.
    #[error("{action}: {source}")]
    Hook {
        /// The stage.
        action: &'static str,
        /// Its word.
        source: BoxError,
    },
    /// A system call of criu-rs itself failed.
    #[error("{call}: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// The system's word.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn system(call: &'static str) -> impl Fn(nix::errno::Errno) -> Error {
        move |errno| Error::System { call, source: errno.into() }
    }

    pub(crate) fn resource(resource: &'static str) -> impl Fn(BoxError) -> Error {
        move |source| Error::Resource { resource, source }
    }

    pub(crate) fn of_task(resource: &'static str, pid: i32) -> impl Fn(BoxError) -> Error {
        move |source| Error::TaskResource { resource, pid, source }
    }
}
