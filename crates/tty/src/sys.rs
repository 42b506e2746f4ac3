//! The ioctls of terminals (ioctl_tty(2)) and the few other calls that nix lacks.
//!
//! No function here blocks; all need only the descriptor, no controlling terminal, unless noted.

use nix::Result;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Packet mode of a pty master (Linux 3.8).
pub const TIOCGPKT: u64 = 0x8004_5438;
/// Lock of a pty (Linux 3.8).
pub const TIOCGPTLCK: u64 = 0x8004_5439;
/// Exclusive mode (Linux 3.8).
pub const TIOCGEXCL: u64 = 0x8004_5440;
/// Device number of the terminal behind `/dev/tty` and `/dev/console`.
pub const TIOCGDEV: u64 = 0x8004_5432;
const TCGETS2: u64 = 0x802c_542a;
const TCSETS2: u64 = 0x402c_542b;
const F_SETSIG: i32 = 10;

/// `struct termios2` of the kernel. `struct termios` is its beginning, up to `cc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Termios2 {
    /// Input modes.
    pub iflag: u32,
    /// Output modes.
    pub oflag: u32,
    /// Control modes.
    pub cflag: u32,
    /// Local modes.
    pub lflag: u32,
    /// Line discipline.
    pub line: u8,
    /// Control characters.
    pub cc: [u8; 19],
    /// Input speed, where CIBAUD says BOTHER.
    pub ispeed: u32,
    /// Output speed, where CBAUD says BOTHER.
    pub ospeed: u32,
}

/// An ioctl that fills one int.
pub fn get(fd: BorrowedFd<'_>, request: u64) -> Result<i32> {
    let mut value: libc::c_int = 0;
    // SAFETY: the requests of this crate that come here fill one int.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut value) })?;
    Ok(value)
}

/// As [`get`], where a terminal of another type has no such thing.
pub fn get_or_zero(fd: BorrowedFd<'_>, request: u64) -> Result<i32> {
    match get(fd, request) {
        Err(Errno::ENOTTY) => Ok(0),
        other => other,
    }
}

/// An ioctl that reads one int.
pub fn set(fd: BorrowedFd<'_>, request: u64, value: i32) -> Result<()> {
    // SAFETY: the requests of this crate that come here read one int.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw const value) }).map(drop)
}

/// An ioctl whose argument is a number.
pub fn tell(fd: BorrowedFd<'_>, request: u64, value: i32) -> Result<()> {
    // SAFETY: the requests of this crate that come here take no pointer.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, value) }).map(drop)
}

/// TCGETS2.
pub fn termios(fd: BorrowedFd<'_>) -> Result<Termios2> {
    let mut termios = Termios2::default();
    // SAFETY: the request fills one termios2.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), TCGETS2, &raw mut termios) })?;
    Ok(termios)
}

/// TCSETS2; TCSETS where no speeds are known beyond the coded ones.
pub fn set_termios(fd: BorrowedFd<'_>, termios: &Termios2) -> Result<()> {
    let request = if termios.ospeed == 0 { libc::TCSETS } else { TCSETS2 };
    // SAFETY: both requests read at most one termios2.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_ref(termios)) }).map(drop)
}

/// TIOCGLCKTRMIOS: which settings are locked. No speeds.
pub fn locked_termios(fd: BorrowedFd<'_>) -> Result<Termios2> {
    let mut termios = Termios2::default();
    // SAFETY: the request fills one termios, which is smaller.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGLCKTRMIOS, &raw mut termios) })?;
    Ok(termios)
}

/// TIOCSLCKTRMIOS (CAP_SYS_ADMIN).
pub fn lock_termios(fd: BorrowedFd<'_>, termios: &Termios2) -> Result<()> {
    let request = libc::TIOCSLCKTRMIOS;
    // SAFETY: the request reads one termios, which is smaller.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_ref(termios)) }).map(drop)
}

/// TIOCGWINSZ.
pub fn window_size(fd: BorrowedFd<'_>) -> Result<libc::winsize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request fills one winsize.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok(size)
}

/// TIOCSWINSZ.
pub fn set_window_size(fd: BorrowedFd<'_>, size: &libc::winsize) -> Result<()> {
    let request = libc::TIOCSWINSZ;
    // SAFETY: the request reads one winsize.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_ref(size)) }).map(drop)
}

/// TIOCGPTPEER: opens the slave of a master, wherever devpts is mounted (Linux 4.13).
pub fn peer(master: BorrowedFd<'_>, flags: OFlag) -> Result<OwnedFd> {
    // SAFETY: the request takes flags and gives a new descriptor.
    let fd = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) })?;
    // SAFETY: nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Bytes that a read would give (FIONREAD).
pub fn waiting(fd: BorrowedFd<'_>) -> Result<usize> {
    Ok(usize::try_from(get(fd, libc::FIONREAD)?).unwrap_or(0))
}

/// Signal for a descriptor that becomes ready (F_SETSIG).
pub fn set_owner_signal(fd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: the command takes an integer.
    Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, signal) }).map(drop)
}

/// Duplicates a descriptor to the lowest free number from `least` on.
pub fn duplicate_from(fd: BorrowedFd<'_>, least: RawFd) -> Result<OwnedFd> {
    duplicate_number(fd.as_raw_fd(), least)
}

/// Duplicates a descriptor that somebody named by its number; EBADF where there is none.
pub fn duplicate_number(number: RawFd, least: RawFd) -> Result<OwnedFd> {
    // SAFETY: the command takes an integer and gives a new descriptor.
    let fd = Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, least) })?;
    // SAFETY: nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
