//! The terminal's ioctls, typed. See ioctl_tty(2).

use nix::Result;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

const TIOCGPTN: libc::c_ulong = 0x8004_5430;
const TIOCSPTLCK: libc::c_ulong = 0x4004_5431;
const TIOCGPKT: libc::c_ulong = 0x8004_5438;
const TIOCGPTLCK: libc::c_ulong = 0x8004_5439;
const TIOCGEXCL: libc::c_ulong = 0x8004_5440;
const TIOCGLCKTRMIOS: libc::c_ulong = 0x5456;
const TIOCSLCKTRMIOS: libc::c_ulong = 0x5457;

fn number(fd: BorrowedFd<'_>, request: libc::c_ulong) -> Result<i32> {
    let mut value = 0i32;
    // SAFETY: all requests that come here fill one int.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut value) })?;
    Ok(value)
}

fn set_number(fd: BorrowedFd<'_>, request: libc::c_ulong, value: i32) -> Result<()> {
    // SAFETY: all requests that come here read one int.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw const value) }).map(drop)
}

/// Number of the pair that a master belongs to.
pub fn pty_number(master: BorrowedFd<'_>) -> Result<u32> {
    number(master, TIOCGPTN).map(|index| index as u32)
}

/// Whether the slave side is locked.
pub fn is_locked(master: BorrowedFd<'_>) -> Result<bool> {
    Ok(number(master, TIOCGPTLCK)? != 0)
}

/// Locks or unlocks the slave side.
pub fn lock(master: BorrowedFd<'_>, locked: bool) -> Result<()> {
    set_number(master, TIOCSPTLCK, locked.into())
}

/// Whether the master is in packet mode.
pub fn is_packet_mode(master: BorrowedFd<'_>) -> Result<bool> {
    Ok(number(master, TIOCGPKT)? != 0)
}

/// Switches packet mode.
pub fn set_packet_mode(master: BorrowedFd<'_>, on: bool) -> Result<()> {
    set_number(master, libc::TIOCPKT, on.into())
}

/// Whether further opens are refused.
pub fn is_exclusive(tty: BorrowedFd<'_>) -> Result<bool> {
    Ok(number(tty, TIOCGEXCL)? != 0)
}

/// Refuses further opens.
pub fn set_exclusive(tty: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes no argument.
    Errno::result(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCEXCL) }).map(drop)
}

/// Session that the terminal controls; of a slave only its own holder may ask.
pub fn session(tty: BorrowedFd<'_>) -> Result<i32> {
    number(tty, libc::TIOCGSID)
}

/// Foreground process group; of a slave only its own holder may ask.
pub fn foreground(tty: BorrowedFd<'_>) -> Result<i32> {
    number(tty, libc::TIOCGPGRP)
}

/// Settings.
pub fn settings(tty: BorrowedFd<'_>) -> Result<libc::termios> {
    termios(tty, libc::TCGETS)
}

/// Which settings cannot be changed.
pub fn locked_settings(tty: BorrowedFd<'_>) -> Result<libc::termios> {
    termios(tty, TIOCGLCKTRMIOS)
}

fn termios(tty: BorrowedFd<'_>, request: libc::c_ulong) -> Result<libc::termios> {
    let mut value = std::mem::MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: both requests fill the kernel's termios, which is a prefix of the C library's; all bytes of it
    // are plain numbers.
    unsafe {
        Errno::result(libc::ioctl(tty.as_raw_fd(), request, value.as_mut_ptr()))?;
        Ok(value.assume_init())
    }
}

/// Replaces settings at once.
pub fn set_settings(tty: BorrowedFd<'_>, value: &libc::termios) -> Result<()> {
    // SAFETY: reads the kernel's termios, a prefix of the C library's.
    Errno::result(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TCSETS, value) }).map(drop)
}

/// Replaces which settings cannot be changed.
pub fn set_locked_settings(tty: BorrowedFd<'_>, value: &libc::termios) -> Result<()> {
    // SAFETY: as above.
    Errno::result(unsafe { libc::ioctl(tty.as_raw_fd(), TIOCSLCKTRMIOS, value) }).map(drop)
}

/// Window size.
pub fn window(tty: BorrowedFd<'_>) -> Result<libc::winsize> {
    let mut value = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: fills the structure.
    Errno::result(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, &raw mut value) })?;
    Ok(value)
}

/// Replaces the window size.
pub fn set_window(tty: BorrowedFd<'_>, value: &libc::winsize) -> Result<()> {
    // SAFETY: reads the structure.
    Errno::result(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, value) }).map(drop)
}
