//! Process descriptors: pidfd_open(2), pidfd_getfd(2), pidfd_send_signal(2).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

bitflags::bitflags! {
    /// Flags of [`open`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// `waitid` on the descriptor returns at once (Linux 5.10).
        const NONBLOCK = libc::PIDFD_NONBLOCK;
        /// The descriptor names one thread, not its group (Linux 6.9).
        const THREAD = libc::PIDFD_THREAD;
    }
}

/// Takes ownership of a descriptor that a system call has just returned.
pub(crate) fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel returned this new descriptor to us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Opens a descriptor for a process, or with [`Flags::THREAD`] for a thread. Always close-on-exec.
///
/// pidfd_open(2), Linux 5.3. Fails with `ESRCH` where there is no such process and `EINVAL` where
/// `pid` is not a thread group leader and `THREAD` is not given.
pub fn open(pid: Pid, flags: Flags) -> Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), flags.bits()) };
    Errno::result(fd).map(owned)
}

/// Duplicates descriptor `fd` of the process into this one: the same open file description,
/// close-on-exec.
///
/// pidfd_getfd(2), Linux 5.6; needs ptrace access to the process. Fails with `EBADF` where the
/// process has no such descriptor.
pub fn getfd(pidfd: BorrowedFd<'_>, fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: pidfd_getfd takes three integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0u32) };
    Errno::result(fd).map(owned)
}

/// Sends signal number `signal` (0: only the permission check) to the process.
///
/// pidfd_send_signal(2), Linux 5.1. A plain number, as real-time signals are meant too.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed; the rest are integers.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0u32) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;

    #[test]
    fn own_descriptor_comes_as_the_same_description() {
        let me = open(Pid::this(), Flags::empty()).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let mut copy = File::from(getfd(me.as_fd(), file.as_raw_fd()).unwrap());
        file.write_all(b"abcd").unwrap();
        assert_eq!(copy.stream_position().unwrap(), 4, "the position is shared");
        copy.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcd");
        assert_eq!(getfd(me.as_fd(), 1_000_000).unwrap_err(), Errno::EBADF);
    }

    #[test]
    fn signals_reach_the_child() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pidfd = open(Pid::from_raw(child.id() as i32), Flags::empty()).unwrap();
        send_signal(pidfd.as_fd(), 0).unwrap();
        send_signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
        assert!(!child.wait().unwrap().success());
        assert_eq!(send_signal(pidfd.as_fd(), 0).unwrap_err(), Errno::ESRCH);
    }

    #[test]
    fn no_such_process() {
        assert_eq!(open(Pid::from_raw(i32::MAX), Flags::empty()).unwrap_err(), Errno::ESRCH);
    }
}
