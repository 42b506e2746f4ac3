//! Probes about sockets and network devices.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::Result;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, UnixAddr, bind, recv, sendto,
    socket,
};

use crate::pidfd;
use crate::plain::{self, Plain};
use crate::sockdiag::{Protocol, SockDiag};
use crate::sockopt;
use crate::tcp_repair::{self as repair, Repair};

use super::files;

fn open(family: AddressFamily, kind: SockType) -> Result<OwnedFd> {
    socket(family, kind, SockFlag::SOCK_CLOEXEC, None)
}

fn tcp() -> Result<OwnedFd> {
    open(AddressFamily::Inet, SockType::Stream).or_else(|_| open(AddressFamily::Inet6, SockType::Stream))
}

pub(super) fn sock_diag() -> bool {
    SockDiag::open().is_ok_and(|diag| {
        diag.inet(libc::AF_INET, Protocol::Tcp).is_ok() && diag.unix().is_ok() && diag.netlink().is_ok()
    })
}

pub(super) fn sock_diag_raw() -> bool {
    SockDiag::open().is_ok_and(|diag| {
        [libc::AF_INET, libc::AF_INET6].iter().all(|&family| diag.inet(family, Protocol::Raw).is_ok())
    })
}

pub(super) fn peek_offset() -> bool {
    open(AddressFamily::Unix, SockType::Stream)
        .is_ok_and(|socket| sockopt::set_peek_offset(socket.as_fd(), 0).is_ok())
}

pub(super) fn tcp_repair() -> bool {
    tcp().is_ok_and(|socket| repair::set_repair(socket.as_fd(), Repair::On).is_ok())
}

pub(super) fn tcp_repair_window() -> bool {
    tcp().is_ok_and(|socket| {
        repair::set_repair(socket.as_fd(), Repair::On).is_ok() && repair::window(socket.as_fd()).is_ok()
    })
}

pub(super) fn tcp_half_closed() -> bool {
    let look = || -> std::io::Result<bool> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        client.shutdown(Shutdown::Write)?;
        repair::set_repair(client.as_fd(), Repair::On)?;
        Ok(repair::set_repair(client.as_fd(), Repair::OffNoProbe).is_ok())
    };
    look().unwrap_or(false)
}

pub(super) fn buf_lock() -> bool {
    const SO_BUF_LOCK: i32 = 72;
    tcp().is_ok_and(|socket| sockopt::get::<u32>(socket.as_fd(), libc::SOL_SOCKET, SO_BUF_LOCK).is_ok())
}

pub(super) fn ipv6_freebind() -> bool {
    const IPV6_FREEBIND: i32 = 78;
    open(AddressFamily::Inet6, SockType::Datagram)
        .is_ok_and(|socket| sockopt::set(socket.as_fd(), libc::IPPROTO_IPV6, IPV6_FREEBIND, &1i32).is_ok())
}

pub(super) fn namespace() -> bool {
    open(AddressFamily::Unix, SockType::Stream).is_ok_and(|socket| files::namespace(socket.as_fd()))
}

pub(super) fn unix_file() -> bool {
    const SIOCUNIXFILE: libc::Ioctl = 0x89E0;
    let folder = std::env::temp_dir().join(format!("criu-rs-probe-{}", std::process::id()));
    let Ok(socket) = open(AddressFamily::Unix, SockType::Stream) else { return false };
    let bound = UnixAddr::new(&folder).and_then(|address| bind(socket.as_raw_fd(), &address));
    // SAFETY: the request takes no argument and gives a new descriptor.
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCUNIXFILE, 0usize) };
    let answer = Errno::result(libc::c_long::from(r)).map(pidfd::owned).is_ok();
    let _ = std::fs::remove_file(&folder);
    bound.is_ok() && answer
}

pub(super) fn nf_tables() -> bool {
    const NFT_MSG_GETGEN: u16 = 10 << 8 | 16;
    const NFT_MSG_NEWGEN: u16 = 10 << 8 | 15;
    // struct nfgenmsg: family, version, resource id.
    ask(SockProtocol::NetlinkNetFilter, NFT_MSG_GETGEN, &[0u8; 4]) == Ok(NFT_MSG_NEWGEN)
}

pub(super) fn namespace_id() -> bool {
    const RTM_NEWNSID: u16 = 88;
    const RTM_GETNSID: u16 = 90;
    const NETNSA_PID: u16 = 2;
    // struct rtgenmsg with its padding, then the attribute.
    let request = (0u32, [8u16, NETNSA_PID], std::process::id());
    let bytes =
        [plain::as_bytes(&request.0), plain::as_bytes(&request.1), plain::as_bytes(&request.2)].concat();
    ask(SockProtocol::NetlinkRoute, RTM_GETNSID, &bytes) == Ok(RTM_NEWNSID)
}

pub(super) fn new_ifindex() -> bool {
    const IFLA_NEW_IFINDEX: u16 = 49;
    // struct ifinfomsg, then a device that there is not and an index that no device can have.
    let index = [[8u16, IFLA_NEW_IFINDEX]];
    let name = [[12u16, libc::IFLA_IFNAME]];
    let bytes =
        [&[0; 16], plain::as_bytes(&index), plain::as_bytes(&-1i32), plain::as_bytes(&name), b"criu-rs\0"]
            .concat();
    // A kernel that knows the attribute looks at it before it looks for the device.
    ask(SockProtocol::NetlinkRoute, libc::RTM_SETLINK, &bytes) == Err(Errno::ERANGE)
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Header {
    len: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for Header {}

/// Sends one netlink request; the type of the answer, or the error in it.
fn ask(protocol: SockProtocol, kind: u16, payload: &[u8]) -> Result<u16> {
    const NLMSG_ERROR: u16 = 2;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let len = (size_of::<Header>() + payload.len()) as u32;
    let header = Header { len, kind, flags: libc::NLM_F_REQUEST as u16, sequence: 1, port: 0 };
    let bytes = [plain::as_bytes(&header), payload].concat();
    sendto(netlink.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = [0; 4096];
    // The kernel answers within sendto, so there is nothing to wait for.
    let n = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
    let answer: Header = plain::from_prefix(&buffer[..n]);
    match answer.kind {
        NLMSG_ERROR => {
            let code: i32 = plain::from_prefix(&buffer[size_of::<Header>()..n]);
            if code == 0 { Ok(NLMSG_ERROR) } else { Err(Errno::from_raw(-code)) }
        }
        kind => Ok(kind),
    }
}
