//! Packet sockets.

use super::wire::{MemInfo, Message};
use crate::plain::{self, Plain};

/// One packet socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketSocket {
    /// Inode, as in `socket:[INODE]`.
    pub inode: u64,
    /// `SOCK_RAW` or `SOCK_DGRAM`.
    pub kind: u8,
    /// Protocol (`ETH_P_*`), in host byte order.
    pub protocol: u16,
    /// Interface it is bound to, 0 for any.
    pub interface: u32,
    /// `PACKET_VERSION`
    pub version: u32,
    /// `PACKET_RESERVE`
    pub reserve: u32,
    /// `PACKET_COPY_THRESH`
    pub copy_threshold: u32,
    /// `PACKET_TIMESTAMP`
    pub timestamp: u32,
    /// 1 running, 2 `PACKET_AUXDATA`, 4 `PACKET_ORIGDEV`, 8 `PACKET_VNET_HDR`, 16 `PACKET_LOSS`.
    pub flags: u32,
    /// Multicast memberships.
    pub members: Vec<PacketMember>,
    /// Receive ring.
    pub rx_ring: Option<PacketRing>,
    /// Transmit ring.
    pub tx_ring: Option<PacketRing>,
    /// `PACKET_FANOUT`
    pub fanout: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Memory.
    pub memory: Option<MemInfo>,
}

/// One membership (`PACKET_ADD_MEMBERSHIP`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PacketMember {
    /// Interface.
    pub interface: u32,
    /// How often it was added.
    pub count: u32,
    /// `PACKET_MR_*`
    pub kind: u16,
    /// Length of the address.
    pub address_len: u16,
    /// Address.
    pub address: [u8; 32],
}

/// A ring (`PACKET_RX_RING`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PacketRing {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks.
    pub blocks: u32,
    /// Bytes of a frame.
    pub frame_size: u32,
    /// Frames.
    pub frames: u32,
    /// Milliseconds after which a block is given out (version 3).
    pub retire_timeout: u32,
    /// Bytes of private data (version 3).
    pub private_size: u32,
    /// Features (version 3).
    pub features: u32,
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for PacketMember {}
// SAFETY: seven u32.
unsafe impl Plain for PacketRing {}

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
    protocol: u16,
    inode: u32,
    cookie: [u32; 2],
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for Answer {}

/// Settings, members, rings, fanout, memory; not the filter, which `SO_GET_FILTER` gives.
const SHOW: u32 = 0x1f;

pub(super) const REQUEST: Request = Request {
    family: libc::AF_PACKET as u8,
    protocol: 0,
    pad: 0,
    inode: 0,
    show: SHOW,
    cookie: [u32::MAX; 2],
};

const INFO: u16 = 0;
const MCLIST: u16 = 1;
const RX_RING: u16 = 2;
const TX_RING: u16 = 3;
const FANOUT: u16 = 4;
const UID: u16 = 5;
const MEMINFO: u16 = 6;

pub(super) fn parse(message: &Message<'_>) -> Option<PacketSocket> {
    let head: Answer = message.head()?;
    let mut socket = PacketSocket {
        inode: u64::from(head.inode),
        kind: head.kind,
        protocol: head.protocol,
        ..PacketSocket::default()
    };
    for (kind, bytes) in message.attributes::<Answer>() {
        match kind {
            INFO => {
                [
                    socket.interface,
                    socket.version,
                    socket.reserve,
                    socket.copy_threshold,
                    socket.timestamp,
                    socket.flags,
                ] = plain::from_prefix(bytes);
            }
            MCLIST => {
                let members = bytes.chunks_exact(size_of::<PacketMember>());
                socket.members = members.map(plain::from_prefix).collect();
            }
            RX_RING => socket.rx_ring = Some(plain::from_prefix(bytes)),
            TX_RING => socket.tx_ring = Some(plain::from_prefix(bytes)),
            FANOUT => socket.fanout = Some(plain::from_prefix(bytes)),
            UID => socket.uid = Some(plain::from_prefix(bytes)),
            MEMINFO => socket.memory = Some(plain::from_prefix(bytes)),
            _ => {}
        }
    }
    Some(socket)
}
