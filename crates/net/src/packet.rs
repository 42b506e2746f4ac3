//! Packet sockets: device, options, memberships, rings and fanout (packet(7)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use criu_images::proto::{self, PacketMclist, PacketRing, PacketSockEntry};
use criu_kernel::sockdiag::{self, PacketSocket, SockDiag};
use criu_kernel::sockopt;
use criu_resource::{BoxError, Descriptor, DumpContext, FileDump, FileKind, FileRestore, RestoreContext};

use crate::error::{Called, Error, Result};
use crate::lone::{Lone, LoneDump, LoneRestore, foreign};
use crate::{options, sys};

/// Linux 2.0 had packet sockets of this type.
const SOCK_PACKET: i32 = 10;
const SOL_PACKET: i32 = 263;
const ADD_MEMBERSHIP: i32 = 1;
const RX_RING: i32 = 5;
const COPY_THRESH: i32 = 7;
const AUXDATA: i32 = 8;
const ORIGDEV: i32 = 9;
const VERSION: i32 = 10;
const RESERVE: i32 = 12;
const TX_RING: i32 = 13;
const LOSS: i32 = 14;
const VNET_HDR: i32 = 15;
const TIMESTAMP: i32 = 17;
const FANOUT: i32 = 18;

/// Bits of [`PacketSocket::flags`], and the options they stand for.
const FLAGS: [(u32, i32); 4] = [(2, AUXDATA), (4, ORIGDEV), (8, VNET_HDR), (16, LOSS)];

/// The kind of packet sockets.
pub struct Packet;

impl FileKind for Packet {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn types(&self) -> &'static [proto::FdTypes] {
        &[proto::FdTypes::Packetsk]
    }

    fn claims(&self, descriptor: &Descriptor<'_>) -> bool {
        options::domain(descriptor) == Some(libc::AF_PACKET)
    }

    fn dump<'t>(&'t self, _: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(LoneDump::<Self>::new())
    }

    fn restore<'t>(&'t self, _: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        Ok(Box::new(LoneRestore::<Self>::new()))
    }
}

impl Lone for Packet {
    const NAME: &'static str = "packet";
    type Seen = PacketSocket;

    fn ask(diag: &SockDiag) -> nix::Result<Vec<(u64, PacketSocket)>> {
        Ok(diag.packet()?.into_iter().map(|socket| (socket.inode, socket)).collect())
    }

    fn dump(descriptor: &Descriptor<'_>, seen: Option<&PacketSocket>) -> Result<proto::FileEntry> {
        let seen =
            seen.ok_or_else(|| Error::Unsupported("a packet socket that sock_diag does not show".into()))?;
        let has = |bit| seen.flags & bit != 0;
        let entry = PacketSockEntry {
            id: descriptor.id,
            r#type: seen.kind.into(),
            // As socket(2) takes it.
            protocol: seen.protocol.to_be().into(),
            flags: descriptor.flags,
            ifindex: seen.interface,
            fown: descriptor.fown,
            opts: options::dump(descriptor.fd, false)?,
            version: seen.version,
            reserve: seen.reserve,
            aux_data: has(2),
            orig_dev: has(4),
            vnet_hdr: has(8),
            loss: has(16),
            timestamp: seen.timestamp,
            copy_thresh: seen.copy_threshold,
            mclist: seen.members.iter().map(member).collect::<Result<_>>()?,
            fanout: seen.fanout,
            rx_ring: seen.rx_ring.as_ref().map(ring),
            tx_ring: seen.tx_ring.as_ref().map(ring),
            ns_id: None,
        };
        Ok(proto::FileEntry {
            r#type: proto::FdTypes::Packetsk as i32,
            id: descriptor.id,
            psk: Some(Box::new(entry)),
            ..proto::FileEntry::default()
        })
    }

    fn check(entry: &proto::FileEntry) -> Result<()> {
        let entry = entry.psk.as_ref().ok_or_else(|| foreign(entry, Self::NAME))?;
        match entry.r#type as i32 {
            libc::SOCK_RAW | libc::SOCK_DGRAM | SOCK_PACKET => Ok(()),
            other => Err(Error::Unsupported(format!("packet socket of type {other}"))),
        }
    }

    fn open(entry: &proto::FileEntry) -> Result<OwnedFd> {
        let entry = entry.psk.as_ref().ok_or_else(|| foreign(entry, Self::NAME))?;
        let socket = sys::socket(libc::AF_PACKET, entry.r#type as i32, entry.protocol as i32)?;
        let fd = socket.as_fd();
        if entry.r#type as i32 == SOCK_PACKET {
            bind_by_name(fd, entry)?;
        } else {
            bind(fd, entry)?;
        }
        options::restore(fd, &entry.opts)?;
        options::set_flags(fd, entry.flags, &entry.fown)?;
        Ok(socket)
    }
}

/// `SOCK_PACKET`, the form of Linux 2.0, knows neither options nor rings.
fn bind_by_name(fd: BorrowedFd<'_>, entry: &PacketSockEntry) -> Result<()> {
    if entry.ifindex == 0 {
        return Ok(());
    }
    let name =
        nix::net::if_::if_indextoname(entry.ifindex).called(format!("if_indextoname({})", entry.ifindex))?;
    sys::bind_packet_name(fd, name.to_bytes())
}

fn bind(fd: BorrowedFd<'_>, entry: &PacketSockEntry) -> Result<()> {
    if entry.ifindex != 0 {
        sys::bind_packet(fd, entry.ifindex, entry.protocol as u16)?;
    }
    let set = |name, value: u32| options::set(fd, SOL_PACKET, name, value as i32);
    set(VERSION, entry.version)?;
    set(RESERVE, entry.reserve)?;
    set(TIMESTAMP, entry.timestamp)?;
    set(COPY_THRESH, entry.copy_thresh)?;
    let values = [entry.aux_data, entry.orig_dev, entry.vnet_hdr, entry.loss];
    for ((_, name), _) in FLAGS.iter().zip(values).filter(|(_, value)| *value) {
        set(*name, 1)?;
    }
    for member in &entry.mclist {
        join(fd, member)?;
    }
    map_ring(fd, RX_RING, entry.rx_ring.as_ref())?;
    map_ring(fd, TX_RING, entry.tx_ring.as_ref())?;
    if let Some(fanout) = entry.fanout.filter(|fanout| *fanout != u32::MAX) {
        set(FANOUT, fanout)?;
    }
    Ok(())
}

fn member(seen: &sockdiag::PacketMember) -> Result<PacketMclist> {
    if seen.count != 1 {
        return Err(Error::Unsupported(format!("a membership that was added {} times", seen.count)));
    }
    let len = usize::from(seen.address_len).min(seen.address.len());
    // Only of multicast (0) and unicast (3) memberships the address counts.
    let addr = if matches!(seen.kind, 0 | 3) { seen.address[..len].to_vec() } else { Vec::new() };
    Ok(PacketMclist { index: seen.interface, r#type: seen.kind.into(), addr })
}

fn join(fd: BorrowedFd<'_>, member: &PacketMclist) -> Result<()> {
    // struct packet_mreq with room for the longest address.
    let mut bytes = [0; 8 + 32];
    if member.addr.len() > 32 {
        return Err(Error::Corrupt(format!("a hardware address of {} bytes", member.addr.len())));
    }
    bytes[..4].copy_from_slice(&member.index.to_ne_bytes());
    bytes[4..6].copy_from_slice(&(member.r#type as u16).to_ne_bytes());
    bytes[6..8].copy_from_slice(&(member.addr.len() as u16).to_ne_bytes());
    bytes[8..8 + member.addr.len()].copy_from_slice(&member.addr);
    sockopt::set(fd, SOL_PACKET, ADD_MEMBERSHIP, &bytes).called("setsockopt(PACKET_ADD_MEMBERSHIP)")
}

fn ring(seen: &sockdiag::PacketRing) -> PacketRing {
    PacketRing {
        block_size: seen.block_size,
        block_nr: seen.blocks,
        frame_size: seen.frame_size,
        frame_nr: seen.frames,
        retire_tmo: seen.retire_timeout,
        sizeof_priv: seen.private_size,
        features: seen.features,
    }
}

fn map_ring(fd: BorrowedFd<'_>, name: i32, ring: Option<&PacketRing>) -> Result<()> {
    let Some(ring) = ring else { return Ok(()) };
    // struct tpacket_req3, of which older versions read the front.
    let request = [
        ring.block_size,
        ring.block_nr,
        ring.frame_size,
        ring.frame_nr,
        ring.retire_tmo,
        ring.sizeof_priv,
        ring.features,
    ];
    sockopt::set(fd, SOL_PACKET, name, &request).called(format!("setsockopt(packet ring {name})"))
}
