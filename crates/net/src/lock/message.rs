//! Netlink messages for nf_tables: batches and their attributes (`<linux/netfilter/nfnetlink.h>`).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use criu_kernel::sockopt;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NLMSG_ERROR: u16 = 2;
const NFPROTO_INET: u8 = 1;
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;

/// Attributes of a message, appended to its bytes.
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    /// Any bytes, padded to a multiple of four.
    pub fn bytes(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        self.0.extend((4 + data.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number; nf_tables wants them in network order.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A text, with a zero byte at the end.
    pub fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.bytes(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Attributes within an attribute.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        let start = self.0.len();
        self.0.extend([0, 0]);
        self.0.extend((kind | NESTED).to_ne_bytes());
        fill(&mut Attributes(self.0));
        let len = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }
}

/// A transaction: all of it happens or nothing.
pub(super) struct Batch(Vec<u8>);

impl Batch {
    pub fn new() -> Self {
        let mut batch = Self(Vec::new());
        batch.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, |_| {});
        batch
    }

    /// Adds a message of type `NFT_MSG_*` for the family `inet`.
    pub fn add(&mut self, kind: i32, flags: i32, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.message(SUBSYSTEM << 8 | kind as u16, flags, NFPROTO_INET, 0, fill);
    }

    fn message(
        &mut self,
        kind: u16,
        flags: i32,
        family: u8,
        resource: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.0.len();
        self.0.extend([0; 4]);
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        self.0.extend([0; 8]);
        self.0.extend([family, 0]);
        self.0.extend(resource.to_be_bytes());
        fill(&mut Attributes(&mut self.0));
        let len = (self.0.len() - start) as u32;
        self.0[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Commits it; the first error of any message is the answer.
    pub fn commit(mut self, socket: &Socket) -> nix::Result<()> {
        self.message(BATCH_END, 0, 0, SUBSYSTEM, |_| {});
        socket.commit(&self.0)
    }
}

/// A netlink socket to netfilter. Tables that it owns go when it is closed.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// Opens one in the network namespace of the calling thread.
    pub fn open() -> nix::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter).map(Self)
    }

    fn commit(&self, batch: &[u8]) -> nix::Result<()> {
        // The batch has to fit into one datagram.
        let room = (batch.len() as u32).saturating_mul(2).max(1 << 20);
        let _ = sockopt::set(self.0.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &room);
        let fd = self.0.as_raw_fd();
        sendto(fd, batch, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        // The kernel works on it within sendto: whatever it has to say is there now.
        let mut result = Ok(());
        let mut buffer = vec![0; 64 << 10];
        loop {
            let len = match recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return result,
                Err(Errno::EINTR) => continue,
                answer => answer?,
            };
            result = result.and(errors(&buffer[..len]));
        }
    }
}

/// The first error in a datagram of answers.
fn errors(mut bytes: &[u8]) -> nix::Result<()> {
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_ne_bytes)
    };
    while let (Some(len), Some(kind)) = (word(bytes, 0), word(bytes, 4)) {
        let error = word(bytes, HEADER).unwrap_or_default() as i32;
        if kind as u16 == NLMSG_ERROR && error != 0 {
            return Err(Errno::from_raw(-error));
        }
        let step = (len as usize).max(HEADER).next_multiple_of(4);
        bytes = bytes.get(step..).unwrap_or_default();
    }
    Ok(())
}
