//! getsockopt(2), setsockopt(2) and number ioctls for what has no typed wrapper in nix.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::Result;
use nix::errno::Errno;

use crate::plain::{self, Plain};

/// Reads an option of fixed size. Where the kernel's structure is shorter (older), the rest is
/// zero; where it is longer, it is cut off.
pub fn get<T: Plain>(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<T> {
    let mut value = plain::zeroed::<T>();
    read_into(fd, level, name, plain::as_bytes_mut(&mut value))?;
    Ok(value)
}

/// Reads an option of variable size, up to `capacity` bytes.
pub fn get_bytes(fd: BorrowedFd<'_>, level: i32, name: i32, capacity: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; capacity];
    let len = read_into(fd, level, name, &mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

fn read_into(fd: BorrowedFd<'_>, level: i32, name: i32, bytes: &mut [u8]) -> Result<usize> {
    let mut len = bytes.len() as libc::socklen_t;
    let target = bytes.as_mut_ptr().cast();
    // SAFETY: `len` is the length of `bytes`; the kernel fills no more than that.
    let r = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, target, &mut len) };
    Errno::result(r).map(|_| len as usize)
}

/// Sets an option.
pub fn set<T: Plain>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> Result<()> {
    set_bytes(fd, level, name, plain::as_bytes(value))
}

/// Sets an option of variable size.
pub fn set_bytes(fd: BorrowedFd<'_>, level: i32, name: i32, bytes: &[u8]) -> Result<()> {
    let len = bytes.len() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `bytes`.
    let r = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, bytes.as_ptr().cast(), len) };
    Errno::result(r).map(drop)
}

/// An ioctl(2) that stores an `int`, such as `FIONREAD` and [`SIOCOUTQNSD`].
///
/// # Safety
///
/// The request must store an `int` through its argument, and nothing else.
pub unsafe fn ioctl_int(fd: BorrowedFd<'_>, request: libc::Ioctl) -> Result<i32> {
    let mut value = 0i32;
    // SAFETY: the caller vouches that the request fills one int.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, &mut value) })?;
    Ok(value)
}

/// Bytes to be read from a socket, pipe or terminal (`FIONREAD`, also `SIOCINQ`).
pub fn readable_bytes(fd: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: the request fills one int.
    unsafe { ioctl_int(fd, libc::FIONREAD) }
}

/// Bytes in the send queue: of TCP, those not acknowledged (`SIOCOUTQ`).
pub fn unsent_bytes(fd: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: the request fills one int.
    unsafe { ioctl_int(fd, libc::TIOCOUTQ) }
}

/// `SIOCOUTQNSD`: bytes of TCP that were not sent even once. Linux 2.6.39.
pub const SIOCOUTQNSD: libc::Ioctl = 0x894b;

/// Bytes in the send queue that were not sent even once ([`SIOCOUTQNSD`]).
pub fn never_sent_bytes(fd: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: the request fills one int.
    unsafe { ioctl_int(fd, SIOCOUTQNSD) }
}

/// Where `MSG_PEEK` reads (`SO_PEEK_OFF`, Linux 3.4; TCP 6.9); -1 for off.
pub fn peek_offset(fd: BorrowedFd<'_>) -> Result<i32> {
    get(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF)
}

/// Sets where `MSG_PEEK` reads; each such read then moves it on.
pub fn set_peek_offset(fd: BorrowedFd<'_>, offset: i32) -> Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &offset)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn options_and_queues() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(b"12345").unwrap();
        assert_eq!(readable_bytes(b.as_fd()).unwrap(), 5);
        assert!(unsent_bytes(a.as_fd()).unwrap() > 0);
        assert_eq!(peek_offset(b.as_fd()).unwrap(), -1);
        set_peek_offset(b.as_fd(), 2).unwrap();
        assert_eq!(peek_offset(b.as_fd()).unwrap(), 2);
        let kind: i32 = get(b.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE).unwrap();
        assert_eq!(kind, libc::SOCK_STREAM);
        let linger = [1, 7];
        set(b.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &linger).unwrap();
        let bytes = get_bytes(b.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, 100).unwrap();
        assert_eq!(bytes, plain::as_bytes(&linger));
        let error = get::<i32>(b.as_fd(), libc::SOL_SOCKET, 9999).unwrap_err();
        assert_eq!(error, Errno::ENOPROTOOPT);
    }
}
