//! Terminals: ptys, consoles, termios, sessions and job control.
//!
//! | module | what |
//! |---|---|
//! | [`termios`] | settings of one terminal: line modes, locks, window size |
//! | [`pty`] | a pty pair: its number, lock, packet mode, slave |
//! | [`ctty`] | `/dev/tty` of a session that does not exist yet |
//! | [`session`] | which terminal controls which session, foreground groups |
//! | [`device`] | device numbers, names for `--external` and `--inherit-fd`, ids in the images |
//!
//! The first three work alone: see `examples/settings.rs`. [`Terminals`] is the kind of file and the part
//! of the tree that the pipelines know; the part comes before the descriptor table in their list.

#![deny(clippy::undocumented_unsafe_blocks)]

pub mod ctty;
pub mod device;
mod dump;
mod error;
mod kind;
mod orphan;
mod own;
mod plan;
pub mod pty;
mod queue;
pub mod session;
mod sys;
pub mod termios;

pub use error::TtyError;
pub use kind::Terminals;
pub use orphan::OrphanMaster;
pub use pty::Pty;
pub use termios::{Settings, Termios, TermiosError, TermiosLock, WindowSize};

pub(crate) use kind::Shared;
