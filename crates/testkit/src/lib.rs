//! Fixture processes and the harness of the live tests.
//!
//! A **fixture** (see [`fixtures`]) is a small program that brings one kind of process state about, says that it
//! is ready, and waits. Then it is dumped and restored, and told to compare what it has with what it had.
//! All fixtures are in one binary, `criu-fixture`; `criu-fixture list` shows them.
//!
//! The **harness** is [`Live`]. It runs in a [`Sandbox`]: process, mount and network namespaces of its own, so that
//! every pid is free, children are reaped at once, and nothing is left behind whatever happens.
//!
//! ```no_run
//! use criu_testkit::Live;
//!
//! Live::of("pipes").survives(); // panics with the logs when it does not
//! ```
//!
//! The binary under test is `criu-rs` of this workspace, or the one that the variable `LIVE_CRIU` names.

pub mod fixtures;
pub mod inside;
mod live;
mod paths;
mod sandbox;
mod stage;
mod sys;
mod target;

pub use live::Live;
pub use paths::{criu, fixture};
pub use sandbox::{Outcome, Running, Sandbox};
pub use stage::Stage;
pub use target::{Criu, Target};
