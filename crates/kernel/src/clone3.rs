//! The arguments of clone3(2), Linux 5.3 (`set_tid` 5.5, `cgroup` 5.7).
//!
//! The call itself returns twice, with all that this means for locks and allocators; only an
//! `unsafe` function makes it.

use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::plain::Plain;

/// All fields of `struct clone_args`, 88 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct CloneArgs {
    /// [`Flags`], without a signal number.
    pub flags: u64,
    /// Address where the kernel stores the new pidfd (`CLONE_PIDFD`).
    pub pidfd: u64,
    /// Address in the child for `CLONE_CHILD_SETTID` and `CLONE_CHILD_CLEARTID`.
    pub child_tid: u64,
    /// Address in the parent for `CLONE_PARENT_SETTID`.
    pub parent_tid: u64,
    /// Signal to the parent when the child ends; 0 for a thread.
    pub exit_signal: u64,
    /// Lowest byte of the child's stack, or 0 to go on with a copy of the caller's.
    pub stack: u64,
    /// Size of that stack, in bytes.
    pub stack_size: u64,
    /// Thread pointer (`CLONE_SETTLS`).
    pub tls: u64,
    /// Address of `set_tid_size` pid numbers (`i32`), the innermost namespace's first.
    pub set_tid: u64,
    /// How many levels of pid namespaces to choose the pid in; needs `CAP_CHECKPOINT_RESTORE`.
    pub set_tid_size: u64,
    /// Descriptor of a version 2 cgroup (`CLONE_INTO_CGROUP`).
    pub cgroup: u64,
}

// SAFETY: eleven u64 in C layout: no padding, any bits are valid, and nothing here is followed.
unsafe impl Plain for CloneArgs {}

bitflags::bitflags! {
    /// `CLONE_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u64 {
        /// Share the address space.
        const VM = libc::CLONE_VM as u64;
        /// Share working directory, root and umask.
        const FS = libc::CLONE_FS as u64;
        /// Share the descriptor table.
        const FILES = libc::CLONE_FILES as u64;
        /// Share signal actions.
        const SIGHAND = libc::CLONE_SIGHAND as u64;
        /// Store a pidfd.
        const PIDFD = libc::CLONE_PIDFD as u64;
        /// The child is traced too.
        const PTRACE = libc::CLONE_PTRACE as u64;
        /// Suspend the caller until the child execs or ends.
        const VFORK = libc::CLONE_VFORK as u64;
        /// The caller's parent becomes the child's parent.
        const PARENT = libc::CLONE_PARENT as u64;
        /// A thread of the caller's group.
        const THREAD = libc::CLONE_THREAD as u64;
        /// Share System V semaphore undo lists.
        const SYSVSEM = libc::CLONE_SYSVSEM as u64;
        /// Set the thread pointer from `tls`.
        const SETTLS = libc::CLONE_SETTLS as u64;
        /// Store the child's tid in the parent.
        const PARENT_SETTID = libc::CLONE_PARENT_SETTID as u64;
        /// Clear the tid and wake its futex when the child ends.
        const CHILD_CLEARTID = libc::CLONE_CHILD_CLEARTID as u64;
        /// Store the child's tid in the child.
        const CHILD_SETTID = libc::CLONE_CHILD_SETTID as u64;
        /// New cgroup namespace.
        const NEWCGROUP = libc::CLONE_NEWCGROUP as u64;
        /// New UTS namespace.
        const NEWUTS = libc::CLONE_NEWUTS as u64;
        /// New IPC namespace.
        const NEWIPC = libc::CLONE_NEWIPC as u64;
        /// New user namespace.
        const NEWUSER = libc::CLONE_NEWUSER as u64;
        /// New pid namespace.
        const NEWPID = libc::CLONE_NEWPID as u64;
        /// New network namespace.
        const NEWNET = libc::CLONE_NEWNET as u64;
        /// New mount namespace.
        const NEWNS = libc::CLONE_NEWNS as u64;
        /// New time namespace (Linux 5.6; clone3 and unshare only).
        const NEWTIME = 0x80;
        /// Share the I/O context.
        const IO = libc::CLONE_IO as u64;
        /// All signal actions of the child become the default (Linux 5.5; clone3 only).
        const CLEAR_SIGHAND = 0x1_0000_0000;
        /// The child starts in the cgroup `cgroup` (Linux 5.7; clone3 only).
        const INTO_CGROUP = 0x2_0000_0000;
    }
}

/// Calls clone3(2): `Some(pid)` in the parent, `None` in the child.
///
/// Fails with `EEXIST` where the wanted pid is taken, also as a group or session id, or by a
/// zombie; `EPERM` without `CAP_CHECKPOINT_RESTORE` for `set_tid`.
///
/// # Safety
///
/// The child runs in a copy of a process that may have had other threads: it must not allocate,
/// lock, or use thread-local state of libc, only make system calls until it execs or exits.
/// With [`Flags::VM`] and a stack of its own, this function must not be used at all (the child
/// would return to nowhere). Addresses in `args` must be valid for what the flags ask.
pub unsafe fn clone3(args: &CloneArgs) -> Result<Option<Pid>> {
    let args = std::ptr::from_ref(args);
    // SAFETY: the structure is complete and its size is passed; the rest is the caller's promise.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args, size_of::<CloneArgs>()) };
    Ok(match Errno::result(pid)? {
        0 => None,
        pid => Some(Pid::from_raw(pid as i32)),
    })
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;

    #[test]
    fn layout() {
        assert_eq!(size_of::<CloneArgs>(), 88);
        assert_eq!(std::mem::offset_of!(CloneArgs, set_tid), 64);
    }

    #[test]
    fn child_has_the_wanted_pid_and_a_taken_one_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        // A pid that was free a moment ago.
        let mut once = std::process::Command::new("true").spawn().unwrap();
        let wanted = once.id() as i32;
        once.wait().unwrap();
        let tids = [wanted];
        let mut args = CloneArgs {
            exit_signal: libc::SIGCHLD as u64,
            set_tid: tids.as_ptr() as u64,
            set_tid_size: 1,
            ..CloneArgs::default()
        };
        // SAFETY: the child only exits; no shared memory, no stack of its own.
        match unsafe { clone3(&args) }.unwrap() {
            // SAFETY: _exit is a bare system call.
            None => unsafe { libc::_exit(7) },
            Some(pid) => {
                assert_eq!(pid.as_raw(), wanted);
                assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 7));
            }
        }
        let taken = [std::process::id() as i32];
        args.set_tid = taken.as_ptr() as u64;
        // SAFETY: as above; this call fails, so there is no child.
        assert_eq!(unsafe { clone3(&args) }.unwrap_err(), Errno::EEXIST);
    }
}
