//! The dump and restore pipelines.
//!
//! The engine orders resources; it knows none. What there is to dump and restore comes in as
//! [`Resources`], lists of trait objects that the command line puts together.

mod aside;
pub mod dump;
mod error;
pub mod guard;
pub mod hooks;
pub mod pre_dump;
mod regs;
pub mod restore;
mod stages;
mod stats;
mod steps;

pub use dump::dump;
pub use error::Error;
pub use hooks::{Action, Hooks, NoHooks};
pub use pre_dump::pre_dump;
pub use restore::{Restored, restore};
pub use stats::{DumpStats, RestoreStats};

use criu_resource::{Family, Registers, TaskState, ThreadState, TreeState};

/// Everything that can be dumped and restored, in the order in which it is.
#[derive(Clone, Copy)]
pub struct Resources<'a> {
    /// What spans processes: the descriptor table, memory.
    pub tree: &'a [&'a dyn TreeState],
    /// State of a process.
    pub task: &'a [&'a dyn TaskState],
    /// State of a thread.
    pub thread: &'a [&'a dyn ThreadState],
    /// Registers.
    pub registers: &'a dyn Registers,
    /// Sessions and groups.
    pub family: &'a dyn Family,
}

/// Result of the pipelines.
pub type Result<T, E = Error> = std::result::Result<T, E>;
