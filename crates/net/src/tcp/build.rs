//! From a [`Connection`] to a socket.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use criu_images::proto::SkOptsEntry;
use criu_kernel::tcp_repair::{self, Info, Queue, Repair, RepairOption, Window};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockProtocol, SockType, send, shutdown, socket,
};

use super::{Connection, State, segment};
use crate::address;
use crate::error::{Called, Error, Result};
use crate::options;

/// A connection in a new socket, still in repair mode: dropped, it ends without a word to the peer.
#[derive(Debug)]
pub struct Rebuilt {
    fd: OwnedFd,
    /// Bytes that were never sent.
    unsent: Vec<u8>,
}

impl criu_resource::Restore for Connection {
    type Entry = Connection;
    type Context<'a> = &'a SkOptsEntry;
    type Object = Rebuilt;
    type Error = Error;

    /// [`Connection::build`]
    fn restore(entry: &Connection, options: &SkOptsEntry) -> Result<Rebuilt> {
        entry.build(options)
    }
}

impl Connection {
    /// Makes a socket that carries the connection on, non-blocking and in repair mode. Of `options` only
    /// the device counts; set the others after [`Rebuilt::resume`].
    ///
    /// # Errors
    /// [`Error::Bind`] when the address is taken or foreign; `EPERM` without `CAP_NET_ADMIN`;
    /// `ENETUNREACH` without a route to the peer.
    pub fn build(&self, options: &SkOptsEntry) -> Result<Rebuilt> {
        let family = if self.local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family, SockType::Stream, flags, SockProtocol::Tcp).called("socket")?;
        if !self.local.is_ipv4() {
            options::set(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
        }
        self.fill(socket, options)
    }

    fn fill(&self, socket: OwnedFd, options: &SkOptsEntry) -> Result<Rebuilt> {
        let fd = socket.as_fd();
        Connection::abandon(fd)?;
        options::bind_device(fd, options)?;
        options::widen_buffers(fd)?;
        self.connect(fd)?;
        self.negotiate(fd)?;

        send_to_queue(fd, Queue::Receive, &self.incoming)?;
        let unsent = self.stream.unsq_len() as usize;
        let (sent, unsent) = self.outgoing.split_at(self.outgoing.len().saturating_sub(unsent));
        send_to_queue(fd, Queue::Send, sent)?;
        self.set_window(fd)?;
        tcp_repair::set_queue(fd, Queue::None).called("setsockopt(TCP_REPAIR_QUEUE)")?;
        // What was never sent waits until the peer may hear it, unless our FIN stands behind it.
        let mut unsent = unsent.to_vec();
        if self.state.fin_sent() && !unsent.is_empty() {
            tcp_repair::set_repair(fd, Repair::OffNoProbe).called("setsockopt(TCP_REPAIR, -1)")?;
            send_all(fd, &std::mem::take(&mut unsent))?;
            Connection::abandon(fd)?;
        }
        self.close_ends(fd)?;
        Ok(Rebuilt { fd: socket, unsent })
    }

    /// Addresses and sequence numbers.
    fn connect(&self, fd: BorrowedFd<'_>) -> Result<()> {
        address::bind_to(fd, self.local)?;
        let (receive, mut transmit) = self.first_sequences();
        let syn_sent = self.state == State::SynSent;
        if syn_sent {
            transmit = transmit.wrapping_sub(1);
        }
        for (queue, sequence) in [(Queue::Receive, receive), (Queue::Send, transmit)] {
            tcp_repair::set_queue(fd, queue).called("setsockopt(TCP_REPAIR_QUEUE)")?;
            tcp_repair::set_queue_sequence(fd, sequence).called("setsockopt(TCP_QUEUE_SEQ)")?;
        }
        if syn_sent {
            // The kernel has to send the SYN again, from the same sequence number.
            tcp_repair::set_repair(fd, Repair::OffNoProbe).called("setsockopt(TCP_REPAIR, -1)")?;
        }
        match address::connect_to(fd, self.remote) {
            Err(Errno::EINPROGRESS) if syn_sent => {}
            answer => answer.called(format!("connect({})", self.remote))?,
        }
        if syn_sent { Connection::abandon(fd) } else { Ok(()) }
    }

    /// Sequence numbers of the first byte in the receive and the send queue. FINs, which count as a byte,
    /// come later.
    fn first_sequences(&self) -> (u32, u32) {
        let stream = &self.stream;
        let receive = stream.inq_seq.wrapping_sub(stream.inq_len);
        let transmit = stream.outq_seq.wrapping_sub(stream.outq_len);
        (
            receive.wrapping_sub(self.state.fin_received().into()),
            transmit.wrapping_sub(self.state.fin_sent().into()),
        )
    }

    fn negotiate(&self, fd: BorrowedFd<'_>) -> Result<()> {
        let stream = &self.stream;
        let has = |bit: u8| stream.opt_mask & u32::from(bit) != 0;
        let missing = |what: &str| Error::Corrupt(format!("a TCP connection without {what}"));
        let mut list = Vec::new();
        if has(Info::SACK) {
            list.push(RepairOption::sack_permitted());
        }
        if has(Info::WSCALE) {
            let receive = stream.rcv_wscale.ok_or_else(|| missing("receive window scale"))?;
            list.push(RepairOption::window_scale(stream.snd_wscale as u8, receive as u8));
        }
        if has(Info::TIMESTAMPS) {
            list.push(RepairOption::timestamps());
        }
        list.push(RepairOption::mss(stream.mss_clamp as u16));
        if self.state != State::SynSent {
            tcp_repair::set_options(fd, &list).called("setsockopt(TCP_REPAIR_OPTIONS)")?;
        }
        if has(Info::TIMESTAMPS) {
            let timestamp = stream.timestamp.ok_or_else(|| missing("timestamp"))?;
            tcp_repair::set_timestamp(fd, timestamp).called("setsockopt(TCP_TIMESTAMP)")?;
        }
        Ok(())
    }

    fn set_window(&self, fd: BorrowedFd<'_>) -> Result<()> {
        let stream = &self.stream;
        let Some(snd_wnd) = stream.snd_wnd.filter(|_| self.state != State::SynSent) else {
            return Ok(());
        };
        let mut window = Window {
            snd_wl1: stream.snd_wl1(),
            snd_wnd,
            max_window: stream.max_window(),
            rcv_wnd: stream.rcv_wnd(),
            rcv_wup: stream.rcv_wup(),
        };
        if self.state.fin_received() {
            // The peer's FIN is still to come.
            window.rcv_wup = window.rcv_wup.wrapping_sub(1);
            window.rcv_wnd = window.rcv_wnd.wrapping_add(1);
        }
        tcp_repair::set_window(fd, &window).called("setsockopt(TCP_REPAIR_WINDOW)")
    }

    /// Brings the socket from the established state to its own, by the way it once went.
    fn close_ends(&self, fd: BorrowedFd<'_>) -> Result<()> {
        let state = self.state;
        let (receive, transmit) = self.first_sequences();
        let peer_next = receive.wrapping_add(self.stream.inq_len);
        let acknowledged = transmit;
        if state.fin_sent_first() {
            self.close_ours(fd)?;
        }
        if state.fin_received() {
            segment::from_peer(self, segment::FIN | segment::ACK, peer_next, acknowledged)?;
        }
        if state.fin_sent() && !state.fin_sent_first() {
            self.close_ours(fd)?;
        }
        if state.fin_acknowledged() {
            let peer_next = peer_next.wrapping_add(state.fin_received().into());
            segment::from_peer(self, segment::ACK, peer_next, acknowledged.wrapping_add(1))?;
        }
        if state.fin_received() || state.fin_acknowledged() {
            wait_for(fd, state)?;
        }
        Ok(())
    }

    fn close_ours(&self, fd: BorrowedFd<'_>) -> Result<()> {
        if self.state.fin_acknowledged() {
            // With this queue chosen the FIN counts as sent.
            tcp_repair::set_queue(fd, Queue::Send).called("setsockopt(TCP_REPAIR_QUEUE)")?;
        }
        shutdown(fd.as_raw_fd(), Shutdown::Write).called("shutdown(SHUT_WR)")?;
        tcp_repair::set_queue(fd, Queue::None).called("setsockopt(TCP_REPAIR_QUEUE)")
    }
}

/// The peer's segments come through the loopback device: at once, as a rule.
fn wait_for(fd: BorrowedFd<'_>, state: State) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        let now = tcp_repair::info(fd).called("getsockopt(TCP_INFO)")?.state;
        if now == state as u8 {
            return Ok(());
        }
        if Instant::now() > deadline {
            let now = State::from_number(now.into());
            return Err(Error::Unsupported(format!(
                "this connection: it should be {state:?} and is {now:?}"
            )));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Rebuilt {
    /// The socket; in repair mode.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Leaves repair mode: a window probe makes the peer answer, and what was never sent is sent. The
    /// network must be unlocked before.
    ///
    /// The socket is non-blocking, and its buffers are larger than they were.
    ///
    /// # Errors
    /// That of setsockopt(2) or send(2).
    pub fn resume(self) -> Result<OwnedFd> {
        tcp_repair::set_repair(self.fd.as_fd(), Repair::Off).called("setsockopt(TCP_REPAIR, 0)")?;
        send_all(self.fd.as_fd(), &self.unsent)?;
        Ok(self.fd)
    }
}

fn send_to_queue(fd: BorrowedFd<'_>, queue: Queue, bytes: &[u8]) -> Result<()> {
    tcp_repair::set_queue(fd, queue).called("setsockopt(TCP_REPAIR_QUEUE)")?;
    send_all(fd, bytes)
}

/// Sends in pieces that shrink while the kernel has no memory for so large a one.
fn send_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    let mut piece = 1 << 20;
    while !bytes.is_empty() {
        let next = &bytes[..bytes.len().min(piece)];
        match send(fd.as_raw_fd(), next, MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::EINTR) => {}
            Err(Errno::ENOMEM | Errno::ENOBUFS | Errno::EAGAIN) if piece > 1024 => piece /= 2,
            Err(errno) => return Err(errno).called("send(TCP queue)"),
        }
    }
    Ok(())
}
