//! Saves the settings and the window size of one terminal and gives them to another, with criu-tty alone.
//!
//! ```text
//! cargo run -p criu-tty --example settings            # a pty pair to another, both its own
//! cargo run -p criu-tty --example settings /dev/pts/3 # standard input's settings to that terminal
//! ```

use criu_resource::{Dump, Restore};
use criu_tty::termios::Settings;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    if let Some(path) = std::env::args().nth(1) {
        let target = File::options().read(true).write(true).open(path)?;
        return copy(std::io::stdin().as_fd(), target.as_fd());
    }
    let (one, other) = (nix::pty::openpty(None, None)?, nix::pty::openpty(None, None)?);
    let mut raw = nix::sys::termios::tcgetattr(&one.slave)?;
    nix::sys::termios::cfmakeraw(&mut raw);
    nix::sys::termios::tcsetattr(&one.slave, nix::sys::termios::SetArg::TCSANOW, &raw)?;
    copy(one.slave.as_fd(), other.slave.as_fd())
}

fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let saved = Settings::dump(from)?;
    Settings::restore(&saved, to)?;
    let now = Settings::dump(to)?;
    assert_eq!(now, saved, "the other terminal has the same settings");
    let window = &saved.window;
    println!("lflag {:#o}, {} x {} characters", saved.termios.c_lflag, window.ws_col, window.ws_row);
    Ok(())
}
