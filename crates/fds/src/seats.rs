//! Reserved descriptor numbers of criu-rs, kept free for the file that will go there.
//!
//! Between reserving a number and filling it, criu-rs opens other files, and the kernel gives the lowest
//! free number. A placeholder at each reserved number keeps it out of their reach.

use crate::sys;
use criu_resource::{Numbers, Place};
use nix::errno::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Mutex;

/// A number could not be reserved.
#[derive(Debug, thiserror::Error)]
pub enum SeatError {
    /// It lies beyond RLIMIT_NOFILE.
    #[error("descriptor number {0} is beyond the limit of criu-rs itself; raise its hard limit (ulimit -Hn)")]
    Limit(i32),
    /// A system call failed.
    #[error("{0}: {1}")]
    Call(&'static str, Errno),
}

/// Numbers of criu-rs that wait for their file.
#[derive(Debug)]
pub struct Seats {
    placeholder: OwnedFd,
    taken: HashMap<i32, OwnedFd>,
}

impl Seats {
    /// None yet.
    ///
    /// # Errors
    /// Those of opening `/`.
    pub fn new() -> Result<Seats, SeatError> {
        let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
        let placeholder = nix::fcntl::open("/", flags, nix::sys::stat::Mode::empty())
            .map_err(|errno| SeatError::Call("open", errno))?;
        Ok(Seats { placeholder, taken: HashMap::new() })
    }

    /// Reserves a number, `preferred` if it is free, and keeps it free.
    ///
    /// # Errors
    /// [`SeatError::Limit`].
    pub fn reserve(&mut self, numbers: &Mutex<Numbers>, preferred: Option<i32>) -> Result<i32, SeatError> {
        let mut preferred = preferred;
        loop {
            let number = numbers.lock().unwrap_or_else(|e| e.into_inner()).reserve(preferred.take());
            let holder = match sys::duplicate_from(self.placeholder.as_fd(), number) {
                Ok(holder) => holder,
                Err(Errno::EINVAL | Errno::EMFILE) => return Err(SeatError::Limit(number)),
                Err(errno) => return Err(SeatError::Call("fcntl(F_DUPFD)", errno)),
            };
            // Another number means that criu-rs has something open there: the number stays reserved for it.
            if holder.as_raw_fd() == number {
                self.taken.insert(number, holder);
                return Ok(number);
            }
        }
    }

    /// Moves `fd` to a number that was reserved here, before its place is final.
    ///
    /// A file that waits for others then needs one number of criu-rs and not two: its own and the reserved one.
    ///
    /// # Errors
    /// Those of dup3(2).
    pub fn sit(&mut self, number: i32, fd: OwnedFd) -> Result<OwnedFd, SeatError> {
        let Some(mut seat) = self.taken.remove(&number) else { return Ok(fd) };
        nix::unistd::dup3(&fd, &mut seat, nix::fcntl::OFlag::O_CLOEXEC)
            .map_err(|errno| SeatError::Call("dup3", errno))?;
        Ok(seat)
    }

    /// Puts `fd` at a number that was reserved here.
    ///
    /// # Errors
    /// Those of `place`.
    pub fn place(
        &mut self,
        place: &mut dyn Place,
        number: i32,
        fd: OwnedFd,
        cloexec: bool,
    ) -> io::Result<()> {
        drop(self.taken.remove(&number));
        place.place(number, fd, cloexec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_out_of_reach_for_others() {
        let numbers = Mutex::new(Numbers::default());
        let mut seats = Seats::new().unwrap();
        let free = sys::duplicate_from(seats.placeholder.as_fd(), 500).unwrap().as_raw_fd();
        numbers.lock().unwrap().claim(free);
        assert_eq!(seats.reserve(&numbers, Some(free)).unwrap(), free);
        assert_ne!(sys::duplicate_from(seats.placeholder.as_fd(), free).unwrap().as_raw_fd(), free);
        let mut file = std::io::pipe().unwrap().0.into();
        file = seats.sit(free, file).unwrap();
        assert_eq!(file.as_raw_fd(), free);
        file = seats.sit(free, file).unwrap();
        assert_eq!(file.as_raw_fd(), free, "it sits already");
        // One that is open already is not given away.
        let other = seats.placeholder.as_raw_fd();
        assert_ne!(seats.reserve(&numbers, Some(other)).unwrap(), other);
        assert!(matches!(seats.reserve(&numbers, Some(i32::MAX)), Err(SeatError::Limit(_))));
    }
}
