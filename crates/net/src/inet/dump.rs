//! The dump of all internet sockets of a tree.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use criu_images::{RecordSet, proto};
use criu_kernel::sockdiag::InetSocket;
use criu_resource::{BoxError, Descriptor, Fate, FileDump, Options};

use super::{Transport, datagram, ip, raw, stream};
use crate::address;
use crate::error::{About, Called, Error, Result};
use crate::lock::Lock;
use crate::options;
use crate::tcp::Connection;
use crate::tree::{Home, root_of};

/// The dump under way. Dropped, it unlocks the network.
pub(super) struct InetDump<'t> {
    pub options: &'t Options,
    home: Home,
    lock: Option<Lock>,
    locked: Vec<Locked>,
    /// What sock_diag(7) says of datagram sockets; asked once.
    diag: Option<HashMap<u64, InetSocket>>,
    /// Peers of raw sockets, by inode; asked once.
    pub raw_peers: Option<HashMap<u32, IpAddr>>,
}

/// A connection that is to end silently when the tree is killed.
struct Locked {
    fd: OwnedFd,
    /// `SO_REUSEADDR`, which repair mode overwrites.
    reuse: bool,
}

/// What every internet socket has.
pub(super) struct Basics {
    pub family: i32,
    pub kind: i32,
    pub protocol: i32,
    pub transport: Transport,
    pub local: SocketAddr,
    pub remote: Option<SocketAddr>,
}

impl Basics {
    fn read(descriptor: &Descriptor<'_>) -> Result<Self> {
        let (family, kind, protocol) = options::identity(descriptor.fd)
            .ok_or_else(|| Error::Unsupported(format!("{} as a socket", descriptor.link.display())))?;
        let transport = Transport::of(kind, protocol)?;
        let local = address::local(descriptor.fd)?;
        let remote = address::remote(descriptor.fd)?;
        Ok(Self { family, kind, protocol, transport, local, remote })
    }

    /// The socket in a few words.
    fn describe(&self) -> String {
        let name = match (self.transport, self.protocol) {
            (Transport::Tcp, _) => "TCP",
            (Transport::Raw, _) => "raw",
            (_, libc::IPPROTO_UDP) => "UDP",
            (_, libc::IPPROTO_UDPLITE) => "UDP-Lite",
            _ => "ping",
        };
        match self.remote {
            Some(remote) => format!("{name} socket {} -> {remote}", self.local),
            None => format!("{name} socket {}", self.local),
        }
    }
}

impl<'t> InetDump<'t> {
    pub fn new(options: &'t Options) -> Self {
        Self { options, home: Home::default(), lock: None, locked: Vec::new(), diag: None, raw_peers: None }
    }

    /// What sock_diag(7) says of a datagram socket.
    pub fn seen(&mut self, inode: u32) -> Result<Option<&InetSocket>> {
        let table = match self.diag.take() {
            Some(table) => table,
            None => datagram::ask()?,
        };
        Ok(self.diag.insert(table).get(&inode.into()))
    }

    fn check(&mut self, descriptor: &Descriptor<'_>, basics: &Basics) -> Result<()> {
        self.home.check(descriptor.fd)?;
        match basics.transport {
            Transport::Datagram => datagram::check(descriptor.fd, basics),
            Transport::Raw => Ok(()),
            Transport::Tcp => {
                let state = stream::check(descriptor.fd, basics, self.options)?;
                let Some(remote) = basics.remote.filter(|_| state.is_live() && !self.options.tcp_close)
                else {
                    return Ok(());
                };
                self.lock
                    .get_or_insert_with(|| Lock::new(self.options.network_lock, root_of(descriptor.pid)))
                    .add(basics.local, remote);
                let fd = options::duplicate(descriptor.fd)?;
                let reuse = options::get(descriptor.fd, libc::SOL_SOCKET, libc::SO_REUSEADDR)? != 0;
                self.locked.push(Locked { fd, reuse });
                Ok(())
            }
        }
    }

    fn read(
        &mut self,
        descriptor: &Descriptor<'_>,
        basics: &Basics,
        records: &mut RecordSet,
    ) -> Result<proto::InetSkEntry> {
        if let Some(lock) = &mut self.lock {
            lock.apply()?;
        }
        let fd = descriptor.fd;
        let remote = basics.remote.unwrap_or_else(|| address::unspecified(basics.family));
        let mut entry = proto::InetSkEntry {
            id: descriptor.id,
            ino: descriptor.ino as u32,
            family: basics.family as u32,
            r#type: basics.kind as u32,
            proto: basics.protocol as u32,
            src_port: basics.local.port().into(),
            dst_port: remote.port().into(),
            src_addr: address::words(basics.local.ip()),
            dst_addr: address::words(remote.ip()),
            flags: descriptor.flags,
            fown: descriptor.fown,
            opts: options::dump(fd, false)?,
            ip_opts: Some(ip::dump(fd, basics.family, basics.kind, basics.protocol)?),
            ..proto::InetSkEntry::default()
        };
        if basics.family == libc::AF_INET6 {
            let only = options::get(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)?;
            entry.v6only = Some(only != 0);
            entry.ifname = scope(basics.local)?;
        }
        match basics.transport {
            Transport::Tcp => stream::dump(fd, basics, self.options, &mut entry, records)?,
            Transport::Datagram => datagram::dump(self, basics, &mut entry)?,
            Transport::Raw => raw::dump(self, &mut entry)?,
        }
        Ok(entry)
    }
}

/// The interface to which a link-local address belongs.
fn scope(local: SocketAddr) -> Result<Option<String>> {
    match local {
        SocketAddr::V6(v6) if v6.scope_id() != 0 && v6.port() != 0 => {
            let name = nix::net::if_::if_indextoname(v6.scope_id())
                .called(format!("if_indextoname({})", v6.scope_id()))?;
            Ok(Some(name.to_string_lossy().into_owned()))
        }
        _ => Ok(None),
    }
}

impl FileDump for InetDump<'_> {
    fn lock(&mut self, descriptor: &Descriptor<'_>) -> Result<(), BoxError> {
        let basics = Basics::read(descriptor)?;
        // Most errors name the socket themselves.
        match self.check(descriptor, &basics) {
            Err(error @ (Error::Established { .. } | Error::InFlight { .. })) => Err(error.into()),
            other => Ok(other.about(|| basics.describe())?),
        }
    }

    fn entry(
        &mut self,
        descriptor: &Descriptor<'_>,
        records: &mut RecordSet,
    ) -> Result<proto::FileEntry, BoxError> {
        let basics = Basics::read(descriptor)?;
        let entry = self.read(descriptor, &basics, records).about(|| basics.describe())?;
        Ok(proto::FileEntry {
            r#type: proto::FdTypes::Inetsk as i32,
            id: descriptor.id,
            isk: Some(Box::new(entry)),
            ..proto::FileEntry::default()
        })
    }

    fn finish(&mut self, _: &dyn Fn(i32, i32) -> Option<u32>, _: &mut RecordSet) -> Result<(), BoxError> {
        Ok(())
    }

    fn commit(mut self: Box<Self>, fate: Fate) -> Result<(), BoxError> {
        // To run or to stop: dropping the lock unlocks.
        let Some(lock) = self.lock.take().filter(|_| fate == Fate::Kill) else { return Ok(()) };
        // Closed in repair mode, a socket says nothing to its peer.
        let silenced = self.locked.iter().try_for_each(|locked| Connection::abandon(locked.fd.as_fd()));
        let kept = silenced.and_then(|()| lock.keep());
        if kept.is_err() {
            for locked in &self.locked {
                if let Err(error) = Connection::resume(locked.fd.as_fd(), locked.reuse) {
                    tracing::error!("tcp: a socket stays in repair mode: {error}");
                }
            }
        }
        Ok(kept?)
    }
}
