//! The traits that tie kernel resources to the dump and restore pipelines, and the data that they share.
//!
//! This crate issues no system call and knows no resource. It says three things:
//!
//! - what a **frozen task** looks like to whoever dumps a part of it ([`frozen`]),
//! - what a **task to be built** looks like to whoever restores a part of it ([`built`]),
//! - which traits a resource implements:
//!   [`Dump`] and [`Restore`] for one object alone, usable without any of the rest;
//!   [`FileKind`] for one kind of open file;
//!   [`TaskState`] and [`ThreadState`] for state of one process or thread;
//!   [`TreeState`] for what spans processes (memory, the descriptor tables).
#![forbid(unsafe_code)]

pub mod built;
pub mod file;
pub mod frozen;
pub mod options;
pub mod state;

pub use built::{BuiltTask, BuiltTree, Numbers, Place, RestoreContext, Stage};
pub use file::{Descriptor, FileDump, FileKind, FileRestore, Slot};
pub use frozen::{
    DumpContext, Fate, FrozenTask, FrozenThread, FrozenTree, Life, OWN_IPC_NAMESPACE, TaskImages,
};
pub use options::{NetworkLock, Options};
pub use state::{
    Ahead, Answer, Births, Copy, Family, Helper, Registers, TaskState, ThreadAnswer, ThreadRegisters,
    ThreadState,
};
pub use state::{BulkData, Copies, Portion, TreeDump, TreeRestore, TreeState};

/// What a resource reports when it fails. The engine adds resource, task and descriptor in front; the
/// text says what happened, with the system call and its error, and the remedy where there is one.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Turns a live object into data.
///
/// ```ignore
/// let entry = Eventfd::dump(&descriptor)?;
/// ```
pub trait Dump {
    /// What is looked at: a borrowed descriptor with its fdinfo, a frozen task, a namespace.
    type Source<'a>;
    /// The image message.
    type Entry;
    /// What can go wrong.
    type Error: std::error::Error;

    /// Reads the object's state. Changes nothing, opens no image.
    fn dump(source: Self::Source<'_>) -> Result<Self::Entry, Self::Error>;
}

/// Turns data back into a live object.
pub trait Restore {
    /// The image message.
    type Entry;
    /// What else is needed: bulk data, peers, directories. `()` for most.
    type Context<'a>;
    /// An `OwnedFd`, or script steps for state that only the task itself can set.
    type Object;
    /// What can go wrong.
    type Error: std::error::Error;

    /// Builds the object.
    fn restore(entry: &Self::Entry, context: Self::Context<'_>) -> Result<Self::Object, Self::Error>;
}
