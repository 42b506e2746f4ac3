//! Probes about tasks: what can be read of one and set in one.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::Result;
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, gettid};

use crate::clone3::CloneArgs;
use crate::ptrace::{self, Stop};
use crate::{kcmp as compare, pidfd, prctl};

pub(super) fn pidfd_getfd() -> bool {
    let Ok(me) = pidfd::open(Pid::this(), pidfd::Flags::empty()) else { return false };
    // Descriptor -1 is never open: a kernel that has the call says so.
    matches!(pidfd::getfd(me.as_fd(), -1), Err(Errno::EBADF))
}

pub(super) fn pidfd_thread() -> bool {
    pidfd::open(gettid(), pidfd::Flags::THREAD).is_ok()
}

pub(super) fn kcmp() -> bool {
    compare::same(compare::Kind::Vm, Pid::this(), Pid::this()).is_ok()
}

pub(super) fn timer_restore_ids() -> bool {
    prctl::timer_restore_ids().is_ok()
}

pub(super) fn proc_timers() -> bool {
    fs::read("/proc/self/timers").is_ok()
}

pub(super) fn mm_map() -> bool {
    prctl::mm_map_size().is_ok()
}

pub(super) fn ns_pid() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nNSpid:"))
}

pub(super) fn apparmor_stacking() -> bool {
    let feature = fs::read_to_string("/sys/kernel/security/apparmor/features/domain/stack");
    feature.is_ok_and(|text| text.trim() == "yes")
}

pub(super) fn clone3_set_tid() -> bool {
    // More levels than a pid namespace can have: refused as invalid by a kernel that reads the
    // field, and as too big a structure (or no call at all) by an older one.
    let tids = [1i32; 40];
    let args = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        set_tid: tids.as_ptr() as u64,
        set_tid_size: tids.len() as u64,
        ..CloneArgs::default()
    };
    let size = size_of::<CloneArgs>();
    // SAFETY: the arguments are invalid, so that no child is ever made.
    let r = unsafe { libc::syscall(libc::SYS_clone3, &args, size) };
    Errno::result(r) == Err(Errno::EINVAL)
}

pub(super) fn membarrier_registrations() -> bool {
    const MEMBARRIER_CMD_GET_REGISTRATIONS: i32 = 1 << 9;
    // SAFETY: membarrier takes numbers, and this command changes nothing.
    let r = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GET_REGISTRATIONS, 0u32, 0i32) };
    r >= 0
}

pub(super) fn map_vdso() -> bool {
    const ARCH_MAP_VDSO_64: i32 = 0x2003;
    arch_map(ARCH_MAP_VDSO_64)
}

pub(super) fn map_vdso_32() -> bool {
    const ARCH_MAP_VDSO_32: i32 = 0x2002;
    arch_map(ARCH_MAP_VDSO_32)
}

/// A process that has a vDSO is refused another, by a kernel that knows the command.
fn arch_map(command: i32) -> bool {
    // SAFETY: maps nothing, as this process has a vDSO; if it had none, the address is a hint.
    let r = unsafe { libc::syscall(libc::SYS_arch_prctl, command, 1usize) };
    matches!(Errno::result(r), Ok(_) | Err(Errno::EEXIST))
}

/// Unset and set again in a child, so that nothing of ours changes.
pub(super) fn loginuid() -> bool {
    let Ok(text) = fs::read("/proc/self/loginuid") else { return false };
    let write = |bytes: &[u8]| {
        let path = c"/proc/self/loginuid".as_ptr();
        // SAFETY: the path is a C string, and the kernel reads `bytes`; async-signal-safe calls only.
        unsafe {
            let fd = libc::open(path, libc::O_WRONLY);
            libc::write(fd, bytes.as_ptr().cast(), bytes.len()) == bytes.len() as isize
        }
    };
    let code = child(|| i32::from(!(write(b"4294967295") && write(&text))));
    code.and_then(|pid| waitpid(pid, None))
        .is_ok_and(|end| matches!(end, nix::sys::wait::WaitStatus::Exited(_, 0)))
}

pub(super) fn ptrace() -> bool {
    with_traced(|| {}, |pid| ptrace::pending_signals(pid, ptrace::PendingQueue::Thread).is_ok())
}

pub(super) fn seccomp_suspend() -> bool {
    with_traced(|| {}, |pid| ptrace::set_options(pid, ptrace::Options::SUSPEND_SECCOMP).is_ok())
}

pub(super) fn rseq_configuration() -> bool {
    with_traced(|| {}, |pid| ptrace::rseq_configuration(pid).is_ok())
}

pub(super) fn seccomp_filters() -> bool {
    let set_filter = || {
        const RETURN: u16 = 0x06;
        let mut allow = libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
        let program = libc::sock_fprog { len: 1, filter: &mut allow };
        // SAFETY: the program describes one instruction, which the kernel copies.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program, 0, 0);
        }
    };
    with_traced(set_filter, |pid| ptrace::seccomp_filter(pid, 0).is_ok())
}

/// Sets one at the next instruction of a stopped child, lets it run, and waits for it to be hit.
pub(super) fn breakpoints() -> bool {
    const REGISTERS: usize = std::mem::offset_of!(libc::user, u_debugreg);
    let poke = |pid: Pid, number: usize, value: u64| {
        let offset = REGISTERS + number * size_of::<u64>();
        // SAFETY: writes a number into a debug register of a traced child.
        let r = unsafe { libc::ptrace(libc::PTRACE_POKEUSER, pid.as_raw(), offset, value) };
        Errno::result(r)
    };
    with_traced(
        || {},
        |pid| {
            let hit = || -> Result<bool> {
                let next = ptrace::registers(pid)?.rip;
                poke(pid, 0, next)?;
                poke(pid, 7, 1)?;
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT)?;
                ptrace::cont(pid, 0)?;
                let end = Instant::now() + Duration::from_millis(200);
                while Instant::now() < end {
                    match ptrace::wait_no_hang(pid)? {
                        Some(Stop::SignalDelivery(libc::SIGTRAP)) => return Ok(true),
                        Some(stop) if stop.is_end() => break,
                        Some(Stop::SignalDelivery(signal)) => ptrace::cont(pid, signal)?,
                        Some(_) => ptrace::cont(pid, 0)?,
                        None => std::thread::sleep(Duration::from_millis(1)),
                    }
                }
                Ok(false)
            };
            hit().unwrap_or(false)
        },
    )
}

/// A child that runs `work` and ends with its answer.
fn child(work: impl FnOnce() -> i32) -> Result<Pid> {
    // SAFETY: this process may have other threads, so `work` only makes system calls.
    match Errno::result(unsafe { libc::fork() })? {
        // SAFETY: ends the child at once, without any of our handlers.
        0 => unsafe { libc::_exit(work()) },
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Shows `look` a child of ours in a ptrace stop, after it ran `prepare` (system calls only).
fn with_traced(prepare: impl FnOnce(), look: impl FnOnce(Pid) -> bool) -> bool {
    let started = child(|| {
        prepare();
        // SAFETY: plain system calls; the parent kills the child, or else it ends with it.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
            loop {
                libc::pause();
            }
        }
    });
    let Ok(pid) = started else { return false };
    let stopped = || -> Result<()> {
        waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
        ptrace::seize(pid, ptrace::Options::empty())?;
        ptrace::wait(pid).map(drop)
    };
    let answer = stopped().is_ok() && look(pid);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    let _ = waitpid(pid, None);
    answer
}
