//! Makes all unix sockets of a tree and connects them with each other.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

use criu_images::prost::Message;
use criu_images::proto::{CriuDumpResp, CriuReqType, CriuResp, UnixSkEntry};
use criu_resource::Options;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, MsgFlags, SockFlag, SockType, listen, send, socketpair};

use super::name::{self, Reach};
use super::queue::{self, Queues};
use super::restore::describe;
use super::{SERVICE, state};
use crate::error::{About, Called, Error, Result};
use crate::options::{self, duplicate};
use crate::sys;

/// A socket of the tree.
#[derive(Debug)]
struct Made {
    fd: OwnedFd,
    sender: Sender,
}

/// Who fills the queue of a socket.
#[derive(Debug)]
enum Sender {
    /// Nobody: it has none.
    Nobody,
    /// Its peer, at this position.
    Peer(usize),
    /// One that stands in for a peer that is gone.
    Helper(OwnedFd),
}

/// How a socket comes to its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// It has none, or needs none.
    Alone,
    /// Had one: a connection whose other end is closed.
    Widowed,
    /// Its peer has it as peer.
    Pair(usize),
    /// It connects to one of the tree: a datagram socket, or one that waits to be accepted.
    To(usize),
    /// It connects to one outside.
    Outside,
    /// It led to the service that dumped it, whose answer it is to find.
    Answered,
    /// Somebody else hands it to us, as this descriptor.
    Inherited(i32),
}

/// The work, in two steps: [`Wiring::make`] when sockets are asked for, [`Wiring::connect`] when all
/// descriptions of all kinds are open.
pub(super) struct Wiring {
    entries: Vec<UnixSkEntry>,
    outside: HashMap<u32, UnixSkEntry>,
    links: Vec<Link>,
    made: Vec<Option<Made>>,
    reach: Vec<Option<Reach>>,
}

impl Wiring {
    /// Makes all sockets, and binds them.
    pub fn make(
        entries: Vec<UnixSkEntry>,
        outside: HashMap<u32, UnixSkEntry>,
        options: &Options,
    ) -> Result<Self> {
        let made = entries.iter().map(|_| None).collect();
        let reach = entries.iter().map(|_| None).collect();
        let mut wiring = Self { entries, outside, links: Vec::new(), made, reach };
        wiring.links = wiring.find_links(options)?;
        let links = wiring.links.clone();
        // Whoever is connected to must be there first; among them, listening sockets come before the
        // pairs that were made through them.
        for (position, link) in links.iter().enumerate() {
            if !matches!(link, Link::Pair(_)) {
                wiring.single(position, *link).about(|| describe(&wiring.entries[position]))?;
            }
        }
        for (position, link) in links.iter().enumerate() {
            if let Link::Pair(peer) = *link
                && position < peer
            {
                wiring.pair(position, peer).about(|| describe(&wiring.entries[position]))?;
            }
        }
        Ok(wiring)
    }

    /// The socket of a description.
    pub fn socket(&self, id: u32) -> Option<BorrowedFd<'_>> {
        let position = self.entries.iter().position(|entry| entry.id == id)?;
        self.made[position].as_ref().map(|made| made.fd.as_fd())
    }

    /// Fills queues and connects to peers; the answer has all sockets, with their entries.
    pub fn connect(
        mut self,
        queues: &Queues,
        options: &Options,
        fd_of: &dyn Fn(u32) -> Option<OwnedFd>,
    ) -> Result<Vec<(UnixSkEntry, OwnedFd)>> {
        // A connected datagram socket takes nothing from others than its peer, so queues come first.
        for position in 0..self.entries.len() {
            self.fill(position, queues, fd_of).about(|| describe(&self.entries[position]))?;
        }
        for position in 0..self.entries.len() {
            self.join(position, options).about(|| describe(&self.entries[position]))?;
        }
        let sockets = self.made.into_iter().map(|made| made.map(|made| made.fd));
        let sockets = self.entries.into_iter().zip(sockets);
        Ok(sockets.filter_map(|(entry, socket)| Some((entry, socket?))).collect())
    }

    fn find_links(&self, options: &Options) -> Result<Vec<Link>> {
        let by_inode: HashMap<u32, usize> =
            self.entries.iter().enumerate().map(|(position, entry)| (entry.ino, position)).collect();
        let link = |position: usize, entry: &UnixSkEntry| {
            if let Some(number) = options.inherit_fd.get(&format!("socket:[{}]", entry.ino)) {
                return Ok(Link::Inherited(*number));
            }
            if entry.uflags & SERVICE != 0 {
                return Ok(Link::Answered);
            }
            let connection = !is_datagram(entry) && entry.state == state::ESTABLISHED;
            Ok(match (entry.peer, by_inode.get(&entry.peer)) {
                (0, _) if connection => Link::Widowed,
                (0, _) => Link::Alone,
                (_, Some(peer)) if self.entries[*peer].peer == entry.ino && *peer != position => {
                    Link::Pair(*peer)
                }
                (_, Some(peer)) => Link::To(*peer),
                (inode, None) if self.outside.contains_key(&inode) => Link::Outside,
                (inode, None) => {
                    return Err(Error::Corrupt(format!("its peer {inode} is missing")))
                        .about(|| describe(entry));
                }
            })
        };
        self.entries.iter().enumerate().map(|(position, entry)| link(position, entry)).collect()
    }

    fn set(&mut self, position: usize, fd: OwnedFd, sender: Sender) {
        self.made[position] = Some(Made { fd, sender });
    }

    /// A socket that is not one of a pair.
    fn single(&mut self, position: usize, link: Link) -> Result<()> {
        let entry = &self.entries[position];
        let (fd, sender) = match link {
            Link::Inherited(number) => {
                self.set(position, sys::inherited(number)?, Sender::Nobody);
                return Ok(());
            }
            Link::Answered => {
                let (fd, service) = pair_of(entry)?;
                send(service.as_raw_fd(), &answer(), MsgFlags::MSG_NOSIGNAL).called("send")?;
                self.set(position, fd, Sender::Nobody);
                return Ok(());
            }
            Link::Widowed => {
                let (fd, helper) = pair_of(entry)?;
                (fd, Sender::Helper(helper))
            }
            // Its queue has to come from somewhere. Without a peer of its own, all may connect to it.
            _ if is_datagram(entry) => {
                let (fd, helper) = pair_of(entry)?;
                sys::disconnect(fd.as_fd())?;
                (fd, Sender::Helper(helper))
            }
            _ => (sys::socket(libc::AF_UNIX, entry.r#type as i32, 0)?, Sender::Nobody),
        };
        // An end of a connection has the name of the socket that listened, which is in use.
        if entry.state != state::ESTABLISHED || is_datagram(entry) {
            self.reach[position] = name::bind_entry(fd.as_fd(), entry)?;
        }
        if entry.state == state::LISTEN {
            let backlog = i32::try_from(entry.backlog).unwrap_or(i32::MAX);
            let backlog = Backlog::new(backlog).unwrap_or(Backlog::MAXCONN);
            listen(&fd, backlog).called("listen")?;
        }
        self.set(position, fd, sender);
        Ok(())
    }

    /// Two sockets that are each other's peers.
    fn pair(&mut self, one: usize, two: usize) -> Result<()> {
        if let Some((client, server, listener)) = self.accepted(one, two) {
            return self.accept(client, server, listener);
        }
        let (first, second) = pair_of(&self.entries[one])?;
        for (position, fd) in [(one, &first), (two, &second)] {
            if is_datagram(&self.entries[position]) {
                self.reach[position] = name::bind_entry(fd.as_fd(), &self.entries[position])?;
            }
        }
        self.set(one, first, Sender::Peer(two));
        self.set(two, second, Sender::Peer(one));
        Ok(())
    }

    /// Which of the two was accepted, and by which listening socket: they share a name.
    fn accepted(&self, one: usize, two: usize) -> Option<(usize, usize, usize)> {
        let listener = |end: usize| {
            let end = &self.entries[end];
            self.entries.iter().enumerate().position(|(position, entry)| {
                entry.state == state::LISTEN
                    && !end.name.is_empty()
                    && (&entry.name, &entry.name_dir, entry.r#type) == (&end.name, &end.name_dir, end.r#type)
                    && self.reach[position].is_some()
            })
        };
        let found = |client, server| Some((client, server, listener(server)?));
        found(one, two).or_else(|| found(two, one))
    }

    /// Makes a connection as it once was made, so that its end has its name again.
    fn accept(&mut self, client: usize, server: usize, listener: usize) -> Result<()> {
        let (Some(reach), Some(listening)) = (&self.reach[listener], &self.made[listener]) else {
            return Ok(());
        };
        let ours = sys::socket(libc::AF_UNIX, self.entries[client].r#type as i32, 0)?;
        name::connect_to(ours.as_fd(), reach)?;
        let listening = UnixListener::from(duplicate(listening.fd.as_fd())?);
        let (theirs, _) = listening.accept().map_err(|error| Error::Call {
            call: "accept".into(),
            errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
        })?;
        self.set(client, ours, Sender::Peer(server));
        self.set(server, theirs.into(), Sender::Peer(client));
        Ok(())
    }

    /// Fills the queue of a socket; a helper is then done.
    fn fill(
        &mut self,
        position: usize,
        queues: &Queues,
        fd_of: &dyn Fn(u32) -> Option<OwnedFd>,
    ) -> Result<()> {
        let helper = match &mut self.made[position] {
            Some(made) => match std::mem::replace(&mut made.sender, Sender::Nobody) {
                Sender::Nobody => None,
                Sender::Helper(helper) => Some(helper),
                Sender::Peer(peer) => {
                    self.made[peer].as_ref().map(|peer| duplicate(peer.fd.as_fd())).transpose()?
                }
            },
            None => None,
        };
        let entry = &self.entries[position];
        let Some(packets) = queues.get(&entry.id) else { return Ok(()) };
        let sender =
            helper.ok_or_else(|| Error::Corrupt("a queue, but nobody who could have filled it".into()))?;
        options::widen_buffers(sender.as_fd())?;
        queue::fill(sender.as_fd(), packets, entry.r#type as i32 == libc::SOCK_STREAM, fd_of)
    }

    fn join(&mut self, position: usize, options: &Options) -> Result<()> {
        let entry = &self.entries[position];
        let Some(made) = &self.made[position] else { return Ok(()) };
        match self.links[position] {
            Link::To(peer) => {
                let reach = self.reach[peer].as_ref().ok_or_else(|| {
                    Error::Unsupported(format!("its unnamed peer {}", self.entries[peer].ino))
                })?;
                name::connect_to(made.fd.as_fd(), reach)
            }
            Link::Outside => {
                let peer = &self.outside[&entry.peer];
                if options.ext_unix_sk.is_none() {
                    return Err(Error::ExternalPeer {
                        socket: describe(entry),
                        peer: name::show(&peer.name),
                    });
                }
                let directory = name::directory(peer);
                name::connect_to(made.fd.as_fd(), &Reach::Name(peer.name.clone(), directory))
            }
            _ => Ok(()),
        }
    }
}

fn is_datagram(entry: &UnixSkEntry) -> bool {
    entry.r#type as i32 == libc::SOCK_DGRAM
}

/// What a client that dumped itself reads once it is restored.
fn answer() -> Vec<u8> {
    let dump = Some(CriuDumpResp { restored: Some(true) });
    let kind = CriuReqType::Dump.into();
    CriuResp { r#type: kind, success: true, dump, ..CriuResp::default() }.encode_to_vec()
}

fn pair_of(entry: &UnixSkEntry) -> Result<(OwnedFd, OwnedFd)> {
    let kind = match entry.r#type as i32 {
        libc::SOCK_DGRAM => SockType::Datagram,
        libc::SOCK_SEQPACKET => SockType::SeqPacket,
        _ => SockType::Stream,
    };
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).called("socketpair")
}
