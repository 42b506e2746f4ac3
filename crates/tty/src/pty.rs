//! Making a pty pair of a given number.

use crate::{Error, ioctl};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};

/// Opens the master of pair number `index` in the devpts of `/dev/ptmx`. `flags` are those of the description;
/// the slave side stays locked.
///
/// The kernel gives the lowest free number: pairs below the wanted one are opened too and closed again.
///
/// # Errors
/// [`Error::IndexTaken`], or the system's.
pub fn open_master(index: u32, flags: i32) -> Result<OwnedFd, Error> {
    let path = "/dev/ptmx";
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mut lower = Vec::new();
    loop {
        let master = open(path, flags, Mode::empty()).map_err(Error::system(path, "open"))?;
        let got = ioctl::pty_number(master.as_fd()).map_err(Error::system(path, "TIOCGPTN"))?;
        match got.cmp(&index) {
            std::cmp::Ordering::Equal => return Ok(master),
            std::cmp::Ordering::Less => lower.push(master),
            std::cmp::Ordering::Greater => return Err(Error::IndexTaken { index, got }),
        }
    }
}

/// Path of a pair's slave side.
pub fn slave_path(index: u32) -> String {
    format!("/dev/pts/{index}")
}

/// Opens the slave side, which must be unlocked, without making it the controlling terminal.
///
/// # Errors
/// The system's.
pub fn open_slave(index: u32, flags: i32) -> Result<OwnedFd, Error> {
    let path = slave_path(index);
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open(path.as_str(), flags, Mode::empty()).map_err(Error::system(&path, "open"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_comes_back_under_its_number() {
        let flags = libc::O_RDWR;
        let first = nix::pty::openpty(None, None).unwrap();
        let second = nix::pty::openpty(None, None).unwrap();
        let wanted = ioctl::pty_number(second.master.as_fd()).unwrap();
        assert!(
            matches!(open_master(wanted, flags), Err(Error::IndexTaken { index, .. }) if index == wanted)
        );
        drop(second);
        drop(first);
        // Other tests open ptys meanwhile; any of them may take the number.
        if let Ok(master) = open_master(wanted, flags) {
            assert_eq!(ioctl::pty_number(master.as_fd()).unwrap(), wanted);
            ioctl::lock(master.as_fd(), false).unwrap();
            open_slave(wanted, flags).unwrap();
        }
    }
}
