//! What a traced thread stopped for.

use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

/// Why a thread is waiting for its tracer, or that it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Stopped by [`super::interrupt`], or newly created and traced from its start
    /// (`PTRACE_EVENT_STOP` with `SIGTRAP`).
    EventStop,
    /// The whole process is stopped by this signal (`SIGSTOP`, `SIGTSTP`, `SIGTTIN`, `SIGTTOU`).
    GroupStop(i32),
    /// An event asked for by [`super::Options`]; [`super::event_message`] tells more.
    Event(Event),
    /// Entry to or exit from a system call, with [`super::Options::SYSGOOD`].
    Syscall,
    /// About to take this signal; continue with it, or with 0 to swallow it.
    SignalDelivery(i32),
    /// Continued after a stop (only told with `WCONTINUED`).
    Continued,
    /// Ended by `exit` with this status.
    Exited(i32),
    /// Killed by this signal.
    Killed(i32),
}

/// `PTRACE_EVENT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// fork(2)
    Fork,
    /// vfork(2)
    Vfork,
    /// clone(2)
    Clone,
    /// execve(2)
    Exec,
    /// A vfork's child has exec'd or ended.
    VforkDone,
    /// About to exit.
    Exit,
    /// A seccomp rule returned `SECCOMP_RET_TRACE`.
    Seccomp,
    /// One that this crate does not know.
    Other(i32),
}

/// One answer of [`wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// The thread.
    pub tid: Pid,
    /// What it did.
    pub stop: Stop,
}

impl Stop {
    /// Whether the thread is gone.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Exited(_) | Self::Killed(_))
    }
}

/// Reads a wait status of a seized thread.
pub fn decode(status: i32) -> Stop {
    if libc::WIFEXITED(status) {
        return Stop::Exited(libc::WEXITSTATUS(status));
    }
    if libc::WIFSIGNALED(status) {
        return Stop::Killed(libc::WTERMSIG(status));
    }
    if libc::WIFCONTINUED(status) {
        return Stop::Continued;
    }
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
        0 => Stop::SignalDelivery(signal),
        libc::PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Stop::EventStop,
        libc::PTRACE_EVENT_STOP => Stop::GroupStop(signal),
        event => Stop::Event(match event {
            libc::PTRACE_EVENT_FORK => Event::Fork,
            libc::PTRACE_EVENT_VFORK => Event::Vfork,
            libc::PTRACE_EVENT_CLONE => Event::Clone,
            libc::PTRACE_EVENT_EXEC => Event::Exec,
            libc::PTRACE_EVENT_VFORK_DONE => Event::VforkDone,
            libc::PTRACE_EVENT_EXIT => Event::Exit,
            libc::PTRACE_EVENT_SECCOMP => Event::Seccomp,
            other => Event::Other(other),
        }),
    }
}

/// Waits for one thread, child or not (`wait4` with `__WALL`); interrupted waits are resumed.
///
/// Fails with `ECHILD` where it is neither a child nor traced by this thread's process.
pub fn wait(tid: Pid) -> Result<Stop> {
    loop {
        if let Some(waited) = wait4(tid.as_raw(), 0)? {
            return Ok(waited.stop);
        }
    }
}

/// Waits as [`wait`] does, as long as `go_on`, asked after each signal that interrupts the wait, says so; `None` when
/// it does not.
pub fn wait_while(tid: Pid, go_on: &dyn Fn() -> bool) -> Result<Option<Stop>> {
    loop {
        match wait4_once(tid.as_raw(), 0) {
            Ok(Some(waited)) => return Ok(Some(waited.stop)),
            Err(Errno::EINTR) if !go_on() => return Ok(None),
            Ok(None) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// What news one thread has, if any; does not wait.
pub fn wait_no_hang(tid: Pid) -> Result<Option<Stop>> {
    Ok(wait4(tid.as_raw(), libc::WNOHANG)?.map(|waited| waited.stop))
}

/// Waits for any child or traced thread; with `no_hang`, gives `None` where none has news.
pub fn wait_any(no_hang: bool) -> Result<Option<Waited>> {
    wait4(-1, if no_hang { libc::WNOHANG } else { 0 })
}

fn wait4(pid: i32, flags: i32) -> Result<Option<Waited>> {
    loop {
        match wait4_once(pid, flags) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

fn wait4_once(pid: i32, flags: i32) -> Result<Option<Waited>> {
    let mut status = 0;
    // SAFETY: the status is ours to fill; no usage structure is asked for.
    let found = unsafe { libc::wait4(pid, &mut status, flags | libc::__WALL, std::ptr::null_mut()) };
    Ok(match Errno::result(found)? {
        0 => None,
        tid => Some(Waited { tid: Pid::from_raw(tid), stop: decode(status) }),
    })
}
