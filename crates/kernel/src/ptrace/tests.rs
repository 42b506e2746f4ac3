use std::process::{Child, Command};

use super::*;

/// A child that is seized and stopped, and killed at the end.
struct Victim(Child);

impl Victim {
    fn new() -> (Self, Pid) {
        let child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let victim = Self(child);
        // The exec must be over: wait until it sleeps.
        while !std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap().contains("nanosleep") {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        seize(pid, Options::SYSGOOD).unwrap();
        interrupt(pid).unwrap();
        assert_eq!(wait(pid).unwrap(), Stop::EventStop);
        (victim, pid)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        let pid = Pid::from_raw(self.0.id() as i32);
        assert_eq!(wait(pid).unwrap(), Stop::Killed(libc::SIGKILL));
    }
}

#[test]
fn registers_there_and_back() {
    let (_victim, pid) = Victim::new();
    let regs = registers(pid).unwrap();
    assert_eq!(regs.orig_rax, libc::SYS_clock_nanosleep as u64);
    let mut changed = regs;
    changed.r12 = 0x1234_5678_9abc;
    set_registers(pid, &changed).unwrap();
    assert_eq!(registers(pid).unwrap().r12, 0x1234_5678_9abc);
    set_registers(pid, &regs).unwrap();
    let xstate_bytes = xstate(pid).unwrap();
    assert!(xstate_bytes.len() >= 576);
    set_xstate(pid, &xstate_bytes).unwrap();
    assert_eq!(set_xstate(pid, &xstate_bytes[..100]).unwrap_err(), Errno::EINVAL);
    detach(pid, 0).unwrap();
    assert_eq!(registers(pid).unwrap_err(), Errno::ESRCH);
}

#[test]
fn pending_signals_are_seen_and_stay() {
    let (_victim, pid) = Victim::new();
    set_sigmask(pid, u64::MAX).unwrap();
    assert_eq!(sigmask(pid).unwrap(), !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1)));
    for n in 0..70usize {
        let value = libc::sigval { sival_ptr: n as *mut c_void };
        // SAFETY: sigqueue takes numbers; the child blocks the signal.
        assert_eq!(unsafe { libc::sigqueue(pid.as_raw(), libc::SIGRTMIN(), value) }, 0);
    }
    // SAFETY: tgkill takes numbers.
    unsafe { libc::syscall(libc::SYS_tgkill, pid.as_raw(), pid.as_raw(), libc::SIGUSR1) };
    for _ in 0..2 {
        let shared = pending_signals(pid, PendingQueue::Shared).unwrap();
        assert_eq!(shared.len(), 70);
        assert_eq!(shared[69][24], 69, "si_value stands at offset 24");
        let thread = pending_signals(pid, PendingQueue::Thread).unwrap();
        assert_eq!(thread.len(), 1);
        assert_eq!(thread[0][0], libc::SIGUSR1 as u8);
    }
}

#[test]
fn signal_and_syscall_stops_are_told_apart() {
    let (_victim, pid) = Victim::new();
    nix::sys::signal::kill(pid, nix::sys::signal::SIGUSR1).unwrap();
    cont(pid, 0).unwrap();
    assert_eq!(wait(pid).unwrap(), Stop::SignalDelivery(libc::SIGUSR1));
    assert_eq!(siginfo(pid).unwrap()[0], libc::SIGUSR1 as u8);
    assert_eq!(syscall_info(pid).unwrap().op, SyscallOp::None);
    cont_to_syscall(pid, 0).unwrap();
    assert_eq!(wait(pid).unwrap(), Stop::Syscall);
    let info = syscall_info(pid).unwrap();
    assert!(
        matches!(info.op, SyscallOp::Entry { number, .. } if number == libc::SYS_restart_syscall as u64),
        "{info:?}"
    );
    nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).unwrap();
    cont(pid, 0).unwrap();
    assert_eq!(wait(pid).unwrap(), Stop::SignalDelivery(libc::SIGSTOP));
    cont(pid, libc::SIGSTOP).unwrap();
    assert_eq!(wait(pid).unwrap(), Stop::GroupStop(libc::SIGSTOP));
}

#[test]
fn rseq_and_seccomp_are_told() {
    let (_victim, pid) = Victim::new();
    let rseq = rseq_configuration(pid).unwrap();
    assert_eq!(rseq.address != 0, rseq.size >= 32);
    assert_eq!(syscall_user_dispatch(pid).unwrap(), SyscallUserDispatch::default());
    // No filters: "not in filter mode"; not even that is told without CAP_SYS_ADMIN.
    let root = nix::unistd::geteuid().is_root();
    let expected = if root { Errno::EINVAL } else { Errno::EACCES };
    assert_eq!(seccomp_filter(pid, 0).unwrap_err(), expected);
}

#[test]
fn seccomp_filters_come_oldest_first() {
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let mut command = Command::new("sleep");
    command.arg("100");
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(|| install(1).and_then(|()| install(2))) };
    let child = Victim(command.spawn().unwrap());
    let pid = Pid::from_raw(child.0.id() as i32);
    seize(pid, Options::empty()).unwrap();
    interrupt(pid).unwrap();
    assert_eq!(wait(pid).unwrap(), Stop::EventStop);
    let lengths: Vec<usize> = (0..2).map(|index| seccomp_filter(pid, index).unwrap().len()).collect();
    let end = seccomp_filter(pid, 2).map(|filter| filter.len());
    let flags = seccomp_filter_flags(pid, 0);
    let suspended = set_options(pid, Options::SUSPEND_SECCOMP);
    assert_eq!((lengths, end), (vec![2, 3], Err(Errno::ENOENT)));
    assert_eq!((flags, suspended), (Ok(0), Ok(())));
}

/// Installs a filter of `loads` loads and a return that allows everything.
fn install(loads: usize) -> std::io::Result<()> {
    let load = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    let allow = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let mut filter = [load; 4];
    filter[loads] = allow;
    let program = libc::sock_fprog { len: loads as u16 + 1, filter: filter.as_mut_ptr() };
    // SAFETY: the program names as many instructions as it says.
    let r = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0u32, &program) };
    Errno::result(r)?;
    Ok(())
}

#[test]
fn nobody_to_trace() {
    assert_eq!(seize(Pid::from_raw(i32::MAX), Options::empty()).unwrap_err(), Errno::ESRCH);
    assert_eq!(wait(Pid::from_raw(i32::MAX)).unwrap_err(), Errno::ECHILD);
    assert_eq!(decode(0x8057f), Stop::Event(Event::Other(8)));
}
