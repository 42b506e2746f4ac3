//! A dump runs in a worker process, watched by the one that the user sees.
//!
//! Whoever kills criu-rs kills the watching process; the worker is told by the kernel (PR_SET_PDEATHSIG),
//! cures the tree and ends. Whoever kills the worker finds the targets able to help themselves (see
//! `criu-parasite`), and the watcher cleans up what remains outside of them.

use crate::{Error, Result};
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};

static CANCELLED: AtomicBool = AtomicBool::new(false);
static WORKER: AtomicI32 = AtomicI32::new(0);

/// Whether a signal has asked this worker to stop.
pub fn cancelled() -> bool {
    CANCELLED.load(SeqCst)
}

/// Runs `work` in a worker process and gives its exit code. `rescue` runs in the caller when the worker was
/// killed. SIGINT, SIGTERM and SIGHUP end the work early: see [`cancelled`].
///
/// Call it while the process has one thread.
pub fn guarded(work: impl FnOnce() -> i32, rescue: impl FnOnce()) -> Result<i32> {
    let guard = nix::unistd::getpid();
    // SAFETY: the process has one thread, so the child may do whatever the parent may.
    match unsafe { fork() }.map_err(Error::system("fork"))? {
        ForkResult::Child => {
            let code = match become_worker(guard) {
                Ok(()) => work(),
                Err(errno) => {
                    tracing::error!("cannot watch the parent process: {errno}");
                    1
                }
            };
            std::process::exit(code)
        }
        ForkResult::Parent { child } => {
            WORKER.store(child.as_raw(), SeqCst);
            handle_signals(forward).map_err(Error::system("sigaction"))?;
            Ok(match await_worker(child)? {
                WaitStatus::Exited(_, code) => code,
                _ => {
                    tracing::error!("the worker process was killed; its targets run on");
                    rescue();
                    1
                }
            })
        }
    }
}

fn become_worker(guard: Pid) -> Result<(), Errno> {
    handle_signals(cancel)?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
    // A process group of its own: a terminal's or a shell's signals reach the guard, which passes them on.
    nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    // It may write to the terminal all the same (stty tostop), which must not stop it.
    SigSet::from(Signal::SIGTTOU).thread_block()?;
    if getppid() != guard {
        CANCELLED.store(true, SeqCst);
    }
    Ok(())
}

fn await_worker(worker: Pid) -> Result<WaitStatus> {
    loop {
        match waitpid(worker, None) {
            Err(Errno::EINTR) => {}
            result => return result.map_err(Error::system("waitpid")),
        }
    }
}

fn handle_signals(handler: extern "C" fn(i32)) -> Result<(), Errno> {
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: both handlers only touch atomics and issue kill(2).
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

extern "C" fn cancel(_: i32) {
    CANCELLED.store(true, SeqCst);
}

extern "C" fn forward(signal: i32) {
    // SAFETY: kill(2) is async-signal-safe.
    unsafe { libc::kill(WORKER.load(SeqCst), signal) };
}
