//! A descriptor number of criu-rs, reserved for the tasks, and kept free of other files until it is filled.

use crate::error::Error;
use criu_resource::{Numbers, Place};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Mutex;

/// A reserved number, with some file there already.
pub struct Seat {
    holder: OwnedFd,
}

impl Seat {
    /// Reserves a number and puts `file` there.
    pub fn reserve(numbers: &Mutex<Numbers>, file: OwnedFd) -> Result<Seat, Error> {
        loop {
            let number = numbers.lock().unwrap_or_else(|e| e.into_inner()).reserve(None);
            // SAFETY: the duplicate is new, and owned by nobody else.
            let holder = unsafe {
                let ret = libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number);
                let ret = nix::errno::Errno::result(ret)
                    .map_err(|errno| Error::Number { number, source: errno.into() })?;
                OwnedFd::from_raw_fd(ret)
            };
            // Another number means that criu-rs has something open there.
            if holder.as_raw_fd() == number {
                return Ok(Seat { holder });
            }
        }
    }

    /// Something to keep a number with.
    pub fn placeholder() -> io::Result<OwnedFd> {
        Ok(File::open("/dev/null")?.into())
    }

    /// The number.
    pub fn number(&self) -> i32 {
        self.holder.as_raw_fd()
    }

    /// The file of [`Seat::reserve`] is the final one.
    pub fn settle(self, place: &mut dyn Place) -> io::Result<()> {
        let number = self.number();
        place.place(number, self.holder, true)
    }

    /// Puts another file there.
    pub fn place(self, place: &mut dyn Place, file: OwnedFd) -> io::Result<()> {
        let number = self.number();
        drop(self.holder);
        place.place(number, file, true)
    }
}
