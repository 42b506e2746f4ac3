//! The robust futex list of any thread: get_robust_list(2), Linux 2.6.17.

use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

/// Where a thread keeps its list of robust futexes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RobustList {
    /// Address of its `struct robust_list_head`; 0 where there is none.
    pub head: u64,
    /// Size of that structure, in bytes.
    pub len: u64,
}

/// A thread's robust list; needs ptrace access.
pub fn get(tid: Pid) -> Result<RobustList> {
    let mut list = RobustList::default();
    // SAFETY: the kernel stores a pointer and a size, both of 64 bits.
    let r = unsafe { libc::syscall(libc::SYS_get_robust_list, tid.as_raw(), &mut list.head, &mut list.len) };
    Errno::result(r).map(|_| list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_its_own() {
        let mine = get(nix::unistd::gettid()).unwrap();
        let other = std::thread::spawn(|| get(Pid::from_raw(0)).unwrap()).join().unwrap();
        assert_eq!((mine.len, other.len), (24, 24));
        assert_ne!(mine.head, other.head);
        assert_eq!(get(Pid::from_raw(i32::MAX)).unwrap_err(), Errno::ESRCH);
    }
}
