//! Probes about descriptors and files.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use nix::unistd::{Pid, pipe};

use crate::kcmp::{self, EpollSlot};
use crate::pidfd;

const TUN: &str = "/dev/net/tun";

fn fdinfo(file: impl AsRawFd) -> String {
    fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap_or_default()
}

pub(super) fn mount_id() -> bool {
    File::open("/proc/self/status").is_ok_and(|file| fdinfo(file).contains("mnt_id:"))
}

pub(super) fn fdinfo_lock() -> bool {
    let Ok(file) = File::open("/proc/locks") else { return false };
    // SAFETY: flock takes numbers; the lock ends with the descriptor.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH) == 0 && fdinfo(file).contains("lock:") }
}

pub(super) fn timerfd_ticks() -> bool {
    const TFD_IOC_SET_TICKS: libc::Ioctl = nix::request_code_write!(b'T', 0, size_of::<u64>()) as libc::Ioctl;
    let Ok(timer) = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC) else { return false };
    let fd = timer.as_fd().as_raw_fd();
    // SAFETY: a null pointer, which a kernel that knows the request refuses to read.
    let r = unsafe { libc::ioctl(fd, TFD_IOC_SET_TICKS, std::ptr::null::<u64>()) };
    Errno::result(r) == Err(Errno::EFAULT)
}

pub(super) fn kcmp_epoll() -> bool {
    let look = || -> nix::Result<bool> {
        let (reader, _writer) = pipe()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&reader, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        let slot = EpollSlot { efd: epoll.0.as_raw_fd() as u32, tfd: reader.as_raw_fd() as u32, toff: 0 };
        let me = Pid::this();
        kcmp::epoll_target((me, reader.as_raw_fd()), me, &slot).map(|order| order.is_eq())
    };
    look().unwrap_or(false)
}

/// Follows the link of the first mapping that has a file.
pub(super) fn map_files() -> bool {
    let Ok(mut links) = fs::read_dir("/proc/self/map_files") else { return false };
    links.any(|link| link.is_ok_and(|link| File::open(link.path()).is_ok()))
}

pub(super) fn openat2() -> bool {
    let how = [0u64; 3];
    let size = size_of_val(&how);
    // SAFETY: the path is a C string, and `how` has the size of `struct open_how`.
    let fd = unsafe { libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, c"/".as_ptr(), how.as_ptr(), size) };
    Errno::result(fd).map(pidfd::owned).is_ok()
}

pub(super) fn tun() -> bool {
    const TUNSETIFINDEX: libc::Ioctl = nix::request_code_write!(b'T', 218, size_of::<u32>()) as libc::Ioctl;
    let Ok(tun) = OpenOptions::new().read(true).write(true).open(TUN) else { return false };
    let index = 13i32;
    // SAFETY: the request reads one int; it holds only for an interface made through this descriptor.
    unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFINDEX, &index) == 0 }
}

pub(super) fn tun_namespace() -> bool {
    File::open(TUN).is_ok_and(|tun| namespace(tun.as_fd()))
}

/// Whether `SIOCGSKNS` tells a descriptor's network namespace.
pub(super) fn namespace(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    const SIOCGSKNS: libc::Ioctl = 0x894C;
    // SAFETY: the request takes no argument and gives a new descriptor.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), SIOCGSKNS, 0usize) };
    Errno::result(libc::c_long::from(r)).map(pidfd::owned).is_ok()
}
