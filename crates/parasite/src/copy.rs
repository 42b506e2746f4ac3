//! A copy-on-write copy of a process's memory, taken in the instant that fork(2) takes.
//!
//! The copy is a process of its own that does nothing, has no descriptors and is no child of the target: a
//! middleman between the two, which shares the target's memory, ends at once, and the target reaps it in the
//! same script. So the copy is a child of the next reaper above. It ends with its [`MemoryCopy`], or when the host
//! dies.

use crate::area::{Area, Layout};
use crate::infected::{Extra, Job, Plan};
use crate::{Infected, Result, Seized};
use criu_kernel::Pid;
use criu_kernel::clone3::CloneArgs;
use criu_kernel::pidfd;
use criu_kernel::plain::as_bytes;
use criu_script::{Check, Script, wire};
use nix::errno::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// For close_range(2): the caller gets a table of its own first (Linux 5.9).
const CLOSE_RANGE_UNSHARE: u32 = 2;
/// The middleman's step that clones the copy.
const CLONES: usize = 1;

/// A process that keeps another one's memory as it was. Dropped, it ends.
pub struct MemoryCopy {
    pid: i32,
    pidfd: OwnedFd,
    /// Its lifeline.
    _area: Area,
}

impl MemoryCopy {
    /// The process to read from.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for MemoryCopy {
    fn drop(&mut self) {
        let _ = pidfd::send_signal(self.pidfd.as_fd(), libc::SIGKILL); // it may have ended
    }
}

impl Seized {
    /// Copies the process's memory; `Err` inside: the kernel would not make another process.
    ///
    /// Areas that fork(2) does not copy (MADV_DONTFORK, MADV_WIPEONFORK, memory of devices) are missing or
    /// empty in the copy; what is shared stays shared.
    ///
    /// # Errors
    /// Those of [`Seized::infect`] and [`Infected::run`].
    pub fn copy_memory(self) -> Result<(Seized, std::result::Result<MemoryCopy, Errno>)> {
        let frame = self.threads()[0].xstate.len();
        let mut infected = Infected::with(self, |base| plan(base, frame))?;
        let cloned = infected.run()?.swap_remove(0).map(|outcome| outcome.ret_at(0));
        let made = match cloned {
            Some(middleman) if middleman > 0 => infected.extra_result(0, CLONES),
            Some(error) => error,
            None => -i64::from(libc::ESRCH),
        };
        let (seized, area) = infected.cure_keeping_area()?;
        let errno = |number: i64| Errno::from_raw(-number as i32);
        let copy = match i32::try_from(made) {
            Ok(pid) if pid > 0 => pidfd::open(Pid::from_raw(pid), pidfd::Flags::empty())
                .map(|pidfd| MemoryCopy { pid, pidfd, _area: area }),
            _ => Err(errno(made)),
        };
        Ok((seized, copy))
    }
}

/// Three control blocks: of the target's main thread, of the middleman, and of the copy.
fn plan(base: u64, frame: usize) -> Plan {
    let mut layout = Layout::new(base);
    let [main, middleman, copy] = [layout.thread(), layout.thread(), layout.thread()];
    let never = layout.word();

    let mut idle = Script::new("copy of the memory");
    // Signals for the target's session or group are none of its business.
    idle.syscall(libc::SYS_setsid, []).check(Check::Any);
    let name = idle.c_string(b"criu-rs-copy");
    idle.syscall(libc::SYS_prctl, [libc::PR_SET_NAME.into(), name.into()]).check(Check::Any);
    idle.wait(never, 1);

    let mut between = Script::new("copy of the memory");
    // Files that the target closes must not stay open in the copy.
    between
        .syscall(libc::SYS_close_range, [0.into(), u32::MAX.into(), CLOSE_RANGE_UNSHARE.into()])
        .check(Check::Any);
    clone(&mut between, 0, layout.tcb(copy));
    between.syscall(libc::SYS_exit, [0.into()]);

    let mut script = Script::new("copy of the memory");
    let with_target = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_FS;
    let child = clone(&mut script, with_target as u64, layout.tcb(middleman));
    // For a child that there is not, waitid fails.
    let options = libc::WEXITED | libc::__WALL;
    script
        .syscall(libc::SYS_waitid, [libc::P_PID.into(), child.into(), 0.into(), options.into(), 0.into()])
        .check(Check::Any);

    let jobs = vec![Job::new(0, main, &mut layout, script)];
    let frames = vec![layout.frame(frame)];
    let extras = vec![Extra::new(middleman, &mut layout, between), Extra::new(copy, &mut layout, idle)];
    Plan { layout, jobs, frames, extras }
}

/// Adds a clone3 without a signal for the parent; its result.
fn clone(script: &mut Script, flags: u64, tcb: u64) -> criu_script::StepId {
    let args = script.bytes(as_bytes(&CloneArgs { flags, ..CloneArgs::default() }));
    let arguments = [args.into(), args.len().into(), tcb.into()];
    script.push(wire::OP_CLONE, libc::SYS_clone3 as u32, arguments).check(Check::Any).id()
}
