//! What can go wrong with memory: each case names the task and the address.

use std::io;

/// An area, as people read it in `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The task, in criu-rs's pid namespace on dump, in that of the images on restore.
    pub pid: i32,
    /// First byte.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "area {:#x}-{:#x} of task {}", self.start, self.end, self.pid)
    }
}

/// Memory that cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kind of area that criu-rs does not handle.
    #[error("{place}: not supported: {what}")]
    Unsupported {
        /// Which one.
        place: Place,
        /// What it is.
        what: String,
    },
    /// A system call on a task's memory failed.
    #[error("task {pid}: {call} at {address:#x}: {source}")]
    Call {
        /// The task.
        pid: i32,
        /// The system call.
        call: &'static str,
        /// The address concerned.
        address: u64,
        /// The system's word.
        source: io::Error,
    },
    /// A task's page could not be read although it is there.
    #[error(
        "task {pid}: the page at {address:#x} cannot be read; it may be poisoned or backed by a truncated file"
    )]
    Unreadable {
        /// The task.
        pid: i32,
        /// The first such page.
        address: u64,
    },
    /// Two processes have one address space.
    #[error(
        "processes {pid} and {other} share one address space (clone with CLONE_VM, or vfork before exec): not supported; dump again after the child's exec"
    )]
    CommonMemory {
        /// One of them.
        pid: i32,
        /// The other.
        other: i32,
    },
    /// A shared memory object failed.
    #[error("shared memory {shmid:#x}: {call}: {source}")]
    Shared {
        /// Its id: the inode number at the time of the dump.
        shmid: u64,
        /// The system call.
        call: &'static str,
        /// The system's word.
        source: io::Error,
    },
    /// A System V segment that cannot be dumped or restored.
    #[error("System V shared memory segment {id} (key {key:#x}): {reason}")]
    Segment {
        /// Its id.
        id: i32,
        /// Its key; 0 for none.
        key: u32,
        /// Why not.
        reason: String,
    },
    /// A page server failed, or the way to it.
    #[error("the page server at {server} {reason}")]
    Server {
        /// Where it is.
        server: String,
        /// What it did.
        reason: String,
    },
    /// Writing pages failed.
    #[error("{image}: write: {source}{}", full(.source))]
    Write {
        /// The image.
        image: String,
        /// The system's word.
        source: io::Error,
    },
    /// The images of a task do not fit together.
    #[error("{image}: {reason}")]
    Image {
        /// The image.
        image: String,
        /// What does not fit.
        reason: String,
    },
    /// The vDSO is another one than that of the images.
    #[error(
        "task {pid}: its vDSO cannot be placed: {reason}; restore on the kernel where it was dumped (trampolines into another vDSO are not supported)"
    )]
    Vdso {
        /// The task.
        pid: i32,
        /// What differs.
        reason: String,
    },
    /// No descriptor number is left.
    #[error(
        "descriptor number {number} is beyond the limit of criu-rs itself: {source}; raise it (ulimit -n)"
    )]
    Number {
        /// The number.
        number: i32,
        /// The system's word.
        source: io::Error,
    },
}

fn full(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "; make room, or give another --images-dir",
        _ => "",
    }
}

impl Error {
    pub(crate) fn image(image: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Image { image: image.into(), reason: reason.into() }
    }
}
