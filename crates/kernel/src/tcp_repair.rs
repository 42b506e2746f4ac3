//! Taking a TCP connection apart and putting one together: `TCP_REPAIR` and its companions.
//!
//! Linux 3.5 (window 4.8, timestamp 3.9), `CAP_NET_ADMIN` in the socket's user namespace. A
//! socket in repair mode sends nothing: `connect` needs no peer, and closing sends no reset.

use std::os::fd::BorrowedFd;

use nix::Result;

use crate::plain::{self, Plain};
use crate::sockopt;

const TCP: i32 = libc::IPPROTO_TCP;

/// How to leave or enter repair mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Repair {
    /// Leave; an established connection then sends a window probe.
    Off = 0,
    /// Enter.
    On = 1,
    /// Leave without a window probe (Linux 4.19).
    OffNoProbe = -1,
}

/// Sets repair mode (`TCP_REPAIR`). `EPERM` without `CAP_NET_ADMIN`, or in a state that is
/// neither closed, listening nor established.
pub fn set_repair(fd: BorrowedFd<'_>, repair: Repair) -> Result<()> {
    sockopt::set(fd, TCP, libc::TCP_REPAIR, &(repair as i32))
}

/// Which queue the following calls, and `send` and `recv`, mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Queue {
    /// None.
    None = 0,
    /// Receive queue.
    Receive = 1,
    /// Send queue.
    Send = 2,
}

/// Chooses a queue (`TCP_REPAIR_QUEUE`); in repair mode only.
pub fn set_queue(fd: BorrowedFd<'_>, queue: Queue) -> Result<()> {
    sockopt::set(fd, TCP, libc::TCP_REPAIR_QUEUE, &(queue as i32))
}

/// The sequence number after the chosen queue's last byte (`TCP_QUEUE_SEQ`).
pub fn queue_sequence(fd: BorrowedFd<'_>) -> Result<u32> {
    sockopt::get(fd, TCP, libc::TCP_QUEUE_SEQ)
}

/// Sets the chosen queue's sequence number; on a closed socket only (`EPERM`).
pub fn set_queue_sequence(fd: BorrowedFd<'_>, sequence: u32) -> Result<()> {
    sockopt::set(fd, TCP, libc::TCP_QUEUE_SEQ, &sequence)
}

/// An option negotiated at connection (`struct tcp_repair_opt`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RepairOption {
    /// `TCPOPT_*`.
    pub code: u32,
    /// Its value.
    pub value: u32,
}

// SAFETY: two u32.
unsafe impl Plain for RepairOption {}

impl RepairOption {
    /// Maximum segment size of the peer (`TCPOPT_MAXSEG`).
    pub fn mss(bytes: u16) -> Self {
        Self { code: 2, value: bytes.into() }
    }

    /// Window scaling (`TCPOPT_WINDOW`) in both directions, 0 to 14.
    pub fn window_scale(send: u8, receive: u8) -> Self {
        Self { code: 3, value: u32::from(send) | u32::from(receive) << 16 }
    }

    /// Selective acknowledgement is permitted (`TCPOPT_SACK_PERM`).
    pub fn sack_permitted() -> Self {
        Self { code: 4, value: 0 }
    }

    /// Timestamps are used (`TCPOPT_TIMESTAMP`).
    pub fn timestamps() -> Self {
        Self { code: 8, value: 0 }
    }
}

/// Sets negotiated options (`TCP_REPAIR_OPTIONS`), on an established socket in repair mode.
pub fn set_options(fd: BorrowedFd<'_>, options: &[RepairOption]) -> Result<()> {
    let bytes: Vec<u8> = options.iter().flat_map(plain::as_bytes).copied().collect();
    sockopt::set_bytes(fd, TCP, libc::TCP_REPAIR_OPTIONS, &bytes)
}

/// The state of the windows (`struct tcp_repair_window`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Window {
    /// Sequence number of the segment that last changed the send window.
    pub snd_wl1: u32,
    /// Send window, in bytes.
    pub snd_wnd: u32,
    /// Largest send window seen.
    pub max_window: u32,
    /// Receive window, in bytes.
    pub rcv_wnd: u32,
    /// Sequence number that was acknowledged when the receive window was last sent.
    pub rcv_wup: u32,
}

// SAFETY: five u32.
unsafe impl Plain for Window {}

/// The windows (`TCP_REPAIR_WINDOW`); in repair mode only.
pub fn window(fd: BorrowedFd<'_>) -> Result<Window> {
    sockopt::get(fd, TCP, libc::TCP_REPAIR_WINDOW)
}

/// Sets the windows; on an established socket in repair mode.
pub fn set_window(fd: BorrowedFd<'_>, window: &Window) -> Result<()> {
    sockopt::set(fd, TCP, libc::TCP_REPAIR_WINDOW, window)
}

const TCP_TIMESTAMP: i32 = 24;

/// The timestamp clock of the connection (`TCP_TIMESTAMP`), in its own unit.
pub fn timestamp(fd: BorrowedFd<'_>) -> Result<u32> {
    sockopt::get(fd, TCP, TCP_TIMESTAMP)
}

/// Sets the timestamp clock; in repair mode only. An odd value means microseconds (Linux 6.7).
pub fn set_timestamp(fd: BorrowedFd<'_>, timestamp: u32) -> Result<()> {
    sockopt::set(fd, TCP, TCP_TIMESTAMP, &timestamp)
}

/// `TCP_INFO`; fields that an older kernel lacks are zero. Times in microseconds where the
/// name does not end in a count or in bytes; the `last_*` in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // tcp(7) and <linux/tcp.h> name and explain them, with a prefix tcpi_
pub struct Info {
    pub state: u8,
    pub ca_state: u8,
    pub retransmits: u8,
    pub probes: u8,
    pub backoff: u8,
    /// [`Info::TIMESTAMPS`] and the following.
    pub options: u8,
    /// Low half: send; high half: receive. See [`Info::snd_wscale`].
    pub wscale: u8,
    pub bits: u8,
    pub rto: u32,
    pub ato: u32,
    pub snd_mss: u32,
    pub rcv_mss: u32,
    pub unacked: u32,
    pub sacked: u32,
    pub lost: u32,
    pub retrans: u32,
    pub fackets: u32,
    pub last_data_sent: u32,
    pub last_ack_sent: u32,
    pub last_data_recv: u32,
    pub last_ack_recv: u32,
    pub pmtu: u32,
    pub rcv_ssthresh: u32,
    pub rtt: u32,
    pub rttvar: u32,
    pub snd_ssthresh: u32,
    pub snd_cwnd: u32,
    pub advmss: u32,
    pub reordering: u32,
    pub rcv_rtt: u32,
    pub rcv_space: u32,
    pub total_retrans: u32,
    pub pacing_rate: u64,
    pub max_pacing_rate: u64,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub segs_out: u32,
    pub segs_in: u32,
    pub notsent_bytes: u32,
    pub min_rtt: u32,
    pub data_segs_in: u32,
    pub data_segs_out: u32,
    pub delivery_rate: u64,
    pub busy_time: u64,
    pub rwnd_limited: u64,
    pub sndbuf_limited: u64,
    pub delivered: u32,
    pub delivered_ce: u32,
    pub bytes_sent: u64,
    pub bytes_retrans: u64,
    pub dsack_dups: u32,
    pub reord_seen: u32,
    pub rcv_ooopack: u32,
    pub snd_wnd: u32,
    pub rcv_wnd: u32,
    pub rehash: u32,
    pub total_rto: u16,
    pub total_rto_recoveries: u16,
    pub total_rto_time: u32,
}

// SAFETY: integers in C layout; the u64 groups start at multiples of eight, so there are no gaps.
unsafe impl Plain for Info {}

impl Info {
    /// Bit of `options`: timestamps.
    pub const TIMESTAMPS: u8 = 1;
    /// Bit of `options`: selective acknowledgement.
    pub const SACK: u8 = 2;
    /// Bit of `options`: window scaling.
    pub const WSCALE: u8 = 4;
    /// Bit of `options`: explicit congestion notification.
    pub const ECN: u8 = 8;
    /// Bit of `options`: timestamps in microseconds (Linux 6.7).
    pub const USEC_TS: u8 = 64;

    /// Scale of the peer's window.
    pub fn snd_wscale(&self) -> u8 {
        self.wscale & 0xf
    }

    /// Scale of our window.
    pub fn rcv_wscale(&self) -> u8 {
        self.wscale >> 4
    }
}

/// `TCP_INFO`
pub fn info(fd: BorrowedFd<'_>) -> Result<Info> {
    sockopt::get(fd, TCP, libc::TCP_INFO)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_connection_tells_its_state() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"12345").unwrap();
        assert_eq!(sockopt::readable_bytes(server.as_fd()).unwrap(), 5);

        let seen = info(client.as_fd()).unwrap();
        assert_eq!(seen.state, 1);
        assert_ne!(seen.options & Info::WSCALE, 0);
        assert!(seen.snd_wnd > 0 && seen.bytes_sent == 5 && seen.rcv_wscale() < 15);

        match set_repair(client.as_fd(), Repair::On) {
            Err(Errno::EPERM) => return, // needs CAP_NET_ADMIN
            answer => answer.unwrap(),
        }
        set_repair(server.as_fd(), Repair::On).unwrap();
        set_queue(client.as_fd(), Queue::Send).unwrap();
        let sent = queue_sequence(client.as_fd()).unwrap();
        set_queue(server.as_fd(), Queue::Receive).unwrap();
        assert_eq!(queue_sequence(server.as_fd()).unwrap(), sent);
        assert_eq!(window(client.as_fd()).unwrap().snd_wnd, seen.snd_wnd);
        assert_eq!(sockopt::never_sent_bytes(client.as_fd()).unwrap(), 0);
        timestamp(client.as_fd()).unwrap();
        set_repair(client.as_fd(), Repair::OffNoProbe).unwrap();
        set_repair(server.as_fd(), Repair::OffNoProbe).unwrap();
    }

    #[test]
    fn layout() {
        assert_eq!(std::mem::offset_of!(Info, pacing_rate), 104);
        assert_eq!(std::mem::offset_of!(Info, rehash), 236);
        assert_eq!(size_of::<Info>(), 248);
    }
}
