//! Scheduling of one thread: sched_setattr(2), Linux 3.14.

use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::plain::{self, Plain};

/// `struct sched_attr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SchedAttr {
    /// Size of the structure; [`set`] fills it in.
    pub size: u32,
    /// `SCHED_OTHER`, `SCHED_FIFO`, …
    pub policy: u32,
    /// `SCHED_FLAG_*`, of which `SCHED_FLAG_RESET_ON_FORK` (1) is state.
    pub flags: u64,
    /// Nice value, for `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// Static priority, for `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Nanoseconds a period, for `SCHED_DEADLINE`; the time slice otherwise (Linux 6.12).
    pub runtime: u64,
    /// Deadline in nanoseconds.
    pub deadline: u64,
    /// Period in nanoseconds.
    pub period: u64,
    /// Least utilisation, 0 to 1024 (Linux 5.3).
    pub util_min: u32,
    /// Most utilisation, 0 to 1024 (Linux 5.3).
    pub util_max: u32,
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for SchedAttr {}

/// Reads a thread's scheduling; 0 is the calling thread.
pub fn get(tid: Pid) -> Result<SchedAttr> {
    let mut attr: SchedAttr = plain::zeroed();
    let pointer = std::ptr::from_mut(&mut attr);
    let size = size_of::<SchedAttr>();
    // SAFETY: the kernel fills at most `size` bytes of the structure.
    let r = unsafe { libc::syscall(libc::SYS_sched_getattr, tid.as_raw(), pointer, size, 0u32) };
    Errno::result(r).map(|_| attr)
}

/// Sets a thread's scheduling. `EPERM` without `CAP_SYS_NICE`, where that is needed; `EBUSY`
/// where deadlines can not be met.
pub fn set(tid: Pid, attr: &SchedAttr) -> Result<()> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..*attr };
    let pointer = std::ptr::from_ref(&attr);
    // SAFETY: the kernel reads the structure, of the size that it says.
    let r = unsafe { libc::syscall(libc::SYS_sched_setattr, tid.as_raw(), pointer, 0u32) };
    Errno::result(r).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_set_alone() {
        let others = get(Pid::this()).unwrap();
        std::thread::spawn(move || {
            let me = nix::unistd::gettid();
            let wanted = SchedAttr { policy: libc::SCHED_BATCH as u32, nice: 5, ..get(me).unwrap() };
            set(me, &wanted).unwrap();
            let seen = get(me).unwrap();
            assert_eq!((seen.policy, seen.nice), (libc::SCHED_BATCH as u32, 5));
            assert_eq!(seen, get(Pid::from_raw(0)).unwrap());
        })
        .join()
        .unwrap();
        assert_eq!(get(Pid::this()).unwrap(), others);
        assert_eq!(get(Pid::from_raw(i32::MAX)).unwrap_err(), Errno::ESRCH);
    }
}
