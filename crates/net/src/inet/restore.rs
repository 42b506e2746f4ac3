//! The restore of all internet sockets of a tree.
//!
//! A socket is bound when it is opened, listens when all are bound, and a connection leaves repair mode
//! when all tasks stand and the network is unlocked: no packet ever finds a port without its socket.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use criu_images::{Image, Record, StoreExt, proto, record};
use criu_resource::{BoxError, FileRestore, RestoreContext, Slot};
use criu_script::Script;

use super::{Transport, ip, stream};
use crate::address;
use crate::error::{About, Called, Error, Result};
use crate::lock::Unlock;
use crate::options;
use crate::sys;
use crate::tcp::{Connection, Rebuilt, State};

/// The restore under way.
pub(super) struct InetRestore<'t> {
    context: &'t RestoreContext<'t>,
    tcp_close: bool,
    plans: HashMap<u32, Plan>,
    /// Ports that some socket shares by `SO_REUSEPORT`.
    shared_ports: HashSet<(u32, u32)>,
    unlock: Option<Unlock>,
    /// Sockets that are bound only, with their entries.
    bound: Vec<(OwnedFd, proto::InetSkEntry)>,
    /// Connections in repair mode, with their entries.
    rebuilt: Vec<(Rebuilt, proto::InetSkEntry)>,
    /// Both ends of the connections, to be unlocked.
    pairs: Vec<(SocketAddr, SocketAddr)>,
}

/// A checked entry.
struct Plan {
    transport: Transport,
    local: SocketAddr,
    remote: Option<SocketAddr>,
    /// To be carried on.
    connection: Option<Connection>,
}

impl<'t> InetRestore<'t> {
    pub fn new(context: &'t RestoreContext<'t>) -> Result<Self> {
        let inventory: Option<proto::InventoryEntry> = context.store.read_one_opt(Image::Inventory, 0)?;
        let dumped_closed = inventory.is_some_and(|inventory| inventory.tcp_close());
        Ok(Self {
            context,
            tcp_close: context.options.tcp_close || dumped_closed,
            plans: HashMap::new(),
            shared_ports: HashSet::new(),
            unlock: None,
            bound: Vec::new(),
            rebuilt: Vec::new(),
            pairs: Vec::new(),
        })
    }

    fn check(&mut self, entry: &proto::InetSkEntry) -> Result<Plan> {
        let family = entry.family as i32;
        if !matches!(family, libc::AF_INET | libc::AF_INET6) {
            return Err(Error::Corrupt(format!("inet socket of family {family}")));
        }
        let transport = Transport::of(entry.r#type as i32, entry.proto as i32)?;
        let mut local = address::from_words(family, &entry.src_addr, entry.src_port)?;
        if let (SocketAddr::V6(v6), Some(name)) = (&mut local, &entry.ifname) {
            let index = nix::net::if_::if_nametoindex(name.as_str()).called(format!("interface {name}"))?;
            v6.set_scope_id(index);
        }
        let connected = transport == Transport::Raw && entry.state == State::Established as u32;
        let remote = match entry.dst_port {
            0 if !connected => None,
            port => Some(address::from_words(family, &entry.dst_addr, port)?),
        };
        let connection = match remote {
            Some(remote) if transport == Transport::Tcp && !self.tcp_close => {
                Some(self.connection(entry, local, remote)?)
            }
            _ => None,
        };
        Ok(Plan { transport, local, remote, connection })
    }

    fn connection(
        &mut self,
        entry: &proto::InetSkEntry,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Connection> {
        let state = State::from_number(entry.state)
            .ok_or_else(|| Error::Corrupt(format!("TCP state {}", entry.state)))?;
        if state.is_live() {
            if !self.context.options.tcp_established {
                return Err(Error::EstablishedImage { local, remote });
            }
            if self.unlock.is_none() {
                self.unlock = Some(Unlock::from_images(self.context.store)?);
            }
            self.pairs.push((local, remote));
        }
        let records = record::read_records(self.context.store, Image::TcpStream, entry.ino.into())?;
        let [record]: [Record; 1] = records.try_into().map_err(|records: Vec<_>| {
            Error::Corrupt(format!("{} entries for one TCP connection", records.len()))
        })?;
        Connection::from_record(&record, local, remote, state)
    }

    fn build(&mut self, entry: &proto::InetSkEntry) -> Result<OwnedFd> {
        let plan = self
            .plans
            .remove(&entry.id)
            .ok_or_else(|| Error::Corrupt(format!("inet socket {:#x} was not planned", entry.id)))?;
        match &plan.connection {
            Some(connection) => self.carry_on(entry, connection),
            None => self.make(entry, &plan),
        }
    }

    /// A socket for a connection. Its options follow in `finish`.
    fn carry_on(&mut self, entry: &proto::InetSkEntry, connection: &Connection) -> Result<OwnedFd> {
        let rebuilt = connection.build(&entry.opts)?;
        // The state tells whether our end was closed; the other one may be shut in any state.
        if matches!(entry.shutdown(), proto::SkShutdown::Read | proto::SkShutdown::Both) {
            options::restore_shutdown(rebuilt.as_fd(), proto::SkShutdown::Read)?;
        }
        let copy = options::duplicate(rebuilt.as_fd())?;
        self.rebuilt.push((rebuilt, entry.clone()));
        Ok(copy)
    }

    /// A socket that needs no repair.
    fn make(&mut self, entry: &proto::InetSkEntry, plan: &Plan) -> Result<OwnedFd> {
        let socket = sys::socket(entry.family as i32, entry.r#type as i32, entry.proto as i32)?;
        let fd = socket.as_fd();
        // A raw socket has its protocol for a port, and is bound from the start.
        if let Some(only) = entry.v6only.filter(|_| plan.transport != Transport::Raw) {
            options::set(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, only.into())?;
        }
        options::share_address(fd, self.shared_ports.contains(&shared_port(entry)))?;
        options::bind_device(fd, &entry.opts)?;
        let tcp = plan.transport == Transport::Tcp;
        match plan.remote {
            // A connection that was given up: both ends are shut.
            Some(_) if tcp => options::restore_shutdown(fd, proto::SkShutdown::Both)?,
            remote => {
                bind(fd, entry, plan.local)?;
                if let Some(remote) = remote {
                    address::connect_to(fd, remote).called(format!("connect({remote})"))?;
                }
                options::restore_shutdown(fd, entry.shutdown())?;
            }
        }
        if tcp {
            stream::restore_options(fd, entry)?;
        }
        settle(fd, entry)?;
        let copy = options::duplicate(fd)?;
        self.bound.push((socket, entry.clone()));
        Ok(copy)
    }

    fn resume(rebuilt: Rebuilt, entry: &proto::InetSkEntry) -> Result<()> {
        stream::restore_options(rebuilt.as_fd(), entry)?;
        let socket = rebuilt.resume()?;
        settle(socket.as_fd(), entry)?;
        options::settle_address(socket.as_fd(), &entry.opts)
    }
}

/// Protocol and port.
fn shared_port(entry: &proto::InetSkEntry) -> (u32, u32) {
    (entry.proto, entry.src_port)
}

fn bind(fd: BorrowedFd<'_>, entry: &proto::InetSkEntry, local: SocketAddr) -> Result<()> {
    // Port 0: it was never bound. That of a raw socket is its protocol.
    if local.port() == 0 || (entry.r#type as i32 == libc::SOCK_RAW && local.ip().is_unspecified()) {
        return Ok(());
    }
    // An IPv6 address may still be tentative; the option's own value follows with the others.
    let tentative = local.is_ipv6() && entry.r#type as i32 != libc::SOCK_RAW;
    if tentative {
        options::set(fd, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?;
    }
    address::bind_to(fd, local)?;
    if tentative {
        options::set(fd, libc::IPPROTO_IP, libc::IP_FREEBIND, 0)?;
    }
    Ok(())
}

/// Options and flags that have no part in binding and connecting.
fn settle(fd: BorrowedFd<'_>, entry: &proto::InetSkEntry) -> Result<()> {
    if let Some(values) = &entry.ip_opts {
        ip::restore(fd, entry.family as i32, entry.proto as i32, values)?;
    }
    options::restore(fd, &entry.opts)?;
    options::set_flags(fd, entry.flags, &entry.fown)
}

/// The entry of an internet socket in an entry of `files.img`.
fn own(entry: &proto::FileEntry) -> Result<&proto::InetSkEntry> {
    entry.isk.as_deref().ok_or_else(|| Error::Corrupt(format!("file {:#x} is no internet socket", entry.id)))
}

fn describe(entry: &proto::InetSkEntry) -> String {
    format!("inet socket {:#x} (inode {})", entry.id, entry.ino)
}

impl FileRestore for InetRestore<'_> {
    fn plan(&mut self, entry: &proto::FileEntry) -> Result<(), BoxError> {
        let entry = own(entry)?;
        let plan = match self.check(entry) {
            Err(error @ Error::EstablishedImage { .. }) => return Err(error.into()),
            other => other.about(|| describe(entry))?,
        };
        if entry.opts.so_reuseport() {
            self.shared_ports.insert(shared_port(entry));
        }
        self.plans.insert(entry.id, plan);
        Ok(())
    }

    fn open(&mut self, entry: &proto::FileEntry) -> Result<OwnedFd, BoxError> {
        let entry = own(entry)?;
        Ok(self.build(entry).about(|| describe(entry))?)
    }

    fn connect(&mut self, _: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), BoxError> {
        for (socket, entry) in self.bound.drain(..) {
            let done = stream::restore_listening(&socket, &entry)
                .and_then(|()| options::settle_address(socket.as_fd(), &entry.opts));
            done.about(|| describe(&entry))?;
        }
        Ok(())
    }

    fn steps(&mut self, _: &proto::FileEntry, _: Slot, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        // The sockets exist, so whatever arrives from here on finds its own.
        if let Some(unlock) = self.unlock.take() {
            unlock.run(&self.pairs)?;
        }
        for (rebuilt, entry) in self.rebuilt.drain(..) {
            Self::resume(rebuilt, &entry).about(|| describe(&entry))?;
        }
        Ok(())
    }
}
