//! Stops a whole process tree and describes it.

use super::namespaces::Own;
use crate::{Error, Result, regs};
use criu_kernel::ptrace::{self, PendingQueue};
use criu_kernel::{Pid, pidfd, proc::ProcDir};
use criu_parasite::Seized;
use criu_resource::{FrozenTask, FrozenThread, Life};
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Signals (SIGALRM) in a steady beat, so that no wait lasts for ever: whoever waits looks up at each. The first
/// comes so late that a tree which stops at once sees none.
struct Ticks {
    before: SigAction,
}

impl Ticks {
    fn start() -> Result<Ticks, Errno> {
        extern "C" fn wake(_: i32) {}
        let action = SigAction::new(SigHandler::Handler(wake), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        let before = unsafe { sigaction(Signal::SIGALRM, &action) }?;
        beat(BEAT)?;
        Ok(Ticks { before })
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        // Neither fails with arguments that were taken a moment ago.
        let _ = beat(Duration::ZERO);
        // SAFETY: the action that was in force before.
        let _ = unsafe { sigaction(Signal::SIGALRM, &self.before) };
    }
}

const BEAT: Duration = Duration::from_millis(100);

fn beat(every: Duration) -> Result<(), Errno> {
    let every = libc::timeval { tv_sec: every.as_secs() as _, tv_usec: every.subsec_micros() as _ };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: the kernel reads one timer; the old one is not asked for.
    Errno::result(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) }).map(drop)
}

/// One task of a stopped tree with what criu-rs holds of it.
pub(crate) struct Held {
    pub pid: i32,
    pub parent: Option<usize>,
    pub pidfd: OwnedFd,
    pub proc: ProcDir,
    pub life: Life,
    pub pgid: i32,
    pub sid: i32,
}

/// A stopped tree. The two lists go in parallel; a zombie is not seized.
pub(crate) struct Stopped {
    pub held: Vec<Held>,
    pub seized: Vec<Option<Seized>>,
    /// When the first task was told to stop.
    pub since: Instant,
    /// Whether it was let go already.
    pub runs: bool,
}

impl Stopped {
    fn push(&mut self, (held, seized): (Held, Option<Seized>)) {
        self.held.push(held);
        self.seized.push(seized);
    }
}

/// Stops everything below `root`, parents first; each task within `timeout`.
///
/// A parent that stands still makes no more children; so one pass in this order finds all, and further
/// passes only look for those that a dying task left to a subreaper within the tree.
pub(crate) fn freeze(root: i32, timeout: Duration, cancelled: &dyn Fn() -> bool) -> Result<Stopped> {
    let _ticks = Ticks::start().map_err(Error::system("setitimer"))?;
    let own = Own::read()?;
    let start = Instant::now();
    let go_on = || !cancelled() && start.elapsed() < timeout;
    let hold = |pid, parent| {
        hold(pid, parent, &own, &go_on).map_err(|error| match error {
            Error::Parasite(criu_parasite::Error::Restless { .. }) if cancelled() => Error::Cancelled,
            Error::Parasite(criu_parasite::Error::Restless { pid }) => {
                Error::Restless { pid, seconds: timeout.as_secs() }
            }
            other => other,
        })
    };
    let mut tree = Stopped { held: Vec::new(), seized: Vec::new(), since: start, runs: false };
    tree.push(hold(root, None)?.ok_or(criu_parasite::Error::NoProcess { pid: root })?);
    let mut known = HashSet::from([root]);
    loop {
        let before = tree.held.len();
        let mut next = 0;
        while next < tree.held.len() {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            let children = match tree.seized[next] {
                Some(_) => tree.held[next].proc.children()?,
                None => Vec::new(),
            };
            for child in children {
                if !known.contains(&child.as_raw())
                    && let Some(found) = hold(child.as_raw(), Some(next))?
                {
                    known.insert(child.as_raw());
                    tree.push(found);
                }
            }
            next += 1;
        }
        if tree.held.len() == before {
            return Ok(tree);
        }
    }
}

/// `None` when the task is gone for good.
fn hold(
    pid: i32,
    parent: Option<usize>,
    own: &Own,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<(Held, Option<Seized>)>> {
    let id = Pid::from_raw(pid);
    let Ok(pidfd) = pidfd::open(id, pidfd::Flags::empty()) else { return Ok(None) };
    let proc = ProcDir::open(id)?;
    let (seized, life) = match Seized::seize_while(pid, go_on) {
        Ok(seized) => {
            let life = seized.stopped_by().map_or(Life::Alive, Life::Stopped);
            (Some(seized), life)
        }
        Err(criu_parasite::Error::NoProcess { .. }) if parent.is_some() => match proc.stat() {
            Ok(stat) if stat.is_zombie() => (None, Life::Zombie(stat.exit_code)),
            _ => return Ok(None),
        },
        Err(error) => return Err(error.into()),
    };
    if seized.is_some() {
        own.check(pid, &proc)?;
    }
    let stat = proc.stat()?;
    let held = Held { pid, parent, pidfd, proc, life, pgid: stat.pgrp, sid: stat.session };
    Ok(Some((held, seized)))
}

/// What the resources see.
pub(crate) fn describe<'a>(held: &'a [Held], seized: &[Option<Seized>]) -> Result<Vec<FrozenTask<'a>>> {
    held.iter().zip(seized).enumerate().map(|(index, (held, seized))| task(index, held, seized)).collect()
}

fn task<'a>(index: usize, held: &'a Held, seized: &Option<Seized>) -> Result<FrozenTask<'a>> {
    let threads = seized.iter().flat_map(Seized::threads).map(thread).collect::<Result<Vec<_>>>()?;
    let pending = match threads.first() {
        Some(main) => ptrace::pending_signals(Pid::from_raw(main.tid), PendingQueue::Shared)
            .map_err(Error::system("PTRACE_PEEKSIGINFO"))?,
        None => Vec::new(),
    };
    Ok(FrozenTask {
        index,
        parent: held.parent,
        pid: held.pid,
        ns_pid: held.pid,
        ns_pgid: held.pgid,
        ns_sid: held.sid,
        life: held.life,
        pidfd: held.pidfd.as_fd(),
        proc: held.proc.as_fd(),
        threads,
        pending,
    })
}

fn thread(thread: &criu_parasite::Thread) -> Result<FrozenThread> {
    let tid = thread.tid;
    let rseq = ptrace::rseq_configuration(tid).ok().filter(|rseq| rseq.address != 0);
    Ok(FrozenThread {
        tid: tid.as_raw(),
        ns_tid: tid.as_raw(),
        regs: regs::to_words(&thread.regs),
        xstate: thread.xstate.clone(),
        sigmask: thread.sigmask,
        pending: ptrace::pending_signals(tid, PendingQueue::Thread)
            .map_err(Error::system("PTRACE_PEEKSIGINFO"))?,
        rseq: rseq.map(|r| (r.address, r.size, r.signature, r.flags)),
        robust_list: robust_list(tid)?,
    })
}

/// get_robust_list(2).
fn robust_list(tid: Pid) -> Result<(u64, u64)> {
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: two words for the kernel to fill.
    let ret = unsafe { libc::syscall(libc::SYS_get_robust_list, tid.as_raw(), &raw mut head, &raw mut len) };
    nix::errno::Errno::result(ret).map_err(Error::system("get_robust_list"))?;
    Ok((head, len))
}
