//! What can go wrong with sockets. The remedy, where there is one, is part of the text.

use std::net::SocketAddr;

use nix::errno::Errno;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

const IN_CONFIG: &str = "in /etc/criu/default.conf";

/// Why a socket or the network lock failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{call}: {errno}")]
    Call {
        /// The call and what it was about.
        call: String,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// An error, with the socket it is about.
    #[error("{socket}: {source}")]
    Socket {
        /// The socket in a few words.
        socket: String,
        /// What happened.
        source: Box<Error>,
    },
    /// Dump of a connection that was not asked for.
    #[error(
        "established TCP connection {local} -> {remote}; use --tcp-established (or the line `tcp-established` {IN_CONFIG}), or --tcp-close to drop it"
    )]
    Established {
        /// Own address.
        local: SocketAddr,
        /// Peer.
        remote: SocketAddr,
    },
    /// Restore of a connection that was not asked for.
    #[error(
        "the images hold an established TCP connection {local} -> {remote}; use --tcp-established (or the line `tcp-established` {IN_CONFIG}), or --tcp-close to drop it"
    )]
    EstablishedImage {
        /// Own address.
        local: SocketAddr,
        /// Peer.
        remote: SocketAddr,
    },
    /// Connections wait to be accepted.
    #[error("{count} TCP connections wait to be accepted at {local}; use --skip-in-flight to drop them")]
    InFlight {
        /// The listening address.
        local: SocketAddr,
        /// How many.
        count: u32,
    },
    /// The address cannot be bound.
    #[error("cannot bind {local}: {errno}{}", bind_hint(*errno))]
    Bind {
        /// The address.
        local: SocketAddr,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The socket lives elsewhere.
    #[error("belongs to another network namespace: not supported")]
    OtherNamespace,
    /// A kernel object that cannot be dumped or restored.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The queue's length and its contents differ.
    #[error(
        "the {queue} queue holds {found} bytes where {expected} were announced; urgent data is not supported"
    )]
    Queue {
        /// Which one.
        queue: &'static str,
        /// Bytes announced.
        expected: usize,
        /// Bytes read.
        found: usize,
    },
    /// The images contradict themselves.
    #[error("corrupt image: {0}")]
    Corrupt(String),
    /// An image cannot be read.
    #[error(transparent)]
    Image(#[from] criu_images::Error),
    /// The kernel has no nftables.
    #[error("this kernel has no nftables ({0}); use --network-lock iptables, or skip")]
    NoNftables(#[source] Errno),
    /// A tool of the firewall failed.
    #[error("{command} failed: {reason}; use --network-lock nftables")]
    Tool {
        /// The command.
        command: String,
        /// What it said.
        reason: String,
    },
    /// The peer is not part of the dump.
    #[error("unix socket {socket}: its peer {peer} lies outside of the dumped tree; use --ext-unix-sk")]
    ExternalPeer {
        /// Inode and name.
        socket: String,
        /// Inode and name of the peer.
        peer: String,
    },
}

fn bind_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EADDRNOTAVAIL => "; give the address to an interface of this machine first",
        Errno::EADDRINUSE => "; end the program that uses it (see `ss -tulpn`)",
        _ => "",
    }
}

/// Names the system call in its error.
pub(crate) trait Called<T> {
    fn called(self, call: impl Into<String>) -> Result<T>;
}

impl<T> Called<T> for nix::Result<T> {
    fn called(self, call: impl Into<String>) -> Result<T> {
        self.map_err(|errno| Error::Call { call: call.into(), errno })
    }
}

/// Names the socket in an error.
pub(crate) trait About<T> {
    fn about(self, socket: impl FnOnce() -> String) -> Result<T>;
}

impl<T> About<T> for Result<T> {
    fn about(self, socket: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Socket { socket: socket(), source: Box::new(source) })
    }
}
