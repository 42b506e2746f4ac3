//! Resource limits of any process: prlimit(2), Linux 2.6.36.

use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::plain::{self, Plain};

/// How many limits there are: `RLIMIT_CPU` (0) to `RLIMIT_RTTIME` (15).
pub const COUNT: u32 = 16;
/// No limit (`RLIM64_INFINITY`).
pub const INFINITY: u64 = u64::MAX;

/// A soft and a hard limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Limit {
    /// The limit that applies.
    pub soft: u64,
    /// How far it can be raised.
    pub hard: u64,
}

// SAFETY: two u64.
unsafe impl Plain for Limit {}

/// A process's limit `resource` (`RLIMIT_*`).
///
/// `EPERM` for a process of another user without `CAP_SYS_RESOURCE` in its user namespace: then
/// it has to be asked from inside.
pub fn get(pid: Pid, resource: u32) -> Result<Limit> {
    let mut limit: Limit = plain::zeroed();
    let new = std::ptr::null::<Limit>();
    let old = std::ptr::from_mut(&mut limit);
    // SAFETY: no new limit is given, and the old one is ours to fill.
    let r = unsafe { libc::syscall(libc::SYS_prlimit64, pid.as_raw(), resource, new, old) };
    Errno::result(r).map(|_| limit)
}

/// Sets a process's limit. `EPERM` for raising the hard limit without `CAP_SYS_RESOURCE`.
pub fn set(pid: Pid, resource: u32, limit: Limit) -> Result<()> {
    let new = std::ptr::from_ref(&limit);
    let old = std::ptr::null_mut::<Limit>();
    // SAFETY: the new limit is only read, and the old one not asked for.
    let r = unsafe { libc::syscall(libc::SYS_prlimit64, pid.as_raw(), resource, new, old) };
    Errno::result(r).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_limit_is_lowered() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let before = get(pid, libc::RLIMIT_NOFILE).unwrap();
        let lower = Limit { soft: before.soft - 1, ..before };
        set(pid, libc::RLIMIT_NOFILE, lower).unwrap();
        let seen = get(pid, libc::RLIMIT_NOFILE);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seen.unwrap(), lower);
        assert_eq!(get(Pid::this(), COUNT).unwrap_err(), Errno::EINVAL);
        get(Pid::this(), COUNT - 1).unwrap();
    }
}
