//! Scheduling policy, priority and nice value of a thread (sched(7)).

use crate::error::Error;
use criu_images::proto::ThreadCoreEntry;
use criu_resource::{BoxError, BuiltTask, FrozenTask, FrozenThread, Stage, ThreadAnswer, ThreadState};
use criu_script::{Arg, Data, Outcome, Script, StepId};

/// Flag of sched_setscheduler(2), part of the policy in images.
const RESET_ON_FORK: u32 = 0x4000_0000;

/// Scheduling parameters, as asked for by [`ask`].
pub struct Asked {
    policy: StepId,
    param: Data,
    nice: StepId,
}

/// Adds the steps that read the calling thread's scheduling parameters.
pub fn ask(script: &mut Script) -> Asked {
    let policy = script.syscall(libc::SYS_sched_getscheduler, [Arg::Value(0)]).id();
    let param = script.zeroed(4);
    script.syscall(libc::SYS_sched_getparam, [Arg::Value(0), param.into()]);
    let nice = script.syscall(libc::SYS_getpriority, [libc::PRIO_PROCESS.into(), 0.into()]).id();
    Asked { policy, param, nice }
}

fn is_realtime(policy: u32) -> bool {
    [libc::SCHED_FIFO as u32, libc::SCHED_RR as u32].contains(&(policy & !RESET_ON_FORK))
}

impl Asked {
    /// Fills the fields of the image.
    ///
    /// # Errors
    /// For SCHED_DEADLINE, whose parameters images cannot hold.
    pub fn fill(&self, outcome: &Outcome, entry: &mut ThreadCoreEntry) -> Result<(), Error> {
        let policy = outcome.ret(self.policy) as u32;
        if policy & !RESET_ON_FORK == libc::SCHED_DEADLINE as u32 {
            return Err(Error::Unsupported("scheduling policy SCHED_DEADLINE".into()));
        }
        entry.sched_policy = Some(policy);
        entry.sched_prio = is_realtime(policy).then(|| outcome.u32(self.param));
        // The system call returns 20 - nice, so that no value looks like an error.
        entry.sched_nice = Some(20 - outcome.ret(self.nice) as i32);
        Ok(())
    }
}

/// Adds the steps that set the calling thread's scheduling parameters.
///
/// # Errors
/// For SCHED_DEADLINE.
pub fn set(entry: &ThreadCoreEntry, script: &mut Script) -> Result<(), Error> {
    if let Some(policy) = entry.sched_policy {
        if policy & !RESET_ON_FORK == libc::SCHED_DEADLINE as u32 {
            return Err(Error::Unsupported("scheduling policy SCHED_DEADLINE".into()));
        }
        let priority = if is_realtime(policy) { entry.sched_prio() } else { 0 };
        let param = script.bytes(&priority.to_ne_bytes());
        script.syscall(libc::SYS_sched_setscheduler, [Arg::Value(0), policy.into(), param.into()]);
    }
    // Counts for real-time threads too, once they are none any more.
    if let Some(nice) = entry.sched_nice {
        script.syscall(libc::SYS_setpriority, [libc::PRIO_PROCESS.into(), 0.into(), nice.into()]);
    }
    Ok(())
}

/// Scheduling parameters of a thread.
pub struct Scheduling;

impl ThreadState for Scheduling {
    fn name(&self) -> &'static str {
        "scheduling"
    }

    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        _: &'a FrozenThread,
        script: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError> {
        let asked = ask(script);
        Ok(Box::new(move |outcome, core| Ok(asked.fill(outcome, core.thread_core.get_or_insert_default())?)))
    }

    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        thread: usize,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        if let (Stage::State, Some(entry)) = (stage, &task.thread(thread).thread_core) {
            set(entry, script)?;
        }
        Ok(())
    }
}
