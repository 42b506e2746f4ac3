//! What waits in a terminal to be read.
//!
//! The kernel has no way to look at it: reading takes it. A dump reads as late as it can and puts it back
//! unless the tree is killed. A line that is still being typed is not readable yet and is not seen.

use crate::sys::{self, Termios2};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// The most that is taken: more than a terminal holds.
const MOST: usize = 1 << 20;
/// How long the kernel may take to carry bytes from one end of a pty to the other.
const PATIENCE: Duration = Duration::from_millis(100);

/// Whether anything waits; what is on its way to this end arrives first.
pub(crate) fn any(fd: BorrowedFd<'_>) -> nix::Result<bool> {
    arrive(fd)?;
    Ok(sys::waiting(fd)? > 0)
}

fn arrive(fd: BorrowedFd<'_>) -> nix::Result<()> {
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).map(drop)
}

/// Takes all that waits. `packet` says that each read starts with a byte of packet mode.
pub(crate) fn take(fd: BorrowedFd<'_>, packet: bool) -> nix::Result<Vec<u8>> {
    let mut taken = Vec::new();
    let mut buffer = [0; 8192];
    while taken.len() < MOST && any(fd)? {
        let length = nix::unistd::read(fd, &mut buffer)?;
        match (&buffer[..length], packet) {
            ([], _) => break,
            ([0, data @ ..], true) | (data, false) => taken.extend_from_slice(data),
            (_, true) => {} // a report about the other end
        }
    }
    Ok(taken)
}

/// The settings under which bytes pass a terminal unchanged and without an echo. Lines stay lines where
/// `wanted` has lines.
fn transparent(wanted: &Termios2, data: &[u8]) -> Termios2 {
    let mut termios = Termios2 {
        iflag: 0,
        oflag: wanted.oflag & !libc::OPOST,
        lflag: wanted.lflag & libc::ICANON,
        cc: [0; 19],
        ..*wanted
    };
    if termios.lflag != 0 {
        termios.cc[libc::VEOF] =
            (1..=u8::MAX).find(|byte| *byte != b'\n' && !data.contains(byte)).unwrap_or(0);
    } else {
        termios.cc[libc::VMIN] = 1;
    }
    termios
}

/// Makes `data` readable at `reader` by writing it to `writer`, the other end of the pty. `line` is any of
/// the two; its settings are changed meanwhile and set to `wanted` afterwards. Returns what found no room.
pub(crate) fn put(
    writer: BorrowedFd<'_>,
    reader: BorrowedFd<'_>,
    wanted: &Termios2,
    data: &[u8],
) -> nix::Result<usize> {
    let meanwhile = transparent(wanted, data);
    sys::set_termios(reader, &meanwhile)?;
    let written = write(writer, data);
    let lines = reader_has_lines(reader, &meanwhile)?;
    if let (Ok(0), true, false) = (&written, lines, data.ends_with(b"\n")) {
        // An end of file makes what does not end with a line break readable.
        write(writer, &meanwhile.cc[libc::VEOF..=libc::VEOF])?;
    }
    let arrived = written.and_then(|left| {
        let deadline = Instant::now() + PATIENCE;
        while sys::waiting(reader)? < data.len() - left && Instant::now() < deadline {
            arrive(reader)?;
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(left)
    });
    sys::set_termios(reader, wanted)?;
    arrived
}

/// A master reads bytes as they come; only a slave in canonical mode has lines.
fn reader_has_lines(reader: BorrowedFd<'_>, termios: &Termios2) -> nix::Result<bool> {
    let master = match sys::get(reader, libc::TIOCGPTN) {
        Ok(_) => true,
        Err(Errno::ENOTTY) => false,
        Err(errno) => return Err(errno),
    };
    Ok(!master && termios.lflag & libc::ICANON != 0)
}

/// Writes as much as there is room for; returns what is left.
fn write(writer: BorrowedFd<'_>, mut data: &[u8]) -> nix::Result<usize> {
    while !data.is_empty() {
        let mut room = [PollFd::new(writer, PollFlags::POLLOUT)];
        if poll(&mut room, PollTimeout::from(100u8))? == 0 {
            break;
        }
        // In small pieces: a write that finds room for its first byte only would wait.
        let piece = &data[..data.len().min(256)];
        data = &data[nix::unistd::write(writer, piece)?..];
    }
    Ok(data.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use std::os::fd::AsFd;

    #[test]
    fn lines_typed_ahead_move_without_an_echo() {
        let (from, to) = (openpty(None, None).unwrap(), openpty(None, None).unwrap());
        for _ in 0..3 {
            nix::unistd::write(&from.master, b"hello\n").unwrap();
        }
        let input = take(from.slave.as_fd(), false).unwrap();
        assert_eq!(input, b"hello\nhello\nhello\n");
        let echo = take(from.master.as_fd(), false).unwrap();
        assert_eq!(echo, b"hello\r\nhello\r\nhello\r\n");
        let settings = sys::termios(to.slave.as_fd()).unwrap();
        let (master, slave) = (to.master.as_fd(), to.slave.as_fd());
        assert_eq!(put(master, slave, &settings, &input).unwrap(), 0);
        assert_eq!(put(slave, master, &settings, &echo).unwrap(), 0);
        assert_eq!(sys::termios(slave).unwrap(), settings);
        let mut line = [0; 64];
        for _ in 0..3 {
            assert_eq!(nix::unistd::read(slave, &mut line).unwrap(), 6, "line by line");
        }
        assert_eq!(take(master, false).unwrap(), echo);
        assert!(!any(slave).unwrap());
    }

    #[test]
    fn raw_input_with_control_characters() {
        let pty = openpty(None, None).unwrap();
        let (master, slave) = (pty.master.as_fd(), pty.slave.as_fd());
        let mut raw = sys::termios(slave).unwrap();
        raw.lflag &= !(libc::ICANON | libc::ECHO);
        let data: Vec<u8> = (0..=255).collect();
        assert_eq!(put(master, slave, &raw, &data).unwrap(), 0);
        assert_eq!(take(slave, false).unwrap(), data);
        assert!(!any(master).unwrap(), "no echo");
    }

    #[test]
    fn a_line_without_its_end_can_be_read() {
        let pty = openpty(None, None).unwrap();
        let (master, slave) = (pty.master.as_fd(), pty.slave.as_fd());
        let settings = sys::termios(slave).unwrap();
        assert_eq!(put(master, slave, &settings, b"one\ntw").unwrap(), 0);
        assert_eq!(take(slave, false).unwrap(), b"one\ntw");
    }

    #[test]
    fn packet_mode_puts_a_byte_in_front() {
        let pty = openpty(None, None).unwrap();
        sys::set(pty.master.as_fd(), libc::TIOCPKT, 1).unwrap();
        nix::unistd::write(&pty.slave, b"word").unwrap();
        assert_eq!(take(pty.master.as_fd(), true).unwrap(), b"word");
    }
}
