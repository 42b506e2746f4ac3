//! Signal actions, and signals that wait for being unblocked.
//!
//! The mask of a blocked signal is set by whoever lets the thread go, not by steps: it must stay complete
//! until then.

use crate::error::Error;
use crate::steps::{living, words};
use criu_images::proto;
use criu_resource::{
    Answer, BoxError, BuiltTask, DumpContext, FrozenTask, FrozenThread, RestoreContext, Stage, TaskState,
    ThreadAnswer, ThreadState,
};
use criu_script::{Arg, Data, Outcome, Script};

/// Highest signal number.
const MAX: i32 = 64;
/// Size of a signal set in bytes.
const SET: usize = 8;
/// Size of the kernel's `struct sigaction`: handler, flags, restorer, mask.
const ACTION: usize = 32;
const SIGINFO: usize = 128;

/// The signals that have an action, in the order of the image.
fn with_action() -> impl Iterator<Item = i32> {
    (1..=MAX).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal))
}

/// Actions of all signals, as asked for by [`ask_actions`].
pub struct AskedActions(Data);

/// Adds the steps that read all signal actions (rt_sigaction(2)).
pub fn ask_actions(script: &mut Script) -> AskedActions {
    let room = script.zeroed(ACTION * with_action().count());
    for (i, signal) in with_action().enumerate() {
        let old = room.part(i * ACTION, ACTION);
        script.syscall(libc::SYS_rt_sigaction, [signal.into(), Arg::Value(0), old.into(), SET.into()]);
    }
    AskedActions(room)
}

impl AskedActions {
    /// The actions as image entries: signals 1 to 64 without SIGKILL and SIGSTOP.
    pub fn entries(&self, outcome: &Outcome) -> Vec<proto::SaEntry> {
        let entry = |i| {
            let [sigaction, flags, restorer, mask] = words(outcome, self.0.part(i * ACTION, ACTION));
            let compat_sigaction = Some(false);
            proto::SaEntry { sigaction, flags, restorer, mask, compat_sigaction, mask_extended: None }
        };
        (0..with_action().count()).map(entry).collect()
    }
}

/// Adds the steps that set the actions of those signals that `which` picks.
///
/// # Errors
/// For actions of 32-bit tasks, and when there are too few.
pub fn set_actions(
    entries: &[proto::SaEntry],
    which: impl Fn(i32) -> bool,
    script: &mut Script,
) -> Result<(), Error> {
    let want = with_action().count();
    if entries.len() != want {
        return Err(Error::corrupt("number of signal actions", entries.len()));
    }
    for (signal, entry) in with_action().zip(entries).filter(|(signal, _)| which(*signal)) {
        if entry.compat_sigaction() {
            return Err(Error::Unsupported("signal actions of a 32-bit task".into()));
        }
        let new = script.words(&[entry.sigaction, entry.flags, entry.restorer, entry.mask]);
        script.syscall(libc::SYS_rt_sigaction, [signal.into(), new.into(), Arg::Value(0), SET.into()]);
    }
    Ok(())
}

/// Queued signals as an image entry.
pub fn queue_to_image(pending: &[[u8; SIGINFO]]) -> proto::SignalQueueEntry {
    let entry = |info: &[u8; SIGINFO]| proto::SiginfoEntry { siginfo: info.to_vec() };
    proto::SignalQueueEntry { signals: pending.iter().map(entry).collect() }
}

/// Adds the steps that queue signals for the calling task itself; with `tid`, for its calling thread alone.
/// The kernel takes any sender from a task that signals itself (rt_sigqueueinfo(2)).
///
/// # Errors
/// For a siginfo of a wrong size or signal.
pub fn requeue(
    queue: &proto::SignalQueueEntry,
    pid: i32,
    tid: Option<i32>,
    script: &mut Script,
) -> Result<(), Error> {
    for proto::SiginfoEntry { siginfo } in &queue.signals {
        if siginfo.len() != SIGINFO {
            return Err(Error::corrupt("siginfo size", siginfo.len()));
        }
        let signal = i32::from_ne_bytes(siginfo[..4].try_into().expect("four bytes"));
        if !(1..=MAX).contains(&signal) {
            return Err(Error::corrupt("pending signal", signal));
        }
        if signal == libc::SIGSTOP {
            continue; // it cannot be blocked and would stop the script; the engine stops the task at the end
        }
        let info = script.bytes(siginfo);
        match tid {
            None => script.syscall(libc::SYS_rt_sigqueueinfo, [pid.into(), signal.into(), info.into()]),
            Some(tid) => script
                .syscall(libc::SYS_rt_tgsigqueueinfo, [pid.into(), tid.into(), signal.into(), info.into()]),
        };
    }
    Ok(())
}

/// Refuses a queued SIGTRAP. The reference puts breakpoints into the tasks that it restores; the kernel would
/// then force that signal on them, and so it takes no such images.
fn refuse_trap(pending: &[[u8; SIGINFO]]) -> Result<(), Error> {
    match pending.iter().any(|info| info[..4] == libc::SIGTRAP.to_ne_bytes()) {
        true => Err(Error::Unsupported(
            "a pending SIGTRAP, which CRIU cannot restore; dump again when the task has taken it".into(),
        )),
        false => Ok(()),
    }
}

/// What a process does with signals, and those queued for it as a whole.
pub struct Signals;

impl TaskState for Signals {
    fn name(&self) -> &'static str {
        "signals"
    }

    fn ask<'a>(
        &'a self,
        task: &'a FrozenTask<'a>,
        _: &'a DumpContext<'a>,
        script: &mut Script,
    ) -> Result<Answer<'a>, BoxError> {
        refuse_trap(&task.pending)?;
        let actions = ask_actions(script);
        Ok(Box::new(move |outcome, images| {
            let tc = images.tc();
            tc.sigactions = actions.entries(outcome);
            tc.signals_s = Some(queue_to_image(&task.pending));
            tc.blk_sigset = task.threads.first().map_or(0, |main| main.sigmask);
            Ok(())
        }))
    }

    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        _: &RestoreContext<'_>,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        let Some(tc) = living(task) else { return Ok(()) };
        match stage {
            // A zombie whose parent ignores SIGCHLD would vanish; the parent may have decided so later.
            Stage::Inherit => {
                let default = script.words(&[0; 4]);
                let args = [libc::SIGCHLD.into(), default.into(), Arg::Value(0), SET.into()];
                script.syscall(libc::SYS_rt_sigaction, args);
            }
            Stage::State => set_actions(&tc.sigactions, |signal| signal != libc::SIGCHLD, script)?,
            Stage::Last => {
                set_actions(&tc.sigactions, |signal| signal == libc::SIGCHLD, script)?;
                if let Some(queue) = &tc.signals_s {
                    requeue(queue, task.pid() as i32, None, script)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The signals queued for one thread, and those it blocks.
pub struct ThreadSignals;

impl ThreadState for ThreadSignals {
    fn name(&self) -> &'static str {
        "thread signals"
    }

    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        thread: &'a FrozenThread,
        _: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError> {
        refuse_trap(&thread.pending)?;
        Ok(Box::new(move |_, core| {
            let thread_core = core.thread_core.get_or_insert_default();
            thread_core.blk_sigset = Some(thread.sigmask);
            thread_core.signals_p = Some(queue_to_image(&thread.pending));
            Ok(())
        }))
    }

    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        thread: usize,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        let core = task.thread(thread).thread_core.as_ref();
        if let (Stage::Last, Some(queue)) = (stage, core.and_then(|core| core.signals_p.as_ref())) {
            let tid = task.pstree.threads.get(thread).copied().unwrap_or(task.pid());
            requeue(queue, task.pid() as i32, Some(tid as i32), script)?;
        }
        Ok(())
    }
}
