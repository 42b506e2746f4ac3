//! State of processes and threads that is neither memory nor descriptors: the tree they form, registers,
//! signals, timers, credentials, limits, scheduling.
//!
//! Every kind stands in a file of its own and comes in two forms. Plain functions add steps to a script and
//! read their results: another tool runs them in any process it can run scripts in, itself included (see
//! `examples/snapshot.rs`). On top of them, units such as [`timers::Timers`] implement the traits of
//! `criu-resource`; [`TASK_STATES`] and [`THREAD_STATES`] list these in the order they depend on.

#![deny(clippy::undocumented_unsafe_blocks)]

use criu_resource::{TaskState, ThreadState};

pub mod arch;
pub mod creds;
pub mod error;
pub mod here;
pub mod ioprio;
pub mod limits;
pub mod lsm;
pub mod process;
pub mod regs;
mod restorer;
pub mod rseq;
pub mod sched;
pub mod seccomp;
pub mod sigaltstack;
pub mod signals;
mod steps;
pub mod thread;
pub mod timers;
pub mod tree;

pub use error::Error;

/// State of a process. Within each stage the steps of earlier ones come first; in `Stage::Last` credentials
/// close the list, since they take rights away.
pub static TASK_STATES: &[&dyn TaskState] = &[
    &process::Process,
    &tree::Groups,
    &signals::Signals,
    &timers::Timers,
    &limits::Limits,
    &creds::Credentials,
];

/// State of a thread. Credentials come after what takes rights, and the signal of a parent's death, which
/// they would switch off, after them.
pub static THREAD_STATES: &[&dyn ThreadState] = &[
    &thread::Name,
    &thread::Personality,
    &thread::ThreadEnd,
    &thread::ShadowStack,
    &thread::Segments,
    &sigaltstack::SignalStack,
    &sched::Scheduling,
    &ioprio::IoPriority,
    &thread::TimerSlack,
    &rseq::Rseq,
    &creds::Credentials,
    &signals::ThreadSignals,
    &thread::ParentDeathSignal,
];
