//! Queues of unix sockets: read without taking anything away, and filled again by the peer.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use criu_images::proto::SkPacketEntry;
use criu_images::{Image, Record, RecordSet, Store, record};
use criu_kernel::sockopt;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, send};

use crate::error::{Called, Error, Result};

/// Room for a packet to begin with; packets can be as large as their sender's buffer.
const ROOM: usize = 256 << 10;
/// Room for control messages: 253 descriptors, credentials, a security label.
const CONTROL: usize = 4096;

/// Reads the queue of a socket into records for the description `id`.
pub(super) fn dump(fd: BorrowedFd<'_>, id: u32, stream: bool, records: &mut RecordSet) -> Result<()> {
    let original = sockopt::peek_offset(fd).called("getsockopt(SO_PEEK_OFF)")?;
    sockopt::set_peek_offset(fd, 0).called("setsockopt(SO_PEEK_OFF)")?;
    let read = peek_all(fd, id, stream, records);
    sockopt::set_peek_offset(fd, original).called("setsockopt(SO_PEEK_OFF)")?;
    read
}

fn peek_all(fd: BorrowedFd<'_>, id: u32, stream: bool, records: &mut RecordSet) -> Result<()> {
    let mut buffer = vec![0; ROOM];
    let mut offset = 0;
    loop {
        let (len, truncated) = match peek(fd, &mut buffer)? {
            None => return Ok(()),
            // The end of a stream, or a datagram of no bytes.
            Some((0, _)) if stream => return Ok(()),
            Some(read) => read,
        };
        if truncated {
            buffer.resize(buffer.len() * 2, 0);
            sockopt::set_peek_offset(fd, offset).called("setsockopt(SO_PEEK_OFF)")?;
            continue;
        }
        offset += len as i32;
        let entry = SkPacketEntry { id_for: id, length: len as u32, ..SkPacketEntry::default() };
        records.push(Record::new(Image::SkQueues, 0, &entry).with_payload(buffer[..len].to_vec()));
    }
}

/// One packet, or as much of a stream as there is room for: its length, and whether it was longer.
fn peek(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<(usize, bool)>> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut parts = [IoSliceMut::new(buffer)];
    let mut control = vec![0; CONTROL];
    let message = match recvmsg::<()>(fd.as_raw_fd(), &mut parts, Some(&mut control), flags) {
        Err(Errno::EAGAIN) => return Ok(None),
        answer => answer.called("recvmsg(MSG_PEEK)")?,
    };
    let mut controls = message.cmsgs().called("recvmsg: control messages")?.peekable();
    if controls.peek().is_some() {
        return Err(in_flight(controls));
    }
    Ok(Some((message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC))))
}

/// Names what travels with a packet. Descriptors among it were made for us, and are closed.
fn in_flight(controls: impl Iterator<Item = ControlMessageOwned>) -> Error {
    let named: Vec<_> = controls
        .map(|control| match control {
            ControlMessageOwned::ScmRights(fds) => {
                let count = fds.len();
                for fd in fds {
                    // SAFETY: recvmsg made this descriptor for us; nobody else knows it.
                    drop(unsafe { OwnedFd::from_raw_fd(fd) });
                }
                format!("{count} descriptors in flight (SCM_RIGHTS)")
            }
            ControlMessageOwned::ScmCredentials(_) => "credentials in flight (SCM_CREDENTIALS)".into(),
            other => format!("a control message in flight ({other:?})"),
        })
        .collect();
    Error::Unsupported(named.join(", "))
}

/// The packets of all queues, by the description that is to receive them.
pub(super) type Queues = HashMap<u32, Vec<Vec<u8>>>;

/// Reads `sk-queues.img`, where there is one.
pub(super) fn read(store: &dyn Store) -> Result<Queues> {
    let mut queues = Queues::new();
    let records = match record::read_records(store, Image::SkQueues, 0) {
        Err(error) if error.is_missing() => return Ok(queues),
        records => records?,
    };
    for record in records {
        let entry: SkPacketEntry = record.decode()?;
        if !entry.scm.is_empty() {
            return Err(Error::Unsupported("descriptors in flight (SCM_RIGHTS) in sk-queues.img".into()));
        }
        queues.entry(entry.id_for).or_default().push(record.payload);
    }
    Ok(queues)
}

/// Sends packets; each as a whole, but for a stream. Buffers must be wide.
pub(super) fn fill(sender: BorrowedFd<'_>, packets: &[Vec<u8>], stream: bool) -> Result<()> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    for packet in packets {
        let mut rest = packet.as_slice();
        loop {
            let sent = send(sender.as_raw_fd(), rest, flags).called("send(a queued packet)")?;
            rest = &rest[sent..];
            if rest.is_empty() || !stream {
                break;
            }
        }
    }
    Ok(())
}
