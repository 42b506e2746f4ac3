//! A pty pair, seen from its master: number, lock, packet mode, its slave.

use crate::TtyError;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The master of a pty pair (pty(7)).
#[derive(Debug)]
pub struct Pty {
    master: OwnedFd,
    index: u32,
}

impl Pty {
    /// Makes a pair with `/dev/ptmx` or the `ptmx` of another devpts. It is unlocked.
    ///
    /// With `index`, the slave's number is that one: the kernel gives the lowest free number, so that all
    /// below are taken for a moment.
    ///
    /// # Errors
    /// [`TtyError::Taken`] where the number is not free.
    pub fn open(ptmx: &Path, index: Option<u32>) -> Result<Pty, TtyError> {
        let name = ptmx.display().to_string();
        let mut below = Vec::new();
        loop {
            let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            let master = open(ptmx, flags, Mode::empty()).map_err(TtyError::call(&name, "open"))?;
            let pty = Pty::from_master(master)?;
            match index {
                Some(index) if pty.index < index => below.push(pty),
                Some(index) if pty.index > index => return Err(TtyError::Taken { ptmx: name, index }),
                _ => {
                    pty.set_locked(false)?;
                    return Ok(pty);
                }
            }
        }
    }

    /// Takes a master.
    ///
    /// # Errors
    /// ENOTTY for anything else.
    pub fn from_master(master: OwnedFd) -> Result<Pty, TtyError> {
        let index = index_of(master.as_fd()).map_err(TtyError::call("/dev/ptmx", "TIOCGPTN"))?;
        Ok(Pty { master, index })
    }

    /// The number of the slave in `/dev/pts`.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The master's descriptor.
    pub fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Opens the slave, without making it a controlling terminal. Flags are those of open(2); close-on-exec
    /// is added. `path` is the slave's name, for kernels that cannot do without (before 4.13) and masters
    /// that were opened far from their devpts.
    ///
    /// # Errors
    /// EIO while the pair is locked.
    pub fn slave(&self, flags: OFlag, path: Option<&Path>) -> Result<OwnedFd, TtyError> {
        let flags = flags | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let name = || format!("/dev/pts/{}", self.index);
        match (sys::peer(self.master(), flags), path) {
            (Ok(fd), _) => Ok(fd),
            (Err(Errno::ENOTTY | Errno::EINVAL | Errno::ENODEV | Errno::ENOENT), Some(path)) => {
                open(path, flags, Mode::empty()).map_err(TtyError::call(path.to_string_lossy(), "open"))
            }
            (Err(errno), _) => Err(TtyError::call(name(), "TIOCGPTPEER")(errno)),
        }
    }

    /// Locks or unlocks the slave (unlockpt(3)).
    ///
    /// # Errors
    /// Those of ioctl(2).
    pub fn set_locked(&self, locked: bool) -> Result<(), TtyError> {
        self.set(libc::TIOCSPTLCK, "TIOCSPTLCK", locked)
    }

    /// Switches packet mode (TIOCPKT in ioctl_tty(2)).
    ///
    /// # Errors
    /// Those of ioctl(2).
    pub fn set_packet_mode(&self, on: bool) -> Result<(), TtyError> {
        self.set(libc::TIOCPKT, "TIOCPKT", on)
    }

    fn set(&self, request: u64, name: &'static str, on: bool) -> Result<(), TtyError> {
        sys::set(self.master(), request, on.into())
            .map_err(TtyError::call(format!("master of /dev/pts/{}", self.index), name))
    }
}

/// The number of the pair that a master belongs to.
pub(crate) fn index_of(master: BorrowedFd<'_>) -> nix::Result<u32> {
    Ok(sys::get(master, libc::TIOCGPTN)? as u32)
}

/// What can be switched on a terminal beside its settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// The slave of this pty cannot be opened yet.
    pub locked: bool,
    /// Nobody but root can open the terminal again (TIOCEXCL).
    pub exclusive: bool,
    /// Packet mode of a pty master.
    pub packet: bool,
}

/// Reads them (Linux 3.8).
pub(crate) fn modes(fd: BorrowedFd<'_>, pty: bool) -> nix::Result<Modes> {
    let exclusive = sys::get_or_zero(fd, sys::TIOCGEXCL)? != 0;
    if !pty {
        return Ok(Modes { exclusive, ..Modes::default() });
    }
    let packet = sys::get_or_zero(fd, sys::TIOCGPKT)? != 0;
    Ok(Modes { locked: sys::get_or_zero(fd, sys::TIOCGPTLCK)? != 0, exclusive, packet })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pty(index: Option<u32>) -> Result<Pty, TtyError> {
        Pty::open(Path::new("/dev/ptmx"), index)
    }

    #[test]
    fn numbers_can_be_chosen_and_are_refused_when_taken() {
        let high = pty(Some(700)).unwrap();
        assert_eq!(high.index(), 700);
        let error = pty(Some(700)).unwrap_err();
        assert!(matches!(error, TtyError::Taken { index: 700, .. }), "{error}");
        drop(high);
        assert_eq!(pty(Some(700)).unwrap().index(), 700);
    }

    #[test]
    fn the_slave_is_that_of_the_master() {
        let pty = pty(None).unwrap();
        let slave = pty.slave(OFlag::O_RDWR, None).unwrap();
        let name = nix::unistd::ttyname(&slave).unwrap();
        assert_eq!(name.file_name().unwrap().to_str().unwrap(), pty.index().to_string());
        nix::unistd::write(&slave, b"word").unwrap();
        let mut heard = [0; 8];
        assert_eq!(nix::unistd::read(pty.master(), &mut heard).unwrap(), 4);
    }

    #[test]
    fn modes_are_seen() {
        let pty = pty(None).unwrap();
        assert_eq!(modes(pty.master(), true).unwrap(), Modes::default());
        pty.set_locked(true).unwrap();
        pty.set_packet_mode(true).unwrap();
        sys::tell(pty.master(), libc::TIOCEXCL, 0).unwrap();
        assert_eq!(modes(pty.master(), true).unwrap(), Modes { locked: true, exclusive: true, packet: true });
        assert!(pty.slave(OFlag::O_RDWR, None).is_err(), "locked");
    }
}
