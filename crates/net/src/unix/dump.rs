//! The dump of all unix sockets of a tree.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsRawFd, BorrowedFd};

use criu_images::proto::{self, SkShutdown};
use criu_images::{Image, Record, RecordSet};
use criu_kernel::sockdiag::{SockDiag, UnixSocket};
use criu_resource::{BoxError, Descriptor, Fate, FileDump, Options};

use super::queue::{self, Packet};
use super::{EXTERNAL, SERVICE, name, state};
use crate::error::{About, Called, Error, Result};
use crate::options;
use crate::tree::Home;

/// The dump under way.
pub(super) struct UnixDump<'t> {
    options: &'t Options,
    home: Home,
    /// All sockets of the network namespace, by inode; asked once.
    diag: Option<HashMap<u64, UnixSocket>>,
    /// Clients that wait to be accepted, and the listening socket they wait at.
    waiting: HashMap<u64, u64>,
    /// What lies in the queues, by description. Read before the entries, as it may hold descriptors.
    queued: Vec<(u32, Vec<Packet>)>,
    /// Inodes of the tree's own sockets.
    own: HashSet<u64>,
    /// Sockets outside of the tree that have an entry already.
    outside: HashSet<u64>,
}

impl<'t> UnixDump<'t> {
    pub fn new(options: &'t Options) -> Self {
        Self {
            options,
            home: Home::default(),
            diag: None,
            waiting: HashMap::new(),
            queued: Vec::new(),
            own: HashSet::new(),
            outside: HashSet::new(),
        }
    }

    fn look_around(&mut self) -> Result<()> {
        if self.diag.is_some() {
            return Ok(());
        }
        let sockets = SockDiag::open().and_then(|diag| diag.unix()).called("sock_diag(AF_UNIX)")?;
        for socket in &sockets {
            for client in socket.pending.iter().filter(|client| **client != 0) {
                self.waiting.insert(*client, socket.inode);
            }
        }
        self.diag = Some(sockets.into_iter().map(|socket| (socket.inode, socket)).collect());
        Ok(())
    }

    fn seen(&self, inode: u64) -> Option<&UnixSocket> {
        self.diag.as_ref()?.get(&inode)
    }

    fn describe(&self, inode: u64) -> String {
        let name = self.seen(inode).and_then(|socket| socket.name.as_deref()).unwrap_or_default();
        format!("{inode} ({})", name::show(name))
    }

    /// Looks into the queue.
    fn look_inside(&mut self, descriptor: &Descriptor<'_>) -> Result<()> {
        self.home.check(descriptor.fd)?;
        let Some(seen) = self.seen(descriptor.ino) else { return Ok(()) };
        let datagram = i32::from(seen.kind) == libc::SOCK_DGRAM;
        // There are datagrams of no bytes.
        if u32::from(seen.state) != state::LISTEN && (datagram || seen.receive_queue > 0) {
            let packets = queue::peek(descriptor.fd, !datagram)?;
            self.queued.push((descriptor.id, packets));
        }
        Ok(())
    }

    fn read(&mut self, descriptor: &Descriptor<'_>, records: &mut RecordSet) -> Result<proto::UnixSkEntry> {
        let seen = self
            .seen(descriptor.ino)
            .cloned()
            .ok_or_else(|| Error::Unsupported("a socket that sock_diag does not show".into()))?;
        let kind = i32::from(seen.kind);
        let state = u32::from(seen.state);
        let mut entry = proto::UnixSkEntry {
            id: descriptor.id,
            ino: descriptor.ino as u32,
            r#type: kind as u32,
            state,
            flags: descriptor.flags,
            backlog: seen.send_queue,
            fown: descriptor.fown,
            opts: options::dump(descriptor.fd, true)?,
            shutdown: Some(match seen.shutdown & 3 {
                1 => SkShutdown::Read,
                2 => SkShutdown::Write,
                3 => SkShutdown::Both,
                _ => SkShutdown::None,
            } as i32),
            ..proto::UnixSkEntry::default()
        };
        name::describe(descriptor.fd, seen.name.as_deref().unwrap_or_default(), &mut entry)?;
        if seen.peer.is_some() && seen.peer == self.options.service_socket {
            entry.state = state::CLOSE;
            entry.uflags = SERVICE;
            return Ok(entry);
        }
        entry.peer = self.peer(&seen, records)? as u32;
        if state == state::LISTEN && seen.pending.contains(&0) {
            let what = "a connection that waits to be accepted and whose client is gone";
            return Err(Error::Unsupported(what.into()));
        }
        Ok(entry)
    }

    /// The inode of the peer as the entry has it, 0 for none.
    fn peer(&mut self, socket: &UnixSocket, records: &mut RecordSet) -> Result<u64> {
        if let Some(peer) = socket.peer.filter(|peer| *peer != 0) {
            if !self.own.contains(&peer) {
                self.outside(socket, peer, records)?;
            }
            return Ok(peer);
        }
        let connection = i32::from(socket.kind) != libc::SOCK_DGRAM;
        if !connection || u32::from(socket.state) != state::ESTABLISHED {
            return Ok(0);
        }
        match self.waiting.get(&socket.inode) {
            // Its peer has not been accepted yet: the images name the listening socket.
            Some(_) if socket.send_queue > 0 => {
                Err(Error::Unsupported("data sent over a connection that waits to be accepted".into()))
            }
            Some(listener) if self.own.contains(listener) => Ok(*listener),
            Some(listener) => Err(Error::ExternalPeer {
                socket: self.describe(socket.inode),
                peer: self.describe(*listener),
            }),
            None if socket.shutdown & 3 == 3 => Ok(0),
            None => Err(Error::Unsupported("a connection whose peer no process holds".into())),
        }
    }

    /// Checks a peer outside of the tree, and stores an entry for it.
    fn outside(&mut self, socket: &UnixSocket, peer: u64, records: &mut RecordSet) -> Result<()> {
        let allowed = self.options.ext_unix_sk.as_ref();
        let listed = allowed.is_some_and(|inodes| inodes.contains(&socket.inode))
            || self.options.external.iter().any(|key| *key == format!("unix[{}]", socket.inode));
        let seen = self.seen(peer).cloned().unwrap_or_default();
        if !listed {
            let refused =
                || Error::ExternalPeer { socket: self.describe(socket.inode), peer: self.describe(peer) };
            if allowed.is_none() {
                return Err(refused());
            }
            if i32::from(seen.kind) != libc::SOCK_DGRAM {
                return Err(Error::Unsupported(format!(
                    "one end of a connection with {}; use --external unix[{}] and --inherit-fd on restore",
                    self.describe(peer),
                    socket.inode
                )));
            }
            if seen.name.is_none() {
                return Err(Error::Unsupported(format!("the unnamed peer {peer} outside of the tree")));
            }
        }
        if self.outside.insert(peer) {
            let entry = proto::UnixSkEntry {
                // No description of the tree has such an id.
                id: u32::MAX - self.outside.len() as u32,
                ino: peer as u32,
                r#type: libc::SOCK_DGRAM as u32,
                state: state::LISTEN,
                uflags: EXTERNAL,
                name: seen.name.unwrap_or_default(),
                ..proto::UnixSkEntry::default()
            };
            let file = proto::FileEntry {
                r#type: proto::FdTypes::Unixsk as i32,
                id: entry.id,
                usk: Some(Box::new(entry)),
                ..proto::FileEntry::default()
            };
            records.push(Record::new(Image::Files, 0, &file));
        }
        Ok(())
    }
}

impl FileDump for UnixDump<'_> {
    fn lock(&mut self, descriptor: &Descriptor<'_>) -> Result<(), BoxError> {
        self.look_around()?;
        self.look_inside(descriptor).about(|| format!("unix socket {}", self.describe(descriptor.ino)))?;
        self.own.insert(descriptor.ino);
        Ok(())
    }

    fn in_flight(&self) -> Vec<(u32, BorrowedFd<'_>)> {
        let packets = self.queued.iter().flat_map(|(id, packets)| packets.iter().map(move |p| (*id, p)));
        packets.flat_map(|(id, packet)| packet.rights().map(move |fd| (id, fd))).collect()
    }

    fn entry(
        &mut self,
        descriptor: &Descriptor<'_>,
        records: &mut RecordSet,
    ) -> Result<proto::FileEntry, BoxError> {
        let entry = match self.read(descriptor, records) {
            Err(error @ Error::ExternalPeer { .. }) => return Err(error.into()),
            other => other.about(|| format!("unix socket {}", self.describe(descriptor.ino)))?,
        };
        Ok(proto::FileEntry {
            r#type: proto::FdTypes::Unixsk as i32,
            id: descriptor.id,
            usk: Some(Box::new(entry)),
            ..proto::FileEntry::default()
        })
    }

    fn finish(
        &mut self,
        id_of: &dyn Fn(i32, i32) -> Option<u32>,
        records: &mut RecordSet,
    ) -> Result<(), BoxError> {
        let own = std::process::id() as i32;
        let id_of = |fd: BorrowedFd<'_>| id_of(own, fd.as_raw_fd());
        for (id, packets) in self.queued.drain(..) {
            queue::store(id, packets, &id_of, records).about(|| format!("unix socket {id:#x}"))?;
        }
        Ok(())
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        Ok(())
    }
}
