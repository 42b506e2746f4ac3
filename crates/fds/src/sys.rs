//! The few system calls that nix has no safe wrapper for, or takes no borrowed descriptor in.

use criu_kernel::clone3::{CloneArgs, clone3};
use nix::Result;
use nix::errno::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `F_SETOWN_EX`; libc has it only for some targets.
pub const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_GETOWNER_UIDS: i32 = 17;
/// `F_SETSIG`; libc lacks it.
pub const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;

/// How many descriptors the table has room for at once.
const ROOM: usize = 8192;

/// Takes ownership of a descriptor that a system call has just returned.
fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel returned this new descriptor to us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Whom a description signals: kind of id (`F_OWNER_*`) and id, as `struct f_owner_ex`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `F_OWNER_TID`, `F_OWNER_PID` or `F_OWNER_PGRP`.
    pub kind: i32,
    /// The id; 0 for nobody.
    pub pid: i32,
}

/// `fcntl` commands that take an integer or nothing.
fn fcntl(fd: BorrowedFd<'_>, command: i32, value: i32) -> Result<i32> {
    // SAFETY: only commands of this module that take no pointer come here.
    Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), command, value) })
}

/// The owner set with F_SETOWN (F_GETOWN_EX, Linux 2.6.32).
pub fn owner(fd: BorrowedFd<'_>) -> Result<Owner> {
    let mut owner = Owner::default();
    // SAFETY: the command fills a `struct f_owner_ex`, which `Owner` mirrors.
    Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETOWN_EX, &raw mut owner) })?;
    Ok(owner)
}

/// The real and effective user that set the owner (F_GETOWNER_UIDS, Linux 3.7,
/// `CONFIG_CHECKPOINT_RESTORE`).
pub fn owner_uids(fd: BorrowedFd<'_>) -> Result<[u32; 2]> {
    let mut uids = [0; 2];
    // SAFETY: the command fills two `uid_t`.
    Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETOWNER_UIDS, uids.as_mut_ptr()) })?;
    Ok(uids)
}

/// The signal sent on input (F_GETSIG); 0 for SIGIO.
pub fn owner_signal(fd: BorrowedFd<'_>) -> Result<i32> {
    fcntl(fd, F_GETSIG, 0)
}

/// Sets the signal sent on input (F_SETSIG).
pub fn set_owner_signal(fd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    fcntl(fd, F_SETSIG, signal).map(drop)
}

/// Sets status flags (F_SETFL): of `flags`, the kernel takes what can be changed.
pub fn set_flags(fd: BorrowedFd<'_>, flags: u32) -> Result<()> {
    fcntl(fd, libc::F_SETFL, flags as i32).map(drop)
}

/// Duplicates a descriptor to the lowest free number that is not below `least`.
pub fn duplicate_from(fd: BorrowedFd<'_>, least: RawFd) -> Result<OwnedFd> {
    fcntl(fd, libc::F_DUPFD_CLOEXEC, least).map(|fd| owned(fd.into()))
}

/// Duplicates a descriptor of this process that somebody else named by its number. `EBADF` where there
/// is none.
pub fn duplicate_number(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: duplicating changes nothing about the descriptor, whoever owns it.
    Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }).map(|fd| owned(fd.into()))
}

/// Opens `/proc/self/fd/N` anew: another description of the same file.
pub fn reopen(fd: BorrowedFd<'_>, flags: u32) -> io::Result<OwnedFd> {
    let flags = nix::fcntl::OFlag::from_bits_retain(flags as i32 | libc::O_CLOEXEC | libc::O_NOCTTY);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(nix::fcntl::open(path.as_str(), flags, nix::sys::stat::Mode::empty())?)
}

/// signalfd4(2) with a mask as the kernel has it: bit 0 is signal 1, real-time signals included.
pub fn signalfd(mask: u64, flags: i32) -> Result<OwnedFd> {
    // SAFETY: the kernel reads the eight bytes of `mask`.
    let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, size_of::<u64>(), flags) };
    Errno::result(fd).map(owned)
}

/// memfd_create(2) with any flags (hugetlb sizes among them).
pub fn memfd_create(name: &CStr, flags: u32) -> Result<OwnedFd> {
    // SAFETY: the kernel reads the terminated string.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) };
    Errno::result(fd).map(owned)
}

/// The number of bytes that wait in a pipe or socket (FIONREAD).
pub fn waiting(fd: BorrowedFd<'_>) -> Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request fills one int.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes) })?;
    Ok(bytes as usize)
}

/// Raises the soft limit of open descriptors of this process to its hard limit, and returns it.
pub fn raise_descriptor_limit() -> Result<usize> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(usize::try_from(hard).unwrap_or(usize::MAX))
}

/// Prepares this process to hold thousands of descriptors of others: raises its limit, and lets the kernel
/// make its table large. To be called while it has one thread: later, the kernel waits at each enlargement
/// until no processor looks at the old table.
///
/// # Errors
/// Those of setrlimit(2) and fcntl(2).
pub fn make_room() -> Result<()> {
    let limit = raise_descriptor_limit()?;
    let null = nix::fcntl::open("/dev/null", nix::fcntl::OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?;
    duplicate_from(null.as_fd(), ROOM.min(limit - 1) as RawFd).map(drop)
}

/// A process of criu-rs's own that does nothing. Ends, waited for, when dropped.
#[derive(Debug)]
pub struct Helper(nix::unistd::Pid);

impl Helper {
    /// Starts one, with any pid.
    pub fn start() -> Result<Helper> {
        Helper::clone(&CloneArgs { exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() })
    }

    /// Starts one with this pid (Linux 5.5, CAP_CHECKPOINT_RESTORE).
    pub fn start_as(pid: u32) -> Result<Helper> {
        let pids = [pid as i32];
        let (set_tid, set_tid_size) = (pids.as_ptr() as u64, 1);
        let exit_signal = libc::SIGCHLD as u64;
        Helper::clone(&CloneArgs { exit_signal, set_tid, set_tid_size, ..CloneArgs::default() })
    }

    fn clone(args: &CloneArgs) -> Result<Helper> {
        // SAFETY: the child only waits for a signal, by a plain system call.
        match unsafe { clone3(args) }? {
            Some(child) => Ok(Helper(child)),
            None => loop {
                // SAFETY: no arguments.
                unsafe { libc::syscall(libc::SYS_pause) };
            },
        }
    }

    /// Its pid.
    pub fn pid(&self) -> nix::unistd::Pid {
        self.0
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.0, None);
    }
}

/// inotify_init1(2).
pub fn inotify_init(flags: i32) -> Result<OwnedFd> {
    // SAFETY: an integer.
    Errno::result(unsafe { libc::inotify_init1(flags) }).map(|fd| owned(fd.into()))
}

/// inotify_add_watch(2): the watch's number.
pub fn inotify_add_watch(fd: BorrowedFd<'_>, path: &CStr, mask: u32) -> Result<i32> {
    // SAFETY: the kernel reads the terminated path.
    Errno::result(unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), mask) })
}

/// Chooses the number of the next watch (INOTIFY_IOC_SETNEXTWD, Linux 4.15, `CONFIG_CHECKPOINT_RESTORE`).
pub fn inotify_set_next_watch(fd: BorrowedFd<'_>, number: i32) -> Result<()> {
    const SET_NEXT: u64 = 0x4004_4900;
    // SAFETY: the request takes an integer, no pointer.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), SET_NEXT, number) }).map(drop)
}

/// fanotify_init(2).
pub fn fanotify_init(flags: u32, event_flags: u32) -> Result<OwnedFd> {
    // SAFETY: two integers.
    Errno::result(unsafe { libc::fanotify_init(flags, event_flags) }).map(|fd| owned(fd.into()))
}

/// fanotify_mark(2).
pub fn fanotify_mark(fd: BorrowedFd<'_>, flags: u32, mask: u64, path: &CStr) -> Result<()> {
    // SAFETY: the kernel reads the terminated path.
    let marked = unsafe { libc::fanotify_mark(fd.as_raw_fd(), flags, mask, libc::AT_FDCWD, path.as_ptr()) };
    Errno::result(marked).map(drop)
}
