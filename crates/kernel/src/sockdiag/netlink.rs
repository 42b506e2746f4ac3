//! Netlink sockets.

use super::wire::{MemInfo, Message, words};
use crate::plain::{self, Plain};

/// One netlink socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetlinkSocket {
    /// Inode, as in `socket:[INODE]`; 0 for the kernel's own.
    pub inode: u64,
    /// `SOCK_RAW` or `SOCK_DGRAM`.
    pub kind: u8,
    /// `NETLINK_*`
    pub protocol: u8,
    /// State number.
    pub state: u8,
    /// Its address.
    pub port: u32,
    /// The address it is connected to.
    pub peer_port: u32,
    /// The groups it is connected to.
    pub peer_group: u32,
    /// Groups it listens to: bit `n - 1` of the words together for group `n`.
    pub groups: Vec<u32>,
    /// `NDIAG_FLAG_*` (Linux 4.14): 1 a dump is under way, 2 `NETLINK_PKTINFO`,
    /// 4 `NETLINK_BROADCAST_ERROR`, 8 `NETLINK_NO_ENOBUFS`, 16 `NETLINK_LISTEN_ALL_NSID`,
    /// 32 `NETLINK_CAP_ACK`.
    pub flags: u32,
    /// Memory.
    pub memory: Option<MemInfo>,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Request {
    family: u8,
    protocol: u8,
    pad: u16,
    inode: u32,
    show: u32,
    cookie: [u32; 2],
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for Request {}

#[derive(Clone, Copy)]
#[repr(C)]
struct Answer {
    family: u8,
    kind: u8,
    protocol: u8,
    state: u8,
    port: u32,
    peer_port: u32,
    peer_group: u32,
    inode: u32,
    cookie: [u32; 2],
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for Answer {}

const ALL_PROTOCOLS: u8 = 255;
/// Memory, groups and flags.
const SHOW: u32 = 1 | 2 | 8;

pub(super) const REQUEST: Request = Request {
    family: libc::AF_NETLINK as u8,
    protocol: ALL_PROTOCOLS,
    pad: 0,
    inode: 0,
    show: SHOW,
    cookie: [u32::MAX; 2],
};

const MEMINFO: u16 = 0;
const GROUPS: u16 = 1;
const FLAGS: u16 = 4;

pub(super) fn parse(message: &Message<'_>) -> Option<NetlinkSocket> {
    let head: Answer = message.head()?;
    if head.inode == 0 {
        return None;
    }
    let mut socket = NetlinkSocket {
        inode: u64::from(head.inode),
        kind: head.kind,
        protocol: head.protocol,
        state: head.state,
        port: head.port,
        peer_port: head.peer_port,
        peer_group: head.peer_group,
        ..NetlinkSocket::default()
    };
    for (kind, bytes) in message.attributes::<Answer>() {
        match kind {
            MEMINFO => socket.memory = Some(plain::from_prefix(bytes)),
            GROUPS => socket.groups = words(bytes),
            FLAGS => socket.flags = plain::from_prefix(bytes),
            _ => {}
        }
    }
    Some(socket)
}
