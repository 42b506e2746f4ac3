//! Terminals: ptys, consoles and serial lines, their settings, and who controls them.
//!
//! | module | what |
//! |---|---|
//! | [`termios`] | settings and window size of any terminal; usable alone |
//! | [`pty`] | making a pty pair of a given number; usable alone |
//! | [`buffer`] | input that waits in a pair; usable alone |
//! | [`Terminals`] | terminals as a kind of open file |
//! | [`Controlling`] | the controlling terminal and foreground group of sessions, as task state |
#![deny(clippy::undocumented_unsafe_blocks)]

pub mod buffer;
mod dump;
mod error;
pub mod ioctl;
pub mod pty;
mod restore;
mod session;
pub mod termios;

pub use dump::Terminals;
pub use error::Error;
pub use session::Controlling;

use criu_images::proto::TtyType;

/// Major number of pty slaves (devpts); their minor is the pair's number.
const PTS_MAJOR: u64 = 136;

/// What a device number says about a terminal: its type, and the number under which images know it.
fn classify(rdev: u64) -> Option<(TtyType, u32)> {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    Some(match (u64::from(major), minor) {
        (5, 2) => (TtyType::Pty, u32::MAX), // a master; its number has to be asked for
        (PTS_MAJOR..=143, _) => (TtyType::Pty, (major - PTS_MAJOR as u32) * 256 + minor),
        (5, 1) => (TtyType::Console, 1002),
        (5, 0) => (TtyType::Ctty, 1006),
        (4, 0..=63) => (TtyType::Vt, 1004),
        (4, _) => (TtyType::Serial, 1010),
        _ => return None,
    })
}

/// The id of a terminal in `tty-info.img`. Both sides of a pty have one, the slave's is even.
fn info_id(index: u32, master: bool) -> u32 {
    index << 1 | u32::from(master)
}
