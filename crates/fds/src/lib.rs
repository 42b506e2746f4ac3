//! Open files of all kinds but sockets and terminals, and the descriptor tables that hold them.
//!
//! [`Table`] is the whole: the tables of a frozen tree, dumped and put back. Each kind of file is a
//! [`FileKind`](criu_resource::FileKind) that the command line lists for it, and most kinds can be used
//! without it, on one's own descriptors:
//!
//! ```
//! use criu_fds::{Eventfd, Observed};
//! use criu_resource::{Dump, Restore};
//! use std::os::fd::AsFd;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let event = nix::sys::eventfd::EventFd::from_value(5)?;
//! let seen = Observed::own(event.as_fd())?;
//! let entry = Eventfd::dump(&seen.view(event.as_fd(), 1))?;
//! let again = Eventfd::restore(&entry, ())?;
//! # drop(again);
//! # Ok(())
//! # }
//! ```
#![deny(clippy::undocumented_unsafe_blocks)]

pub mod alone;
pub mod bpfmap;
pub mod epoll;
pub mod eventfd;
pub mod fanotify;
pub mod fifo;
pub mod files;
mod fown;
pub mod inotify;
mod late;
pub mod locks;
pub mod memfd;
pub mod named;
pub mod nsfile;
pub mod observed;
pub mod pidfd;
pub mod pipe;
pub mod pipe_data;
pub mod regular;
mod seats;
pub mod signalfd;
mod sys;
pub mod table;
#[cfg(test)]
mod testing;
pub mod timerfd;
pub mod watch;

pub use alone::Kind;
pub use bpfmap::Bpfmap;
pub use epoll::Eventpoll;
pub use eventfd::Eventfd;
pub use fanotify::Fanotify;
pub use fifo::Fifo;
pub use files::Files;
pub use inotify::Inotify;
pub use memfd::Memfd;
pub use nsfile::Nsfile;
pub use observed::Observed;
pub use pidfd::Pidfd;
pub use pipe::Pipe;
pub use pipe_data::PipeContents;
pub use regular::Regular;
pub use seats::SeatError;
pub use signalfd::Signalfd;
pub use sys::make_room;
pub use table::{Table, TableError};
pub use timerfd::Timerfd;
