//! Seize a process, run scripts inside it, and let it go as it was.
//!
//! The states are types, and each transition consumes the one before:
//! [`Seized`] (all threads stand still) → [`Infected`] (the script machine is mapped) → [`Seized`] again
//! by [`Infected::cure`] → running, by [`Seized::release`] or by dropping it.
//!
//! Nothing in the target depends on its tracer living. A thread that runs a script has a complete way
//! back laid out in its own memory, and takes it when the kernel tells it that the host died (see
//! [`criu_script::wire::Shared::lifeline`]). Registers are wrong for a moment only while a single `mmap`
//! and a single `munmap` are issued on the target's behalf: two windows of some ten microseconds each.
//!
//! [`launch`] starts the same machine in a new process, for restore.

pub mod area;
mod blob;
mod copy;
mod error;
mod frame;
mod infected;
pub mod launch;
mod remote;
mod seized;

pub use area::{Area, ThreadSlot};
pub use copy::MemoryCopy;
pub use error::Error;
pub use infected::Infected;
pub use remote::find_syscall;
pub use seized::{Seized, Thread, Verdict};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
