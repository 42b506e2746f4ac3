//! The coordinator's descriptors, where scripts expect them.

use criu_resource::Place;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Holds what was placed; closes it on drop.
#[derive(Default)]
pub(crate) struct Placed {
    files: Vec<OwnedFd>,
}

impl Place for Placed {
    fn place(&mut self, number: i32, fd: OwnedFd, cloexec: bool) -> io::Result<()> {
        let flags = if cloexec { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
        if fd.as_raw_fd() == number {
            fcntl(&fd, FcntlArg::F_SETFD(flags))?;
            self.files.push(fd);
            return Ok(());
        }
        // SAFETY: `number` was reserved: nobody in this process uses it.
        let placed = unsafe {
            let ret = libc::dup3(fd.as_raw_fd(), number, if cloexec { libc::O_CLOEXEC } else { 0 });
            OwnedFd::from_raw_fd(nix::errno::Errno::result(ret)?)
        };
        self.files.push(placed);
        Ok(())
    }
}
