//! TCP connections, taken out of their sockets and put into new ones (`TCP_REPAIR`, tcp(7)).
//!
//! Usable alone: [`Connection`] implements the `Dump` trait over a borrowed descriptor, and
//! [`Connection::build`] makes a socket of it, here or in another process.
//! `examples/hand_over.rs` shows both.
//!
//! Repair mode is a state of the *target's* socket: one that stays in it neither sends nor receives. So
//! it is on only while one socket is read, a guard ends it, and only [`Connection::abandon`], called when
//! the images are complete and the holders are about to be killed, leaves it on.

mod build;
mod dump;
mod segment;
mod state;

pub use build::Rebuilt;
pub use dump::Connection;
pub use state::State;
