//! From a socket to a [`Connection`].

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use criu_images::proto::TcpStreamEntry;
use criu_images::{Image, Record};
use criu_kernel::sockopt;
use criu_kernel::tcp_repair::{self, Info, Queue, Repair};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::State;
use crate::address;
use crate::error::{Called, Error, Result};
use crate::options;

/// A TCP connection as data: what another socket needs to carry it on.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// Own address.
    pub local: SocketAddr,
    /// Peer.
    pub remote: SocketAddr,
    /// State.
    pub state: State,
    /// Sequence numbers, negotiated options, windows. `outq_len` counts all bytes of `outgoing`,
    /// `unsq_len` those of them that were not sent yet.
    pub stream: TcpStreamEntry,
    /// Received and not yet read.
    pub incoming: Vec<u8>,
    /// Written and not yet acknowledged.
    pub outgoing: Vec<u8>,
}

impl criu_resource::Dump for Connection {
    type Source<'a> = BorrowedFd<'a>;
    type Entry = Connection;
    type Error = Error;

    /// Reads the connection of a TCP socket that is not listening. Needs `CAP_NET_ADMIN`.
    ///
    /// The peer must be kept silent (see [`crate::lock`]), or what it sends afterwards is lost to the
    /// copy. The socket is in repair mode meanwhile; then it goes on as before, and has sent nothing.
    fn dump(fd: BorrowedFd<'_>) -> Result<Connection> {
        let local = address::local(fd)?;
        let remote = address::remote(fd)?
            .ok_or_else(|| Error::Unsupported(format!("a TCP socket at {local} without a peer")))?;
        let _paused = Paused::begin(fd)?;
        let info = tcp_repair::info(fd).called("getsockopt(TCP_INFO)")?;
        let state = State::from_number(info.state.into())
            .filter(|state| !matches!(state, State::Listen | State::SynReceived | State::TimeWait))
            .ok_or_else(|| Error::Unsupported(format!("TCP state {} of {local} -> {remote}", info.state)))?;
        let mut stream = negotiated(fd, &info)?;
        let (incoming, outgoing) = queues(fd, state, &mut stream)?;
        Ok(Connection { local, remote, state, stream, incoming, outgoing })
    }
}

impl Connection {
    /// Makes that the socket ends without a word to the peer when its last descriptor is closed.
    /// From here on it neither sends nor receives. Undo with [`Connection::resume`].
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN`.
    pub fn abandon(fd: BorrowedFd<'_>) -> Result<()> {
        tcp_repair::set_repair(fd, Repair::On).called("setsockopt(TCP_REPAIR, 1)")
    }

    /// Lets an abandoned socket go on. It sends nothing by itself. `reuse` is the value that
    /// `SO_REUSEADDR` had, which repair mode overwrites.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN`.
    pub fn resume(fd: BorrowedFd<'_>, reuse: bool) -> Result<()> {
        tcp_repair::set_repair(fd, Repair::OffNoProbe).called("setsockopt(TCP_REPAIR, -1)")?;
        options::set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, reuse.into())
    }

    /// The record of image `tcp-stream-INODE`: the entry and both queues.
    pub fn record(&self, inode: u32) -> Record {
        let payload = [self.incoming.as_slice(), &self.outgoing].concat();
        Record::new(Image::TcpStream, inode.into(), &self.stream).with_payload(payload)
    }

    /// The connection of an image; addresses and state come from the socket's own entry.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when lengths contradict each other, or those of the image.
    pub fn from_record(record: &Record, local: SocketAddr, remote: SocketAddr, state: State) -> Result<Self> {
        let stream: TcpStreamEntry = record.decode()?;
        let (inq, outq) = (stream.inq_len as usize, stream.outq_len as usize);
        if record.payload.len() != inq.saturating_add(outq) || stream.unsq_len() > stream.outq_len {
            let name = record.file_name();
            return Err(Error::Corrupt(format!("{name}: queues of {inq} and {outq} bytes do not fit")));
        }
        let (incoming, outgoing) = record.payload.split_at(inq);
        Ok(Self { local, remote, state, stream, incoming: incoming.into(), outgoing: outgoing.into() })
    }
}

/// Repair mode for as long as it lives.
struct Paused<'a> {
    fd: BorrowedFd<'a>,
    reuse: bool,
}

impl<'a> Paused<'a> {
    fn begin(fd: BorrowedFd<'a>) -> Result<Self> {
        let reuse = options::get(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR)? != 0;
        Connection::abandon(fd)?;
        Ok(Self { fd, reuse })
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if let Err(error) = Connection::resume(self.fd, self.reuse) {
            tracing::error!("tcp: a socket stays in repair mode: {error}");
        }
    }
}

/// What both ends agreed on, and the windows.
fn negotiated(fd: BorrowedFd<'_>, info: &Info) -> Result<TcpStreamEntry> {
    let mut stream = TcpStreamEntry {
        opt_mask: info.options.into(),
        // In repair mode this is the limit that the peer announced.
        mss_clamp: options::get(fd, libc::IPPROTO_TCP, libc::TCP_MAXSEG)? as u32,
        ..TcpStreamEntry::default()
    };
    if info.options & Info::WSCALE != 0 {
        stream.snd_wscale = info.snd_wscale().into();
        stream.rcv_wscale = Some(info.rcv_wscale().into());
    }
    if info.options & Info::TIMESTAMPS != 0 {
        stream.timestamp = Some(tcp_repair::timestamp(fd).called("getsockopt(TCP_TIMESTAMP)")?);
    }
    match tcp_repair::window(fd) {
        // Linux before 4.8.
        Err(Errno::ENOPROTOOPT) => {}
        window => {
            let window = window.called("getsockopt(TCP_REPAIR_WINDOW)")?;
            stream.snd_wl1 = Some(window.snd_wl1);
            stream.snd_wnd = Some(window.snd_wnd);
            stream.max_window = Some(window.max_window);
            stream.rcv_wnd = Some(window.rcv_wnd);
            stream.rcv_wup = Some(window.rcv_wup);
        }
    }
    Ok(stream)
}

/// Lengths, sequence numbers and contents of the queues.
fn queues(fd: BorrowedFd<'_>, state: State, stream: &mut TcpStreamEntry) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut outgoing = sockopt::unsent_bytes(fd).called("ioctl(SIOCOUTQ)")? as u32;
    let mut unsent = sockopt::never_sent_bytes(fd).called("ioctl(SIOCOUTQNSD)")? as u32;
    if state == State::Closed {
        // The connection is over, or was reset: nobody will get what it did not send.
        (outgoing, unsent) = (0, 0);
    } else if state.fin_sent() {
        // A FIN counts as a byte of the queue.
        outgoing = outgoing.saturating_sub(1);
        unsent = unsent.saturating_sub(1);
    }
    stream.outq_len = outgoing;
    stream.unsq_len = Some(unsent);
    stream.inq_len = sockopt::readable_bytes(fd).called("ioctl(SIOCINQ)")? as u32;

    let incoming = queue(fd, Queue::Receive, "receive", stream.inq_len as usize, &mut stream.inq_seq)?;
    let outgoing = queue(fd, Queue::Send, "send", outgoing as usize, &mut stream.outq_seq)?;
    Ok((incoming, outgoing))
}

fn queue(fd: BorrowedFd<'_>, queue: Queue, name: &'static str, len: usize, seq: &mut u32) -> Result<Vec<u8>> {
    tcp_repair::set_queue(fd, queue).called("setsockopt(TCP_REPAIR_QUEUE)")?;
    *seq = tcp_repair::queue_sequence(fd).called("getsockopt(TCP_QUEUE_SEQ)")?;
    if len == 0 {
        return Ok(Vec::new());
    }
    // One more than announced, to see that there is no more.
    let mut bytes = vec![0; len + 1];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let found = recv(fd.as_raw_fd(), &mut bytes, flags).called(format!("recv({name} queue)"))?;
    if found != len {
        return Err(Error::Queue { queue: name, expected: len, found });
    }
    bytes.truncate(len);
    Ok(bytes)
}
