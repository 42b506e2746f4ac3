//! Unix sockets.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::wire::{MemInfo, Message, words};
use crate::plain::{self, Plain};

/// One unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixSocket {
    /// Inode, as in `socket:[INODE]`; 0 for a connection that was not accepted yet.
    pub inode: u64,
    /// `SOCK_STREAM`, `SOCK_DGRAM` or `SOCK_SEQPACKET`.
    pub kind: u8,
    /// State number: 1 established, 7 unconnected, 10 listening.
    pub state: u8,
    /// The bound name as the kernel keeps it: a path with a zero byte at its end, or a zero byte
    /// and an abstract name. A path is relative to where `bind` was called.
    pub name: Option<Vec<u8>>,
    /// Inode of the file it is bound to.
    pub file_inode: Option<u32>,
    /// Device of that file, in the kernel's own packing: major << 20 | minor.
    pub file_device: u32,
    /// Peer's inode.
    pub peer: Option<u64>,
    /// A listening socket's connections to be accepted: their clients' inodes, in order;
    /// 0 for a client that has gone.
    pub pending: Vec<u64>,
    /// Bytes to be read; a listening socket's number of pending connections.
    pub receive_queue: u32,
    /// Bytes in flight; a listening socket's backlog.
    pub send_queue: u32,
    /// Which halves are shut down: 1 receive, 2 send.
    pub shutdown: u8,
    /// Owner (Linux 5.3).
    pub uid: Option<u32>,
    /// Memory.
    pub memory: Option<MemInfo>,
}

impl UnixSocket {
    /// The bound path, without its zero byte; `None` where unbound or abstract.
    pub fn path(&self) -> Option<&Path> {
        let name = self.name.as_deref()?;
        let path = name.strip_suffix(b"\0").unwrap_or(name);
        (!path.is_empty() && path[0] != 0).then(|| Path::new(OsStr::from_bytes(path)))
    }

    /// The abstract name, without the zero byte before it.
    pub fn abstract_name(&self) -> Option<&[u8]> {
        self.name.as_deref()?.strip_prefix(b"\0")
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Request {
    family: u8,
    protocol: u8,
    pad: u16,
    states: u32,
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
    state: u8,
    pad: u8,
    inode: u32,
    cookie: [u32; 2],
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for Answer {}

/// Name, file, peer, pending connections, queue lengths, memory and owner.
const SHOW_ALL: u32 = 0x7f;

pub(super) const REQUEST: Request = Request {
    family: libc::AF_UNIX as u8,
    protocol: 0,
    pad: 0,
    states: u32::MAX,
    inode: 0,
    show: SHOW_ALL,
    // All ones: no particular socket.
    cookie: [u32::MAX; 2],
};

const NAME: u16 = 0;
const VFS: u16 = 1;
const PEER: u16 = 2;
const ICONS: u16 = 3;
const RQLEN: u16 = 4;
const MEMINFO: u16 = 5;
const SHUTDOWN: u16 = 6;
const UID: u16 = 7;

pub(super) fn parse(message: &Message<'_>) -> Option<UnixSocket> {
    let head: Answer = message.head()?;
    let mut socket = UnixSocket {
        inode: u64::from(head.inode),
        kind: head.kind,
        state: head.state,
        ..UnixSocket::default()
    };
    for (kind, bytes) in message.attributes::<Answer>() {
        match kind {
            NAME => socket.name = Some(bytes.to_vec()),
            VFS => {
                let [inode, device] = plain::from_prefix(bytes);
                socket.file_inode = Some(inode);
                socket.file_device = device;
            }
            PEER => socket.peer = Some(u64::from(plain::from_prefix::<u32>(bytes))),
            ICONS => socket.pending = words(bytes).into_iter().map(u64::from).collect(),
            RQLEN => [socket.receive_queue, socket.send_queue] = plain::from_prefix(bytes),
            MEMINFO => socket.memory = Some(plain::from_prefix(bytes)),
            SHUTDOWN => socket.shutdown = bytes.first().copied().unwrap_or_default(),
            UID => socket.uid = Some(plain::from_prefix(bytes)),
            _ => {}
        }
    }
    Some(socket)
}
