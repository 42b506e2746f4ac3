//! Netlink sockets with their address, peer and groups (netlink(7)).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use criu_images::proto;
use criu_kernel::sockdiag::{NetlinkSocket, SockDiag};
use criu_kernel::sockopt;
use criu_resource::{BoxError, Descriptor, DumpContext, FileDump, FileKind, FileRestore, RestoreContext};
use nix::sys::socket::{MsgFlags, NetlinkAddr, bind, connect, recv};

use crate::error::{Called, Error, Result};
use crate::lone::{Lone, LoneDump, LoneRestore, foreign};
use crate::{options, sys};

/// State of a socket with a peer.
const CONNECTED: u32 = 1;
const SOL_NETLINK: i32 = 270;

/// The kind of netlink sockets.
pub struct Netlink;

impl FileKind for Netlink {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn types(&self) -> &'static [proto::FdTypes] {
        &[proto::FdTypes::Netlinksk]
    }

    fn claims(&self, descriptor: &Descriptor<'_>) -> bool {
        options::domain(descriptor) == Some(libc::AF_NETLINK)
    }

    fn dump<'t>(&'t self, _: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(LoneDump::<Self>::new())
    }

    fn restore<'t>(&'t self, _: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        Ok(Box::new(LoneRestore::<Self>::new()))
    }
}

impl Lone for Netlink {
    const NAME: &'static str = "netlink";
    type Seen = NetlinkSocket;

    fn ask(diag: &SockDiag) -> nix::Result<Vec<(u64, NetlinkSocket)>> {
        Ok(diag.netlink()?.into_iter().map(|socket| (socket.inode, socket)).collect())
    }

    fn dump(descriptor: &Descriptor<'_>, seen: Option<&NetlinkSocket>) -> Result<proto::FileEntry> {
        let fd = descriptor.fd;
        // FIONREAD is not known to netlink.
        if recv(fd.as_raw_fd(), &mut [0; 1], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).is_ok() {
            return Err(Error::Unsupported("messages that were not read yet; dump again later".into()));
        }
        let protocol = options::get(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)? as u32;
        // A socket that was never bound is not shown.
        let unbound = NetlinkSocket::default();
        let seen = seen.unwrap_or(&unbound);
        let used = seen.groups.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        let entry = proto::NetlinkSkEntry {
            id: descriptor.id,
            ino: descriptor.ino as u32,
            protocol,
            state: seen.state.into(),
            flags: descriptor.flags,
            portid: seen.port,
            groups: seen.groups[..used].to_vec(),
            dst_portid: seen.peer_port,
            dst_group: seen.peer_group,
            fown: descriptor.fown,
            opts: options::dump(fd, true)?,
            ns_id: None,
        };
        Ok(proto::FileEntry {
            r#type: proto::FdTypes::Netlinksk as i32,
            id: descriptor.id,
            nlsk: Some(Box::new(entry)),
            ..proto::FileEntry::default()
        })
    }

    fn check(entry: &proto::FileEntry) -> Result<()> {
        entry.nlsk.as_ref().map(drop).ok_or_else(|| foreign(entry, Self::NAME))
    }

    fn open(entry: &proto::FileEntry) -> Result<OwnedFd> {
        let entry = entry.nlsk.as_ref().ok_or_else(|| foreign(entry, Self::NAME))?;
        let socket = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, entry.protocol as i32)?;
        let fd = socket.as_fd();
        if entry.portid != 0 {
            let bound = bind(fd.as_raw_fd(), &NetlinkAddr::new(entry.portid, 0));
            if bound == Err(nix::errno::Errno::EADDRINUSE) {
                // The number is the pid of whoever asks first; next to nobody looks at it.
                tracing::warn!("net: netlink address {} is taken, the kernel chose another", entry.portid);
                bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).called("bind(netlink)")?;
            } else {
                bound.called(format!("bind(netlink {})", entry.portid))?;
            }
        }
        for (word, groups) in (0u32..).zip(&entry.groups) {
            for bit in (0..32).filter(|bit| groups & (1 << bit) != 0) {
                let group = 32 * word + bit + 1;
                sockopt::set(fd, SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, &group)
                    .called(format!("setsockopt(NETLINK_ADD_MEMBERSHIP, {group})"))?;
            }
        }
        if entry.state == CONNECTED {
            let group = entry.dst_group.checked_sub(1).and_then(|bit| 1u32.checked_shl(bit)).unwrap_or(0);
            connect(fd.as_raw_fd(), &NetlinkAddr::new(entry.dst_portid, group)).called("connect(netlink)")?;
        }
        options::restore(fd, &entry.opts)?;
        options::set_flags(fd, entry.flags, &entry.fown)?;
        Ok(socket)
    }
}
