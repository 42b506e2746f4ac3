//! Queues of unix sockets: read without taking anything away, and filled again by the peer.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use criu_images::proto::{ScmEntry, SkPacketEntry};
use criu_images::{Image, Record, RecordSet, Store, record};
use criu_kernel::sockopt;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, send, sendmsg};

use crate::error::{Called, Error, Result};

/// Room for a packet to begin with; packets can be as large as their sender's buffer.
const ROOM: usize = 256 << 10;
/// Room for control messages: 253 descriptors, credentials, a security label.
const CONTROL: usize = 4096;

/// A packet, or a part of a stream, with the descriptors that travel with it. Of a stream, the part may
/// begin before the byte that they were sent with: a peek tells no more.
#[derive(Debug)]
pub(super) struct Packet {
    bytes: Vec<u8>,
    rights: Vec<OwnedFd>,
}

impl Packet {
    /// The descriptors that travel with it.
    pub fn rights(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.rights.iter().map(AsFd::as_fd)
    }
}

/// Reads the queue of a socket; nothing is taken away.
pub(super) fn peek(fd: BorrowedFd<'_>, stream: bool) -> Result<Vec<Packet>> {
    let original = sockopt::peek_offset(fd).called("getsockopt(SO_PEEK_OFF)")?;
    sockopt::set_peek_offset(fd, 0).called("setsockopt(SO_PEEK_OFF)")?;
    let packets = peek_all(fd, stream);
    sockopt::set_peek_offset(fd, original).called("setsockopt(SO_PEEK_OFF)")?;
    packets
}

fn peek_all(fd: BorrowedFd<'_>, stream: bool) -> Result<Vec<Packet>> {
    let mut packets = Vec::new();
    let mut buffer = vec![0; ROOM];
    let mut offset = 0;
    while let Some((len, truncated, rights)) = peek_one(fd, &mut buffer)? {
        if truncated {
            buffer.resize(buffer.len() * 2, 0);
            sockopt::set_peek_offset(fd, offset).called("setsockopt(SO_PEEK_OFF)")?;
            continue;
        }
        // The end of a stream; but there may be datagrams of no bytes.
        if len == 0 && stream {
            break;
        }
        offset += len as i32;
        packets.push(Packet { bytes: buffer[..len].to_vec(), rights });
    }
    Ok(packets)
}

/// Stores packets for the description `id`. `id_of` tells the id of a description from a descriptor.
pub(super) fn store(
    id: u32,
    packets: Vec<Packet>,
    id_of: &dyn Fn(BorrowedFd<'_>) -> Option<u32>,
    records: &mut RecordSet,
) -> Result<()> {
    for packet in packets {
        let ids: Option<Vec<_>> = packet.rights.iter().map(|fd| id_of(fd.as_fd())).collect();
        let rights = ids.ok_or_else(|| {
            let what = "descriptors in flight (SCM_RIGHTS) whose descriptions are not known";
            Error::Unsupported(what.into())
        })?;
        let mut entry =
            SkPacketEntry { id_for: id, length: packet.bytes.len() as u32, ..SkPacketEntry::default() };
        if !rights.is_empty() {
            entry.scm.push(ScmEntry { r#type: libc::SCM_RIGHTS as u32, rights });
        }
        records.push(Record::new(Image::SkQueues, 0, &entry).with_payload(packet.bytes));
    }
    Ok(())
}

/// One packet, or as much of a stream as there is room for: its length, whether it was longer, and the
/// descriptors with it.
fn peek_one(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<(usize, bool, Vec<OwnedFd>)>> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut parts = [IoSliceMut::new(buffer)];
    let mut control = vec![0; CONTROL];
    let message = match recvmsg::<()>(fd.as_raw_fd(), &mut parts, Some(&mut control), flags) {
        Err(Errno::EAGAIN) => return Ok(None),
        answer => answer.called("recvmsg(MSG_PEEK)")?,
    };
    let (mut rights, mut other) = (Vec::new(), None);
    for control in message.cmsgs().called("recvmsg: control messages")? {
        match control {
            ControlMessageOwned::ScmRights(fds) => {
                // SAFETY: recvmsg made these descriptors for us; nobody else knows them.
                rights.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
            ControlMessageOwned::ScmCredentials(_) => {
                other = Some("credentials (SCM_CREDENTIALS)".to_owned())
            }
            unknown => other = Some(format!("a control message ({unknown:?})")),
        }
    }
    match other {
        Some(what) => Err(Error::Unsupported(format!("{what} in flight"))),
        None => Ok(Some((message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC), rights))),
    }
}

/// The packets of all queues, by the description that is to receive them: each with the ids of the
/// descriptions that travel with it.
pub(super) type Queues = HashMap<u32, Vec<(Vec<u8>, Vec<u32>)>>;

/// Reads `sk-queues.img`, where there is one.
pub(super) fn read(store: &dyn Store) -> Result<Queues> {
    let mut queues = Queues::new();
    let records = match record::read_records(store, Image::SkQueues, 0) {
        Err(error) if error.is_missing() => return Ok(queues),
        records => records?,
    };
    for record in records {
        let entry: SkPacketEntry = record.decode()?;
        if let Some(other) = entry.scm.iter().find(|scm| scm.r#type as i32 != libc::SCM_RIGHTS) {
            return Err(Error::Unsupported(format!("a control message of type {} in flight", other.r#type)));
        }
        let rights = entry.scm.into_iter().flat_map(|scm| scm.rights).collect();
        queues.entry(entry.id_for).or_default().push((record.payload, rights));
    }
    Ok(queues)
}

/// Sends packets, each as a whole but for a stream. Buffers must be wide. `fd_of` finds a description.
pub(super) fn fill(
    sender: BorrowedFd<'_>,
    packets: &[(Vec<u8>, Vec<u32>)],
    stream: bool,
    fd_of: &dyn Fn(u32) -> Option<OwnedFd>,
) -> Result<()> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    for (bytes, rights) in packets {
        let descriptions: Option<Vec<OwnedFd>> = rights.iter().map(|id| fd_of(*id)).collect();
        let descriptions =
            descriptions.ok_or_else(|| Error::Corrupt(format!("files {rights:x?} in flight are missing")))?;
        let numbers: Vec<_> = descriptions.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &[][..] } else { &control };
        let first = [IoSlice::new(bytes)];
        let sent = sendmsg::<()>(sender.as_raw_fd(), &first, control, flags, None);
        let mut rest = &bytes[sent.called("sendmsg(a queued packet)")?..];
        while stream && !rest.is_empty() {
            rest = &rest[send(sender.as_raw_fd(), rest, flags).called("send(a queued packet)")?..];
        }
    }
    Ok(())
}
