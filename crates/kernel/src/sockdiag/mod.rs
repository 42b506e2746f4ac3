//! All sockets of a network namespace in one pass: sock_diag(7), `NETLINK_SOCK_DIAG`, Linux 3.3.
//!
//! `/proc/PID/fd` names a socket by its inode only; the tables here are keyed by it.

mod inet;
mod netlink;
mod packet;
mod unix;
mod wire;

pub use inet::{InetSocket, Protocol};
pub use netlink::NetlinkSocket;
pub use packet::{PacketMember, PacketRing, PacketSocket};
pub use unix::UnixSocket;
pub use wire::MemInfo;

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::Result;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::plain::{self, Plain};
use wire::{Header, Message, Messages};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// A socket that asks; it sees the network namespace in which it was opened.
#[derive(Debug)]
pub struct SockDiag {
    socket: OwnedFd,
}

impl From<OwnedFd> for SockDiag {
    /// A `NETLINK_SOCK_DIAG` socket made elsewhere, for example in another network namespace.
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

/// Every socket of a network namespace, keyed by inode.
#[derive(Clone, Debug, Default)]
pub struct SocketTable {
    /// TCP, UDP, UDP-Lite and raw sockets.
    pub inet: HashMap<u64, InetSocket>,
    /// Unix sockets.
    pub unix: HashMap<u64, UnixSocket>,
    /// Packet sockets.
    pub packet: HashMap<u64, PacketSocket>,
    /// Netlink sockets, also those of criu-rs itself.
    pub netlink: HashMap<u64, NetlinkSocket>,
}

impl SockDiag {
    /// Opens one in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        Ok(Self { socket })
    }

    /// All sockets of all kinds. Kinds that the kernel was built without are left out.
    pub fn all(&self) -> Result<SocketTable> {
        let mut table = SocketTable::default();
        for family in [libc::AF_INET, libc::AF_INET6] {
            for protocol in Protocol::ALL {
                let sockets = known(self.inet(family, protocol))?;
                table.inet.extend(sockets.into_iter().map(|s| (s.inode, s)));
            }
        }
        table.unix.extend(known(self.unix())?.into_iter().map(|s| (s.inode, s)));
        table.packet.extend(known(self.packet())?.into_iter().map(|s| (s.inode, s)));
        table.netlink.extend(known(self.netlink())?.into_iter().map(|s| (s.inode, s)));
        Ok(table)
    }

    /// Internet sockets of one family (`AF_INET`, `AF_INET6`) and protocol, in all states.
    ///
    /// `ENOENT` where the kernel has no handler for them. Sockets that belong to no descriptor
    /// (`TIME_WAIT`, half-open) are left out, as they have no inode.
    pub fn inet(&self, family: i32, protocol: Protocol) -> Result<Vec<InetSocket>> {
        let request = inet::request(family, protocol);
        self.dump(&request, |message| inet::parse(message, protocol))
    }

    /// Unix sockets.
    pub fn unix(&self) -> Result<Vec<UnixSocket>> {
        self.dump(&unix::REQUEST, unix::parse)
    }

    /// Packet sockets.
    pub fn packet(&self) -> Result<Vec<PacketSocket>> {
        self.dump(&packet::REQUEST, packet::parse)
    }

    /// Netlink sockets.
    pub fn netlink(&self) -> Result<Vec<NetlinkSocket>> {
        self.dump(&netlink::REQUEST, netlink::parse)
    }

    fn dump<R: Plain, T>(&self, request: &R, parse: impl Fn(&Message<'_>) -> Option<T>) -> Result<Vec<T>> {
        let header = Header {
            len: (size_of::<Header>() + size_of::<R>()) as u32,
            kind: SOCK_DIAG_BY_FAMILY,
            flags: (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16,
            sequence: 1,
            port: 0,
        };
        let bytes = [plain::as_bytes(&header), plain::as_bytes(request)].concat();
        let fd = self.socket.as_raw_fd();
        sendto(fd, &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;

        let mut found = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = match recv(fd, &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                answer => answer?,
            };
            for (kind, payload) in Messages::new(&buffer[..n]) {
                match kind {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => return Err(wire::error(payload)),
                    SOCK_DIAG_BY_FAMILY => found.extend(parse(&Message(payload))),
                    _ => {}
                }
            }
        }
    }
}

/// An empty list where the kernel has no handler for this kind.
fn known<T>(sockets: Result<Vec<T>>) -> Result<Vec<T>> {
    match sockets {
        Err(Errno::ENOENT) => Ok(Vec::new()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
