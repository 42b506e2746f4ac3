//! TCP, UDP, UDP-Lite and raw sockets over IPv4 and IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::wire::{MemInfo, Message};
use crate::plain::{self, Plain};

/// Transport protocol of an internet socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// UDP-Lite
    UdpLite,
    /// Raw; [`InetSocket::raw_protocol`] tells which.
    Raw,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::UdpLite, Self::Raw];

    /// `IPPROTO_*`
    pub fn number(self) -> i32 {
        match self {
            Self::Tcp => libc::IPPROTO_TCP,
            Self::Udp => libc::IPPROTO_UDP,
            Self::UdpLite => libc::IPPROTO_UDPLITE,
            Self::Raw => libc::IPPROTO_RAW,
        }
    }
}

/// One internet socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InetSocket {
    /// Inode, as in `socket:[INODE]`.
    pub inode: u64,
    /// `AF_INET` or `AF_INET6`.
    pub family: i32,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Protocol number of a raw socket.
    pub raw_protocol: Option<u8>,
    /// TCP state number (1 established … 10 listening); UDP: 1 connected, 7 not.
    pub state: u8,
    /// Local address; unspecified and port 0 where unbound.
    pub local: SocketAddr,
    /// Peer's address; unspecified and port 0 where there is none.
    pub remote: SocketAddr,
    /// Interface it is bound to, 0 for any.
    pub interface: u32,
    /// Bytes to be read; a listening socket's connections to be accepted.
    pub receive_queue: u32,
    /// Bytes not yet acknowledged; a listening socket's backlog.
    pub send_queue: u32,
    /// Owner.
    pub uid: u32,
    /// The kernel's cookie.
    pub cookie: u64,
    /// Which halves are shut down: 1 receive, 2 send (Linux 4.3).
    pub shutdown: u8,
    /// `IPV6_V6ONLY`, for IPv6 only.
    pub v6only: Option<bool>,
    /// `SO_MARK`, told to the network's administrator only.
    pub mark: Option<u32>,
    /// Memory.
    pub memory: Option<MemInfo>,
}

impl InetSocket {
    /// Whether it is a listening TCP socket.
    pub fn is_listening(&self) -> bool {
        self.protocol == Protocol::Tcp && self.state == 10
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct SockId {
    sport: [u8; 2],
    dport: [u8; 2],
    src: [u8; 16],
    dst: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Request {
    family: u8,
    protocol: u8,
    extensions: u8,
    raw_protocol: u8,
    states: u32,
    id: SockId,
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for Request {}

#[derive(Clone, Copy)]
#[repr(C)]
struct Answer {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: SockId,
    expires: u32,
    receive_queue: u32,
    send_queue: u32,
    uid: u32,
    inode: u32,
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for Answer {}

const SKMEMINFO: u16 = 7;
const SHUTDOWN: u16 = 8;
const PROTOCOL: u16 = 10;
const SKV6ONLY: u16 = 11;
const MARK: u16 = 15;

pub(super) fn request(family: i32, protocol: Protocol) -> Request {
    Request {
        family: family as u8,
        protocol: protocol.number() as u8,
        extensions: 1 << (SKMEMINFO - 1),
        raw_protocol: if protocol == Protocol::Raw { libc::IPPROTO_RAW as u8 } else { 0 },
        states: u32::MAX,
        ..plain::zeroed()
    }
}

pub(super) fn parse(message: &Message<'_>, protocol: Protocol) -> Option<InetSocket> {
    let head: Answer = message.head()?;
    if head.inode == 0 {
        return None;
    }
    let family = i32::from(head.family);
    let id = &head.id;
    let mut socket = InetSocket {
        inode: u64::from(head.inode),
        family,
        protocol,
        raw_protocol: None,
        state: head.state,
        local: address(family, &id.src, id.sport),
        remote: address(family, &id.dst, id.dport),
        interface: id.interface,
        receive_queue: head.receive_queue,
        send_queue: head.send_queue,
        uid: head.uid,
        cookie: u64::from(id.cookie[1]) << 32 | u64::from(id.cookie[0]),
        shutdown: 0,
        v6only: None,
        mark: None,
        memory: None,
    };
    for (kind, bytes) in message.attributes::<Answer>() {
        let byte = bytes.first().copied().unwrap_or_default();
        match kind {
            SKMEMINFO => socket.memory = Some(plain::from_prefix(bytes)),
            SHUTDOWN => socket.shutdown = byte,
            PROTOCOL if protocol == Protocol::Raw => socket.raw_protocol = Some(byte),
            SKV6ONLY => socket.v6only = Some(byte != 0),
            MARK => socket.mark = Some(plain::from_prefix(bytes)),
            _ => {}
        }
    }
    Some(socket)
}

fn address(family: i32, bytes: &[u8; 16], port: [u8; 2]) -> SocketAddr {
    let ip = if family == libc::AF_INET6 {
        IpAddr::from(Ipv6Addr::from(*bytes))
    } else {
        IpAddr::from(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    };
    SocketAddr::new(ip, u16::from_be_bytes(port))
}
