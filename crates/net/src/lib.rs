//! Sockets of a process tree, and the lock that keeps their peers silent while the tree is away.
//!
//! | module | what |
//! |---|---|
//! | [`tcp`] | a TCP connection as data: out of one socket, into another; usable alone |
//! | [`lock`] | the network lock: nftables by netlink, or iptables |
//! | [`INET`] | TCP, UDP, ping and raw sockets over IPv4 and IPv6 |
//! | [`UNIX`] | unix sockets |
//! | [`NETLINK`] | netlink sockets |
//! | [`PACKET`] | packet sockets |
//!
//! [`KINDS`] lists all kinds of open files that this crate provides.
#![deny(clippy::undocumented_unsafe_blocks)]

mod address;
mod error;
mod inet;
pub mod lock;
mod lone;
mod netlink;
mod options;
mod packet;
mod rescue;
mod sys;
pub mod tcp;
mod tree;
mod unix;

pub use error::{Error, Result};
pub use inet::Inet;
pub use netlink::Netlink;
pub use packet::Packet;
pub use rescue::rescue;
pub use unix::Unix;

use criu_resource::FileKind;

/// Internet sockets.
pub static INET: Inet = Inet;

/// Unix sockets.
pub static UNIX: Unix = Unix;

/// Netlink sockets.
pub static NETLINK: Netlink = Netlink;

/// Packet sockets.
pub static PACKET: Packet = Packet;

/// All kinds of this crate.
pub static KINDS: &[&dyn FileKind] = &[&INET, &UNIX, &NETLINK, &PACKET];
