//! Scheduling policy, priority and nice value of a thread (sched(7)).

use crate::error::Error;
use criu_images::proto::{SchedAttrEntry, ThreadCoreEntry};
use criu_kernel::plain;
use criu_kernel::sched::{self, SchedAttr};
use criu_resource::{BoxError, BuiltTask, FrozenTask, FrozenThread, Stage, ThreadAnswer, ThreadState};
use criu_script::{Arg, Check, Data, Outcome, Script, StepId};
use std::sync::LazyLock;

/// Flag of sched_setscheduler(2), part of the policy in images.
const RESET_ON_FORK: u32 = 0x4000_0000;
/// The same as a flag of sched_setattr(2).
const FLAG_RESET_ON_FORK: u64 = 1;
/// `struct sched_attr` in its first version, Linux 3.14.
const ATTR_SIZE: usize = 48;
/// prctl(2), Linux 5.14.
const PR_SCHED_CORE: i32 = 62;

/// The time slice of threads that did not choose one (Linux 6.12), as far as criu-rs itself is such a thread.
static SLICE: LazyLock<u64> = LazyLock::new(|| {
    let own = sched::get(nix::unistd::Pid::from_raw(0)).unwrap_or_default();
    if own.policy == libc::SCHED_OTHER as u32 { own.runtime } else { 0 }
});

/// Scheduling parameters, as asked for by [`ask`].
pub struct Asked {
    policy: StepId,
    param: Data,
    nice: StepId,
    attr: Data,
    cookie: Data,
}

/// Adds the steps that read the calling thread's scheduling parameters.
pub fn ask(script: &mut Script) -> Asked {
    let policy = script.syscall(libc::SYS_sched_getscheduler, [Arg::Value(0)]).id();
    let param = script.zeroed(4);
    script.syscall(libc::SYS_sched_getparam, [Arg::Value(0), param.into()]);
    let nice = script.syscall(libc::SYS_getpriority, [libc::PRIO_PROCESS.into(), 0.into()]).id();
    let attr = script.zeroed(ATTR_SIZE);
    script.syscall(libc::SYS_sched_getattr, [Arg::Value(0), attr.into(), ATTR_SIZE.into(), Arg::Value(0)]);
    let cookie = script.words(&[0]);
    let own = [PR_SCHED_CORE.into(), 0.into(), 0.into(), 0.into(), cookie.into()];
    script.syscall(libc::SYS_prctl, own).check(Check::Any); // not in every kernel
    Asked { policy, param, nice, attr, cookie }
}

/// The policy of an entry, without its flag.
pub(crate) fn policy(entry: &ThreadCoreEntry) -> u32 {
    entry.sched_policy() & !RESET_ON_FORK
}

fn is_realtime(policy: u32) -> bool {
    [libc::SCHED_FIFO as u32, libc::SCHED_RR as u32].contains(&(policy & !RESET_ON_FORK))
}

impl Asked {
    /// Fills the fields of the image.
    ///
    /// # Errors
    /// For a core cookie, which only those can give who have it.
    pub fn fill(&self, outcome: &Outcome, entry: &mut ThreadCoreEntry) -> Result<(), Error> {
        if outcome.u64(self.cookie, 0) != 0 {
            let what = "a core scheduling cookie (PR_SCHED_CORE); start the task without coresched";
            return Err(Error::Unsupported(what.into()));
        }
        let policy = outcome.ret(self.policy) as u32;
        entry.sched_policy = Some(policy);
        entry.sched_prio = is_realtime(policy).then(|| outcome.u32(self.param));
        // The system call returns 20 - nice, so that no value looks like an error.
        entry.sched_nice = Some(20 - outcome.ret(self.nice) as i32);
        let word = |index| outcome.u64(self.attr, index);
        let [flags, runtime, deadline, period] = [1, 3, 4, 5].map(word);
        // Other threads than those of SCHED_DEADLINE have at most a time slice of their own.
        let is_own = match policy & !RESET_ON_FORK {
            deadline if deadline == libc::SCHED_DEADLINE as u32 => true,
            realtime if is_realtime(realtime) => false,
            _ => *SLICE != 0 && runtime != *SLICE,
        };
        entry.sched_attr = is_own.then_some(SchedAttrEntry { runtime, deadline, period, flags });
        Ok(())
    }
}

/// Adds the steps that set the calling thread's scheduling parameters.
///
/// # Errors
/// For SCHED_DEADLINE without its parameters.
pub fn set(entry: &ThreadCoreEntry, script: &mut Script) -> Result<(), Error> {
    if let Some(attr) = &entry.sched_attr {
        set_attributes(entry, attr, script);
    } else if policy(entry) == libc::SCHED_DEADLINE as u32 {
        return Err(Error::Unsupported(
            "SCHED_DEADLINE without its parameters, which the images lack".into(),
        ));
    } else if let Some(policy) = entry.sched_policy {
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

/// sched_setattr(2), Linux 3.14.
fn set_attributes(entry: &ThreadCoreEntry, attr: &SchedAttrEntry, script: &mut Script) {
    let reset = if entry.sched_policy() & RESET_ON_FORK != 0 { FLAG_RESET_ON_FORK } else { 0 };
    let value = SchedAttr {
        size: ATTR_SIZE as u32,
        policy: policy(entry),
        flags: attr.flags | reset,
        nice: entry.sched_nice(),
        runtime: attr.runtime,
        deadline: attr.deadline,
        period: attr.period,
        ..SchedAttr::default()
    };
    let value = script.bytes(&plain::as_bytes(&value)[..ATTR_SIZE]);
    script.syscall(libc::SYS_sched_setattr, [Arg::Value(0), value.into(), Arg::Value(0)]);
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
