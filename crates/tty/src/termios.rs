//! Settings of a terminal: termios, locked termios and window size.

use crate::{Error, ioctl};
use criu_images::proto::{TermiosEntry, WinsizeEntry};
use criu_resource::{Dump, Restore};
use std::os::fd::BorrowedFd;

/// Number of control characters in the image.
const CONTROLS: usize = 19;

/// What `tty-info.img` keeps of a terminal's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The settings.
    pub termios: TermiosEntry,
    /// Those that cannot be changed.
    pub locked: TermiosEntry,
    /// Window size in characters and pixels.
    pub window: WinsizeEntry,
}

impl Dump for Settings {
    type Source<'a> = BorrowedFd<'a>;
    type Entry = Settings;
    type Error = Error;

    fn dump(tty: BorrowedFd<'_>) -> Result<Settings, Error> {
        let failed = |call| Error::system("", call);
        let window = ioctl::window(tty).map_err(failed("TIOCGWINSZ"))?;
        Ok(Settings {
            termios: entry(&ioctl::settings(tty).map_err(failed("TCGETS"))?),
            locked: entry(&ioctl::locked_settings(tty).map_err(failed("TIOCGLCKTRMIOS"))?),
            window: WinsizeEntry {
                ws_row: window.ws_row.into(),
                ws_col: window.ws_col.into(),
                ws_xpixel: window.ws_xpixel.into(),
                ws_ypixel: window.ws_ypixel.into(),
            },
        })
    }
}

impl Restore for Settings {
    type Entry = Settings;
    type Context<'a> = BorrowedFd<'a>;
    type Object = ();
    type Error = Error;

    fn restore(entry: &Settings, tty: BorrowedFd<'_>) -> Result<(), Error> {
        let failed = |call| Error::system("", call);
        ioctl::set_settings(tty, &termios(&entry.termios)).map_err(failed("TCSETS"))?;
        ioctl::set_locked_settings(tty, &termios(&entry.locked)).map_err(failed("TIOCSLCKTRMIOS"))?;
        let size = |value: u32| value as u16;
        let window = libc::winsize {
            ws_row: size(entry.window.ws_row),
            ws_col: size(entry.window.ws_col),
            ws_xpixel: size(entry.window.ws_xpixel),
            ws_ypixel: size(entry.window.ws_ypixel),
        };
        ioctl::set_window(tty, &window).map_err(failed("TIOCSWINSZ"))
    }
}

fn entry(value: &libc::termios) -> TermiosEntry {
    TermiosEntry {
        c_iflag: value.c_iflag,
        c_oflag: value.c_oflag,
        c_cflag: value.c_cflag,
        c_lflag: value.c_lflag,
        c_line: value.c_line.into(),
        c_ispeed: 0,
        c_ospeed: 0,
        c_cc: value.c_cc[..CONTROLS].iter().map(|&control| control.into()).collect(),
    }
}

/// The C library's form of an image's settings.
pub(crate) fn termios(entry: &TermiosEntry) -> libc::termios {
    let mut c_cc = [0; libc::NCCS];
    for (to, &from) in c_cc.iter_mut().zip(entry.c_cc.iter().take(CONTROLS)) {
        *to = from as u8;
    }
    libc::termios {
        c_iflag: entry.c_iflag,
        c_oflag: entry.c_oflag,
        c_cflag: entry.c_cflag,
        c_lflag: entry.c_lflag,
        c_line: entry.c_line as u8,
        c_cc,
        c_ispeed: entry.c_ispeed,
        c_ospeed: entry.c_ospeed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn settings_move_to_another_pty() {
        let (one, two) = (nix::pty::openpty(None, None).unwrap(), nix::pty::openpty(None, None).unwrap());
        let mut changed = ioctl::settings(one.slave.as_fd()).unwrap();
        changed.c_lflag &= !(libc::ECHO | libc::ICANON);
        changed.c_cc[libc::VINTR] = 7;
        ioctl::set_settings(one.slave.as_fd(), &changed).unwrap();
        let size = libc::winsize { ws_row: 11, ws_col: 99, ws_xpixel: 1, ws_ypixel: 2 };
        ioctl::set_window(one.slave.as_fd(), &size).unwrap();

        let saved = Settings::dump(one.slave.as_fd()).unwrap();
        assert_ne!(Settings::dump(two.slave.as_fd()).unwrap(), saved);
        Settings::restore(&saved, two.slave.as_fd()).unwrap();
        assert_eq!(Settings::dump(two.slave.as_fd()).unwrap(), saved);
        assert_eq!(ioctl::settings(two.slave.as_fd()).unwrap().c_cc[libc::VINTR], 7);
    }
}
