//! Input that waits in a terminal: bytes one side wrote and the other has not read yet.
//!
//! The kernel shows them to nobody but a reader, so they are read and written again by the other side, with
//! all processing (echo, lines, signals) switched off meanwhile.

use crate::{Error, ioctl};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::os::fd::{AsFd, BorrowedFd};

/// Bytes that wait for the reader of `end`; `peer` is the other side of the pair. Both stay as they were.
///
/// # Errors
/// The system's.
pub fn peek(end: BorrowedFd<'_>, peer: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<Vec<u8>, Error> {
    unprocessed(slave, || {
        let data = drain(end).map_err(Error::system("", "read"))?;
        fill(peer, &data)?;
        Ok(data)
    })
}

/// Makes `data` wait for the reader of the other side of `peer`.
///
/// # Errors
/// The system's.
pub fn put(data: &[u8], peer: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<(), Error> {
    unprocessed(slave, || fill(peer, data))
}

/// Runs `work` with the pair's line discipline out of the way.
fn unprocessed<T>(slave: BorrowedFd<'_>, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let before = ioctl::settings(slave).map_err(Error::system("", "TCGETS"))?;
    let mut raw = before;
    raw.c_iflag = 0;
    raw.c_oflag = 0;
    raw.c_lflag = 0;
    ioctl::set_settings(slave, &raw).map_err(Error::system("", "TCSETS"))?;
    let result = work();
    ioctl::set_settings(slave, &before).map_err(Error::system("", "TCSETS"))?;
    result
}

fn drain(end: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut all = Vec::new();
    let mut part = [0; 4096];
    nonblocking(end, || {
        loop {
            match nix::unistd::read(end, &mut part) {
                Ok(0) | Err(Errno::EAGAIN) => return Ok(()),
                Ok(n) => all.extend_from_slice(&part[..n]),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    })?;
    Ok(all)
}

fn fill(peer: BorrowedFd<'_>, mut data: &[u8]) -> Result<(), Error> {
    let written = nonblocking(peer, || {
        while !data.is_empty() {
            match nix::unistd::write(peer.as_fd(), data) {
                Ok(n) => data = &data[n..],
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    });
    written.map_err(Error::system("", "write"))
}

/// The flag belongs to the description, whose holders stand still.
fn nonblocking<T>(fd: BorrowedFd<'_>, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let result = work();
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn waiting_bytes_are_seen_and_stay() {
        let pair = nix::pty::openpty(None, None).unwrap();
        let mut master = std::fs::File::from(pair.master);
        let mut slave = std::fs::File::from(pair.slave);
        master.write_all(b"line\n").unwrap();
        let seen = peek(slave.as_fd(), master.as_fd(), slave.as_fd()).unwrap();
        assert_eq!(seen, b"line\n");
        let mut line = [0; 5];
        slave.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"line\n");
        let echo = peek(master.as_fd(), slave.as_fd(), slave.as_fd()).unwrap();
        assert_eq!(echo, b"line\r\n", "the echo of the line, not processed twice");
    }
}
