//! A process all of whose threads stand still.

use crate::{Error, Infected, Result, remote};
use criu_kernel::Pid;
use criu_kernel::arch::UserRegs;
use criu_kernel::ptrace::{self, Options, Stop};
use criu_script::Script;
use std::collections::HashSet;
use std::fs;
use std::marker::PhantomData;

/// One stopped thread and the registers it goes on with.
pub struct Thread {
    /// Its id.
    pub tid: Pid,
    /// General registers at the stop.
    pub regs: UserRegs,
    /// Extended state as PTRACE_GETREGSET NT_X86_XSTATE gives it.
    pub xstate: Vec<u8>,
    /// Blocked signals.
    pub sigmask: u64,
}

/// What becomes of a process that is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on with what it did; if it was stopped by a signal, it stays stopped.
    Run,
    /// It stays stopped, as by SIGSTOP.
    Stop,
    /// It is stopped by this job-control signal.
    StopBy(i32),
    /// It is killed.
    Kill,
}

/// A seized process. Dropped, it runs on as if nothing had been.
///
/// It belongs to the host thread that seized it: ptrace(2) allows no other.
pub struct Seized {
    pid: Pid,
    threads: Vec<Thread>,
    stopped: Option<i32>,
    armed: bool,
    thread_bound: PhantomData<*const ()>,
}

const OPTIONS: Options = Options::SYSGOOD.union(Options::SUSPEND_SECCOMP);

/// How threads are stopped.
struct How<'a> {
    options: Options,
    /// Whether to go on waiting.
    go_on: &'a dyn Fn() -> bool,
    /// Reads a stopped thread.
    read: fn(&Seized, Pid) -> Result<Thread>,
}

impl Seized {
    /// Stops all threads of the process `pid`.
    ///
    /// Errors name the reason: no such process, a kernel thread, another tracer, permission.
    pub fn seize(pid: i32) -> Result<Seized> {
        Seized::seize_while(pid, &|| true)
    }

    /// Stops all threads of a process that may not stop: one in vfork(2), or in a system call that waits for a
    /// file server, takes no notice. `go_on` is asked after each signal that interrupts the wait.
    ///
    /// Beside the errors of [`seize`](Self::seize), [`Error::Restless`] when `go_on` says no. The thread that did
    /// not stop is traced until this thread of the caller ends.
    pub fn seize_while(pid: i32, go_on: &dyn Fn() -> bool) -> Result<Seized> {
        if pid == std::process::id() as i32 {
            return Err(Error::Oneself { pid });
        }
        Seized::stop_all(pid, &How { options: OPTIONS, go_on, read: Seized::read })
    }

    /// Stops all threads of a process that the caller made and has not finished: what they were doing counts for
    /// nothing, and they are to be given their state by [`Seized::set_state`]. Until it is let go, the process
    /// dies with its tracer.
    ///
    /// # Errors
    /// As [`Seized::seize`].
    pub fn adopt(pid: i32) -> Result<Seized> {
        let options = OPTIONS | Options::EXIT_KILL;
        Seized::stop_all(pid, &How { options, go_on: &|| true, read: Seized::read_registers })
    }

    fn stop_all(pid: i32, how: &How<'_>) -> Result<Seized> {
        let mut seized = Seized {
            pid: Pid::from_raw(pid),
            threads: Vec::new(),
            stopped: None,
            armed: true,
            thread_bound: PhantomData,
        };
        let mut known: HashSet<Pid> = HashSet::new();
        loop {
            let fresh: Vec<Pid> = tids(pid)?.into_iter().filter(|tid| !known.contains(tid)).collect();
            if fresh.is_empty() {
                break;
            }
            known.extend(&fresh);
            seized.stop(fresh, how)?;
        }
        if seized.threads.is_empty() {
            return Err(Error::NoProcess { pid });
        }
        if let Some(main) = seized.threads.iter().position(|t| t.tid == seized.pid) {
            seized.threads.swap(0, main);
            seized.threads[1..].sort_by_key(|t| t.tid);
        }
        Ok(seized)
    }

    /// Seizes threads in three passes, so that all of them are told to stop before any is waited for.
    fn stop(&mut self, tids: Vec<Pid>, how: &How<'_>) -> Result<()> {
        let mut live = Vec::with_capacity(tids.len());
        for tid in tids {
            match seize(tid, how.options) {
                Ok(()) => live.push(tid),
                Err(errno) if vanished(tid, errno) => {}
                Err(errno) => {
                    for &tid in &live {
                        let _ = let_go(tid);
                    }
                    return Err(refusal(self.pid.as_raw(), errno));
                }
            }
        }
        for &tid in &live {
            let _ = ptrace::interrupt(tid); // a thread that ended says so in the wait below
        }
        for tid in live {
            if self.wait_for_stop(tid, how.go_on)? {
                self.threads.push((how.read)(self, tid)?);
            }
        }
        Ok(())
    }

    /// Waits until an interrupted thread stands in a ptrace stop; `false` when it ended instead.
    fn wait_for_stop(&mut self, tid: Pid, go_on: &dyn Fn() -> bool) -> Result<bool> {
        loop {
            let stop = ptrace::wait_while(tid, go_on).map_err(Error::system(tid, "wait4"))?;
            match stop.ok_or(Error::Restless { pid: tid.as_raw() })? {
                Stop::EventStop => break,
                Stop::GroupStop(signal) => {
                    self.stopped = Some(signal);
                    break;
                }
                // The signal came first. It is delivered; the stop that was asked for follows before the
                // handler's first instruction.
                Stop::SignalDelivery(signal) => {
                    ptrace::cont(tid, signal).map_err(Error::system(tid, "PTRACE_CONT"))?;
                }
                stop if stop.is_end() => return Ok(false),
                _ => ptrace::cont(tid, 0).map_err(Error::system(tid, "PTRACE_CONT"))?,
            }
        }
        Ok(true)
    }

    /// Reads what a stopped thread goes on with.
    fn read(&self, tid: Pid) -> Result<Thread> {
        let thread = Thread {
            tid,
            regs: ptrace::registers(tid).map_err(Error::system(tid, "PTRACE_GETREGSET"))?,
            xstate: ptrace::xstate(tid).map_err(Error::system(tid, "PTRACE_GETREGSET NT_X86_XSTATE"))?,
            sigmask: ptrace::sigmask(tid).map_err(Error::system(tid, "PTRACE_GETSIGMASK"))?,
        };
        if thread.regs.cs == 0x23 {
            let _ = let_go(tid);
            return Err(Error::Compat { pid: self.pid.as_raw() });
        }
        Ok(thread)
    }

    fn read_registers(&self, tid: Pid) -> Result<Thread> {
        let regs = ptrace::registers(tid).map_err(Error::system(tid, "PTRACE_GETREGSET"))?;
        Ok(Thread { tid, regs, xstate: Vec::new(), sigmask: u64::MAX })
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Its threads, the main one first, the others by id.
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// The job-control signal that had stopped the process before it was seized.
    pub fn stopped_by(&self) -> Option<i32> {
        self.stopped
    }

    /// Maps the script machine into the process, with room for these scripts (the position in `scripts`
    /// is that of the thread; `None`: this thread runs nothing).
    pub fn infect(self, scripts: Vec<Option<Script>>) -> Result<Infected> {
        Infected::new(self, scripts)
    }

    /// Lets the process go.
    pub fn release(mut self, verdict: Verdict) -> Result<()> {
        self.armed = false;
        if verdict == Verdict::Kill {
            let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
            // Gone from the tracer's view: what is left is for the parent to wait for.
            for thread in self.threads.iter().rev() {
                while ptrace::wait(thread.tid).is_ok_and(|stop| !stop.is_end()) {}
            }
            return Ok(());
        }
        let signal = match verdict {
            Verdict::Stop => Some(libc::SIGSTOP),
            Verdict::StopBy(signal) => Some(signal),
            _ => None,
        };
        if let Some(signal) = signal.filter(|_| self.stopped.is_none()) {
            // SAFETY: a plain system call. nix knows no signal by number.
            unsafe { libc::kill(self.pid.as_raw(), signal) };
        }
        self.detach_all()
    }

    fn detach_all(&self) -> Result<()> {
        let results: Vec<_> = self.threads.iter().map(|thread| ptrace::detach(thread.tid, 0)).collect();
        match results.into_iter().find(|result| !matches!(result, Ok(()) | Err(nix::errno::Errno::ESRCH))) {
            Some(Err(errno)) => Err(Error::System { pid: self.pid.as_raw(), call: "PTRACE_DETACH", errno }),
            _ => Ok(()),
        }
    }

    /// Replaces what thread number `thread` goes on with.
    pub fn set_state(&mut self, thread: usize, regs: UserRegs, xstate: Vec<u8>, sigmask: u64) -> Result<()> {
        let thread = &mut self.threads[thread];
        let failed = |call| Error::system(thread.tid, call);
        ptrace::set_sigmask(thread.tid, sigmask).map_err(failed("PTRACE_SETSIGMASK"))?;
        ptrace::set_xstate(thread.tid, &xstate).map_err(failed("PTRACE_SETREGSET NT_X86_XSTATE"))?;
        ptrace::set_registers(thread.tid, &regs).map_err(failed("PTRACE_SETREGSET"))?;
        *thread = Thread { tid: thread.tid, regs, xstate, sigmask };
        Ok(())
    }

    /// Makes thread number `thread` go on elsewhere.
    pub fn set_ip(&mut self, thread: usize, ip: u64) -> Result<()> {
        let thread = &mut self.threads[thread];
        let regs = UserRegs { rip: ip, ..thread.regs };
        ptrace::set_registers(thread.tid, &regs).map_err(Error::system(thread.tid, "PTRACE_SETREGSET"))?;
        thread.regs = regs;
        Ok(())
    }

    /// Unmaps a range of the process's memory.
    pub fn unmap(&self, base: u64, len: u64) -> Result<()> {
        let main = &self.threads[0];
        let at = remote::find_syscall(self.pid(), main.regs.rip)?;
        remote::syscall(main, at, "munmap", libc::SYS_munmap, [base, len, 0, 0, 0, 0]).map(drop)
    }
}

impl Drop for Seized {
    fn drop(&mut self) {
        if self.armed {
            let _ = self.detach_all();
        }
    }
}

fn tids(pid: i32) -> Result<Vec<Pid>> {
    let directory = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(directory) => directory,
        Err(_) => return Err(Error::NoProcess { pid }),
    };
    let names = directory.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(names.map(Pid::from_raw).collect())
}

/// Seizes a thread. Its seccomp filters are suspended as long as it is traced, which takes CAP_SYS_ADMIN and a caller
/// without filters; a thread that has none can do without.
fn seize(tid: Pid, options: Options) -> nix::Result<()> {
    match ptrace::seize(tid, options) {
        Err(nix::errno::Errno::EPERM) if status_field(tid.as_raw(), "Seccomp").as_deref() == Some("0") => {
            ptrace::seize(tid, options - Options::SUSPEND_SECCOMP)
        }
        result => result,
    }
}

/// Stops a thread just seized and detaches it: PTRACE_DETACH needs a stopped thread.
fn let_go(tid: Pid) -> nix::Result<()> {
    ptrace::interrupt(tid)?;
    match ptrace::wait(tid)? {
        Stop::SignalDelivery(signal) => ptrace::detach(tid, signal),
        stop if stop.is_end() => Ok(()),
        _ => ptrace::detach(tid, 0),
    }
}

fn vanished(tid: Pid, errno: nix::errno::Errno) -> bool {
    match errno {
        nix::errno::Errno::ESRCH => true,
        // The kernel refuses a thread that is a zombie already.
        nix::errno::Errno::EPERM => matches!(state(tid.as_raw()).as_deref(), Some("Z" | "X") | None),
        _ => false,
    }
}

fn state(pid: i32) -> Option<String> {
    status_field(pid, "State").map(|state| state[..1].to_owned())
}

fn status_field(pid: i32, key: &str) -> Option<String> {
    // Its name need not be UTF-8.
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

fn refusal(pid: i32, errno: nix::errno::Errno) -> Error {
    if status_field(pid, "VmSize").is_none() {
        return Error::KernelThread { pid };
    }
    match status_field(pid, "TracerPid").and_then(|tracer| tracer.parse().ok()) {
        Some(tracer) if tracer != 0 => {
            let name = status_field(tracer, "Name").unwrap_or_else(|| "unknown".into());
            Error::Traced { pid, tracer, name }
        }
        _ => Error::Permission { pid, errno },
    }
}
