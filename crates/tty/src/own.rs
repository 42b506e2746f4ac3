//! The terminal of criu-rs itself: it takes the place of a shell job's.

use crate::TtyError;
use crate::device;
use crate::sys;
use criu_kernel::proc::ProcDir;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// Where criu-rs finds its terminal: standard input, or else its controlling terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    path: PathBuf,
    number: u32,
    standard_input: bool,
}

/// Device number of the controlling terminal of this process; 0 for none.
fn controlling() -> u32 {
    ProcDir::current().and_then(|proc| proc.stat()).map_or(0, |stat| stat.tty_nr)
}

impl Own {
    /// Looks for it.
    ///
    /// # Errors
    /// [`TtyError::NoTerminal`].
    pub fn find() -> Result<Own, TtyError> {
        let input = std::io::stdin();
        if input.is_terminal() {
            let number = match sys::get(input.as_fd(), sys::TIOCGDEV) {
                Ok(number) => number as u32,
                Err(_) => {
                    fstat(input.as_fd()).map_err(TtyError::call("standard input", "fstat"))?.st_rdev as u32
                }
            };
            return Ok(Own { path: "/proc/self/fd/0".into(), number, standard_input: true });
        }
        match controlling() {
            0 => Err(TtyError::NoTerminal),
            number => Ok(Own { path: device::name(number).into(), number, standard_input: false }),
        }
    }

    /// Whether it is also the controlling terminal of criu-rs's session, which a job inherits.
    pub fn is_controlling(&self) -> bool {
        self.number == controlling()
    }

    /// Opens it anew, with the access mode of `flags`, so that status flags are nobody else's.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(&self, flags: OFlag) -> Result<OwnedFd, TtyError> {
        let flags = flags | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        match open(&self.path, flags, Mode::empty()) {
            Ok(fd) => Ok(fd),
            // A terminal of another user or namespace can be used, but not opened.
            Err(_) if self.standard_input => {
                sys::duplicate_number(0, 3).map_err(TtyError::call("standard input", "fcntl(F_DUPFD)"))
            }
            Err(errno) => Err(TtyError::call(self.path.to_string_lossy(), "open")(errno)),
        }
    }
}
