//! The few calls for which neither nix nor `criu-kernel` has a wrapper.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::error::{Called, Error, Result};

/// `SO_GET_FILTER` has the number of `SO_ATTACH_FILTER`.
const SO_GET_FILTER: i32 = libc::SO_ATTACH_FILTER;
/// Longest program that the kernel takes (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// socket(2) for any family, type and protocol; close-on-exec.
pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: three integers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    let fd = Errno::result(fd).called(format!("socket({family}, {kind}, {protocol})"))?;
    // SAFETY: the kernel returned this new descriptor to us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The file that a unix socket is bound to, opened with O_PATH; `None` where it is bound to none.
/// `SIOCUNIXFILE`, Linux 4.13 (unix(7)); needs `CAP_NET_ADMIN`.
pub(crate) fn socket_file(fd: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    const SIOCUNIXFILE: libc::Ioctl = 0x89e0;
    // SAFETY: the request takes no argument.
    match Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), SIOCUNIXFILE) }) {
        Err(Errno::ENOENT) => Ok(None),
        answer => {
            let file = answer.called("ioctl(SIOCUNIXFILE)")?;
            // SAFETY: the kernel returned this new descriptor to us; nobody else knows it.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(file) }))
        }
    }
}

/// A duplicate of a descriptor that somebody else named by its number (`--inherit-fd`).
pub(crate) fn inherited(number: i32) -> Result<OwnedFd> {
    // SAFETY: three integers; a number that is no descriptor gives EBADF.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
    let fd =
        Errno::result(fd).called(format!("fcntl(F_DUPFD_CLOEXEC) of the inherited descriptor {number}"))?;
    // SAFETY: the kernel returned this new descriptor to us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds a packet socket to a device. `protocol` is in network order.
pub(crate) fn bind_packet(fd: BorrowedFd<'_>, interface: u32, protocol: u16) -> Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: interface as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is a whole `sockaddr_ll`.
    let answer = unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) };
    Errno::result(answer).map(drop).called(format!("bind(packet socket, device {interface})"))
}

/// Binds a packet socket of type `SOCK_PACKET` to a device by its name.
pub(crate) fn bind_packet_name(fd: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let mut address = libc::sockaddr { sa_family: libc::AF_PACKET as u16, sa_data: [0; 14] };
    // The last byte stays zero.
    for (to, from) in address.sa_data[..13].iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is a whole `sockaddr`.
    let answer = unsafe { libc::bind(fd.as_raw_fd(), &address, len) };
    Errno::result(answer).map(drop).called(format!("bind(packet socket, {})", String::from_utf8_lossy(name)))
}

/// Takes a datagram socket's peer away: connect(2) to no address.
pub(crate) fn disconnect(fd: BorrowedFd<'_>) -> Result<()> {
    let nowhere = libc::sa_family_t::try_from(libc::AF_UNSPEC).unwrap_or_default();
    let len = size_of::<libc::sa_family_t>() as libc::socklen_t;
    // SAFETY: the address is a family alone, as long as it is said to be.
    let answer = unsafe { libc::connect(fd.as_raw_fd(), std::ptr::from_ref(&nowhere).cast(), len) };
    Errno::result(answer).map(drop).called("connect(AF_UNSPEC)")
}

/// The signal that announces input (`F_SETSIG`, fcntl(2)).
pub(crate) fn set_owner_signal(fd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    const F_SETSIG: i32 = 10;
    // SAFETY: three integers.
    let answer = unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, signal) };
    Errno::result(answer).map(drop).called("fcntl(F_SETSIG)")
}

/// Whether nothing will come any more (`POLLRDHUP`): the peer closed its end, or the owner shut his.
pub(crate) fn hung_up(fd: BorrowedFd<'_>) -> Result<bool> {
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one structure, which outlives the call.
    Errno::result(unsafe { libc::poll(&mut polled, 1, 0) }).called("poll")?;
    Ok(polled.revents & libc::POLLRDHUP != 0)
}

/// The classic BPF program of a socket (`SO_ATTACH_FILTER`, socket(7)), one number an instruction as the
/// images have them; empty where there is none.
///
/// # Errors
/// [`Error::Unsupported`] for an eBPF program, which cannot be read back.
pub(crate) fn filter(fd: BorrowedFd<'_>) -> Result<Vec<u64>> {
    let blank = libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 };
    let mut program = vec![blank; MAX_INSTRUCTIONS];
    let mut count = MAX_INSTRUCTIONS as libc::socklen_t;
    let target = program.as_mut_ptr().cast();
    // SAFETY: for this option the length counts instructions; `program` has room for as many as it says.
    let answer =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_GET_FILTER, target, &mut count) };
    match Errno::result(answer) {
        Err(Errno::EACCES) => return Err(Error::Unsupported("an eBPF program attached to a socket".into())),
        other => other.called("getsockopt(SO_GET_FILTER)")?,
    };
    program.truncate(count as usize);
    let encode = |i: &libc::sock_filter| {
        u64::from(i.code) << 48 | u64::from(i.jt) << 40 | u64::from(i.jf) << 32 | u64::from(i.k)
    };
    Ok(program.iter().map(encode).collect())
}

/// Attaches a program that [`filter`] returned.
pub(crate) fn attach_filter(fd: BorrowedFd<'_>, program: &[u64]) -> Result<()> {
    let mut program: Vec<libc::sock_filter> = program
        .iter()
        .map(|i| libc::sock_filter {
            code: (i >> 48) as u16,
            jt: (i >> 40) as u8,
            jf: (i >> 32) as u8,
            k: *i as u32,
        })
        .collect();
    let len = u16::try_from(program.len())
        .map_err(|_| Error::Corrupt(format!("a socket filter of {} instructions", program.len())))?;
    let head = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let source = std::ptr::from_ref(&head).cast();
    // SAFETY: the kernel reads `head` and the `len` instructions it points to, which live in `program`.
    let answer =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, source, size) };
    Errno::result(answer).map(drop).called("setsockopt(SO_ATTACH_FILTER)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn a_program_comes_back_as_it_was_attached() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(filter(socket.as_fd()).unwrap().is_empty());
        // ld #5; ret a
        let program = [5, 0x16 << 48];
        attach_filter(socket.as_fd(), &program).unwrap();
        assert_eq!(filter(socket.as_fd()).unwrap(), program);
    }
}
