//! Saves the settings and window size of one terminal and brings them in force on another.
//!
//! ```text
//! cargo run -p criu-tty --example settings
//! ```

use anyhow::Result;
use criu_resource::{Dump, Restore};
use criu_tty::{Pty, Settings};
use nix::fcntl::OFlag;
use std::os::fd::AsFd;
use std::path::Path;

fn main() -> Result<()> {
    // In place of the first pty, any terminal will do: `std::io::stdin().as_fd()`.
    let ptmx = Path::new("/dev/ptmx");
    let (from, to) = (Pty::open(ptmx, None)?, Pty::open(ptmx, None)?);
    let terminal = from.slave(OFlag::O_RDWR, None)?;

    // An editor at work: no echo, no lines, an odd size.
    let mut settings = Settings::dump(terminal.as_fd())?;
    settings.termios.c_lflag &= !(libc::ECHO | libc::ICANON);
    (settings.winsize.ws_row, settings.winsize.ws_col) = (33, 101);
    Settings::restore(&settings, terminal.as_fd())?;

    // The saved settings are plain data, messages of the image format.
    let saved = Settings::dump(terminal.as_fd())?;
    println!("saved from /dev/pts/{}: {:?}", from.index(), saved.winsize);

    let other = to.slave(OFlag::O_RDWR, None)?;
    Settings::restore(&saved, other.as_fd())?;
    println!("now on /dev/pts/{}: {:?}", to.index(), Settings::dump(other.as_fd())?.winsize);
    anyhow::ensure!(Settings::dump(other.as_fd())? == saved, "the settings differ");
    Ok(())
}
