//! What can go wrong with descriptor tables.

use criu_resource::BoxError;
use nix::errno::Errno;
use std::path::PathBuf;

/// A table that cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// No kind knows what a descriptor is.
    #[error("pid {pid} {}: {} is not supported yet; close it before the dump", at(*number), link.display())]
    Unsupported {
        /// The task.
        pid: i32,
        /// The descriptor.
        number: i32,
        /// What procfs calls it.
        link: PathBuf,
    },
    /// A kind failed with a description.
    #[error("pid {pid} {} ({}): {kind}: {source}", at(*number), link.display())]
    Kind {
        /// The task.
        pid: i32,
        /// The descriptor.
        number: i32,
        /// What procfs calls it.
        link: PathBuf,
        /// The kind.
        kind: &'static str,
        /// What it said.
        source: BoxError,
    },
    /// A descriptor could not be looked at.
    #[error("pid {pid} {}: {source}", at(*number))]
    Observe {
        /// The task.
        pid: i32,
        /// The descriptor.
        number: i32,
        /// What failed.
        source: BoxError,
    },
    /// A system call about a task failed.
    #[error("pid {pid}: {call}: {errno}")]
    Task {
        /// The task.
        pid: i32,
        /// Which call.
        call: &'static str,
        /// Why.
        errno: Errno,
    },
    /// Two processes share one table that neither got from the other.
    #[error(
        "pid {pid} and pid {other} share one descriptor table (CLONE_FILES) but are not parent and child, which is \
         not supported yet"
    )]
    SharedTable {
        /// One of them.
        pid: i32,
        /// The other.
        other: i32,
    },
    /// A description of the images cannot be restored.
    #[error("file {id:#x} ({} of pid {pid}): {kind}: {source}", at(*number))]
    Restore {
        /// Its id in `files.img`.
        id: u32,
        /// A task that has it.
        pid: u32,
        /// Where.
        number: i32,
        /// Its kind.
        kind: &'static str,
        /// What is wrong.
        source: BoxError,
    },
    /// The images contradict each other.
    #[error("{0}")]
    Inconsistent(String),
    /// The type of an entry is not known.
    #[error("file {id:#x} ({} of pid {pid}) is of type {kind}, which is not supported yet", at(*number))]
    UnknownType {
        /// Its id in `files.img`.
        id: u32,
        /// A task that has it.
        pid: u32,
        /// Where.
        number: i32,
        /// The type.
        kind: String,
    },
}

/// Where a description was met: a descriptor, or a queue.
fn at(number: i32) -> String {
    match number {
        0.. => format!("fd {number}"),
        _ => "in flight to a socket".to_owned(),
    }
}
