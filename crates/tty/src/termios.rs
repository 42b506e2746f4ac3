//! Settings of a terminal: line modes and control characters, which of them are locked, window size.

use crate::sys::{self, Termios2};
use criu_images::proto::{TermiosEntry, WinsizeEntry};
use criu_resource::{Dump, Restore};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use std::os::fd::BorrowedFd;

/// Line modes and control characters (termios(3)). On a pty master they are those of its slave.
#[derive(Debug)]
pub struct Termios;

/// Which settings nobody may change (TIOCGLCKTRMIOS); a set bit or a character that is not 0 is locked.
#[derive(Debug)]
pub struct TermiosLock;

/// Rows, columns and pixels (TIOCGWINSZ).
#[derive(Debug)]
pub struct WindowSize;

/// All three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// See [`Termios`].
    pub termios: TermiosEntry,
    /// See [`TermiosLock`].
    pub locked: TermiosEntry,
    /// See [`WindowSize`].
    pub winsize: WinsizeEntry,
}

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TermiosError {
    /// A system call failed. EIO: the terminal is hung up. ENOTTY: it is none.
    #[error("{call}: {errno}")]
    Call {
        /// Which.
        call: &'static str,
        /// Why.
        errno: Errno,
    },
    /// An entry with too few control characters.
    #[error("{0} words of control characters where there must be 19")]
    Characters(usize),
    /// An entry with a value out of range.
    #[error("{0} {1} is out of range")]
    Range(&'static str, u32),
}

impl TermiosError {
    fn call(call: &'static str) -> impl FnOnce(Errno) -> TermiosError {
        move |errno| TermiosError::Call { call, errno }
    }

    /// Whether the terminal is hung up.
    pub fn is_hung_up(&self) -> bool {
        matches!(self, TermiosError::Call { errno: Errno::EIO, .. })
    }
}

/// How many control characters a terminal has.
pub const CHARACTERS: usize = 19;

fn entry(termios: &Termios2) -> TermiosEntry {
    TermiosEntry {
        c_iflag: termios.iflag,
        c_oflag: termios.oflag,
        c_cflag: termios.cflag,
        c_lflag: termios.lflag,
        c_line: termios.line.into(),
        c_ispeed: termios.ispeed,
        c_ospeed: termios.ospeed,
        c_cc: pack(termios.cc),
    }
}

/// The images have a 32-bit word for each control character, but four characters lie in each of the first
/// words, in memory order; the other words say nothing.
fn pack(characters: [u8; CHARACTERS]) -> Vec<u32> {
    let mut words = vec![0; CHARACTERS];
    for (word, four) in words.iter_mut().zip(characters.chunks(4)) {
        let mut bytes = [0; 4];
        bytes[..four.len()].copy_from_slice(four);
        *word = u32::from_ne_bytes(bytes);
    }
    words
}

/// The control characters of an entry, by their usual index (`VINTR`, `VEOF`…).
///
/// # Errors
/// [`TermiosError::Characters`].
pub fn control_characters(entry: &TermiosEntry) -> Result<[u8; CHARACTERS], TermiosError> {
    if entry.c_cc.len() < CHARACTERS {
        return Err(TermiosError::Characters(entry.c_cc.len()));
    }
    let mut characters = [0; CHARACTERS];
    for (four, word) in characters.chunks_mut(4).zip(&entry.c_cc) {
        four.copy_from_slice(&word.to_ne_bytes()[..four.len()]);
    }
    Ok(characters)
}

/// Replaces one control character of an entry.
///
/// # Errors
/// [`TermiosError::Characters`].
///
/// # Panics
/// For an index that no terminal has.
pub fn set_control_character(entry: &mut TermiosEntry, index: usize, byte: u8) -> Result<(), TermiosError> {
    let mut characters = control_characters(entry)?;
    characters[index] = byte;
    entry.c_cc = pack(characters);
    Ok(())
}

/// The kernel's form of an entry.
pub(crate) fn native(entry: &TermiosEntry) -> Result<Termios2, TermiosError> {
    Ok(Termios2 {
        iflag: entry.c_iflag,
        oflag: entry.c_oflag,
        cflag: entry.c_cflag,
        lflag: entry.c_lflag,
        line: u8::try_from(entry.c_line).map_err(|_| TermiosError::Range("line discipline", entry.c_line))?,
        cc: control_characters(entry)?,
        ispeed: entry.c_ispeed,
        ospeed: entry.c_ospeed,
    })
}

/// Calls `change` while the present thread blocks SIGTTOU: a background process may then change its terminal
/// and is not stopped for it.
pub(crate) fn unstopped<T>(change: impl FnOnce() -> T) -> T {
    let mut before = SigSet::empty();
    let stop = SigSet::from(Signal::SIGTTOU);
    let blocked = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&stop), Some(&mut before)).is_ok();
    let result = change();
    if blocked {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
    result
}

impl Dump for Termios {
    type Source<'a> = BorrowedFd<'a>;
    type Entry = TermiosEntry;
    type Error = TermiosError;

    fn dump(source: BorrowedFd<'_>) -> Result<TermiosEntry, TermiosError> {
        sys::termios(source).map(|termios| entry(&termios)).map_err(TermiosError::call("TCGETS2"))
    }
}

/// At once, without waiting for output or dropping input.
impl Restore for Termios {
    type Entry = TermiosEntry;
    type Context<'a> = BorrowedFd<'a>;
    type Object = ();
    type Error = TermiosError;

    fn restore(entry: &TermiosEntry, fd: BorrowedFd<'_>) -> Result<(), TermiosError> {
        let termios = native(entry)?;
        unstopped(|| sys::set_termios(fd, &termios)).map_err(TermiosError::call("TCSETS"))
    }
}

impl Dump for TermiosLock {
    type Source<'a> = BorrowedFd<'a>;
    type Entry = TermiosEntry;
    type Error = TermiosError;

    fn dump(source: BorrowedFd<'_>) -> Result<TermiosEntry, TermiosError> {
        let locked = sys::locked_termios(source).map_err(TermiosError::call("TIOCGLCKTRMIOS"))?;
        Ok(entry(&locked))
    }
}

/// Needs CAP_SYS_ADMIN, but not where nothing changes.
impl Restore for TermiosLock {
    type Entry = TermiosEntry;
    type Context<'a> = BorrowedFd<'a>;
    type Object = ();
    type Error = TermiosError;

    fn restore(entry: &TermiosEntry, fd: BorrowedFd<'_>) -> Result<(), TermiosError> {
        let wanted = Termios2 { ispeed: 0, ospeed: 0, ..native(entry)? };
        if sys::locked_termios(fd).map_err(TermiosError::call("TIOCGLCKTRMIOS"))? == wanted {
            return Ok(());
        }
        sys::lock_termios(fd, &wanted).map_err(TermiosError::call("TIOCSLCKTRMIOS"))
    }
}

impl Dump for WindowSize {
    type Source<'a> = BorrowedFd<'a>;
    type Entry = WinsizeEntry;
    type Error = TermiosError;

    fn dump(source: BorrowedFd<'_>) -> Result<WinsizeEntry, TermiosError> {
        let size = sys::window_size(source).map_err(TermiosError::call("TIOCGWINSZ"))?;
        Ok(WinsizeEntry {
            ws_row: size.ws_row.into(),
            ws_col: size.ws_col.into(),
            ws_xpixel: size.ws_xpixel.into(),
            ws_ypixel: size.ws_ypixel.into(),
        })
    }
}

/// The foreground group gets SIGWINCH where the size changes.
impl Restore for WindowSize {
    type Entry = WinsizeEntry;
    type Context<'a> = BorrowedFd<'a>;
    type Object = ();
    type Error = TermiosError;

    fn restore(entry: &WinsizeEntry, fd: BorrowedFd<'_>) -> Result<(), TermiosError> {
        let short = |value| u16::try_from(value).map_err(|_| TermiosError::Range("window size", value));
        let size = libc::winsize {
            ws_row: short(entry.ws_row)?,
            ws_col: short(entry.ws_col)?,
            ws_xpixel: short(entry.ws_xpixel)?,
            ws_ypixel: short(entry.ws_ypixel)?,
        };
        sys::set_window_size(fd, &size).map_err(TermiosError::call("TIOCSWINSZ"))
    }
}

impl Dump for Settings {
    type Source<'a> = BorrowedFd<'a>;
    type Entry = Settings;
    type Error = TermiosError;

    fn dump(source: BorrowedFd<'_>) -> Result<Settings, TermiosError> {
        Ok(Settings {
            termios: Termios::dump(source)?,
            locked: TermiosLock::dump(source)?,
            winsize: WindowSize::dump(source)?,
        })
    }
}

impl Restore for Settings {
    type Entry = Settings;
    type Context<'a> = BorrowedFd<'a>;
    type Object = ();
    type Error = TermiosError;

    fn restore(entry: &Settings, fd: BorrowedFd<'_>) -> Result<(), TermiosError> {
        Termios::restore(&entry.termios, fd)?;
        TermiosLock::restore(&entry.locked, fd)?;
        WindowSize::restore(&entry.winsize, fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use std::os::fd::AsFd;

    #[test]
    fn settings_move_to_another_terminal() {
        let (from, to) = (openpty(None, None).unwrap(), openpty(None, None).unwrap());
        let mut wanted = Settings::dump(from.slave.as_fd()).unwrap();
        wanted.termios.c_lflag &= !(libc::ECHO | libc::ICANON);
        set_control_character(&mut wanted.termios, libc::VKILL, 0x11).unwrap();
        wanted.termios.c_cflag = wanted.termios.c_cflag & !libc::CBAUD | libc::BOTHER;
        (wanted.termios.c_ispeed, wanted.termios.c_ospeed) = (12_345, 12_345);
        wanted.winsize = WinsizeEntry { ws_row: 33, ws_col: 101, ws_xpixel: 7, ws_ypixel: 9 };
        Settings::restore(&wanted, from.slave.as_fd()).unwrap();
        let dumped = Settings::dump(from.master.as_fd()).unwrap();
        assert_eq!(dumped.termios.c_ospeed, 12_345);
        assert_eq!(dumped.termios.c_cc.len(), 19);
        assert_ne!(Settings::dump(to.slave.as_fd()).unwrap(), dumped);
        Settings::restore(&dumped, to.slave.as_fd()).unwrap();
        assert_eq!(Settings::dump(to.slave.as_fd()).unwrap(), dumped);
        assert_eq!(dumped.winsize, wanted.winsize);
    }

    #[test]
    fn locked_settings_come_back() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let pty = openpty(None, None).unwrap();
        let mut locked = TermiosLock::dump(pty.slave.as_fd()).unwrap();
        locked.c_lflag = libc::ECHO;
        if TermiosLock::restore(&locked, pty.slave.as_fd()).is_ok() {
            assert_eq!(TermiosLock::dump(pty.slave.as_fd()).unwrap(), locked);
        }
    }

    #[test]
    fn what_is_no_terminal_or_hung_up_is_an_error() {
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        let error = Termios::dump(reader.as_fd()).unwrap_err();
        assert_eq!(error.to_string(), "TCGETS2: ENOTTY: Not a typewriter");
        let pty = openpty(None, None).unwrap();
        drop(pty.master);
        assert!(Settings::dump(pty.slave.as_fd()).unwrap_err().is_hung_up());
    }

    #[test]
    fn damaged_entries_are_refused() {
        let short = TermiosEntry { c_cc: vec![0; 18], ..entry(&Termios2::default()) };
        assert!(matches!(native(&short), Err(TermiosError::Characters(18))));
        let strange = TermiosEntry { c_line: 256, ..entry(&Termios2::default()) };
        assert!(matches!(native(&strange), Err(TermiosError::Range("line discipline", 256))));
    }

    #[test]
    fn characters_are_packed_as_in_images_of_others() {
        let mut cc = [0; CHARACTERS];
        cc[..5].copy_from_slice(b"\x03\x1c\x7f\x15\x04");
        cc[18] = 9;
        let mut packed = entry(&Termios2 { cc, ..Termios2::default() });
        assert_eq!(packed.c_cc.len(), 19);
        assert_eq!((packed.c_cc[0], packed.c_cc[1], packed.c_cc[4]), (0x157f_1c03, 4, 9 << 16));
        packed.c_cc[4] |= 0xaa00_0000; // what lies behind is not initialised there
        packed.c_cc[18] = 0xdead_beef;
        assert_eq!(control_characters(&packed).unwrap(), cc);
    }
}
