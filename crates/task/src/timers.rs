//! Interval timers (getitimer(2)) and POSIX timers (timer_create(2)).
//!
//! What a POSIX timer is stands in `/proc/PID/timers` (`CONFIG_CHECKPOINT_RESTORE`); how much of its time is
//! left only the task itself can ask. Timers are created early, with their ids, and set at the very end.

use crate::error::Error;
use crate::steps::{living, pr, prctl, task_dir, words};
use criu_images::proto::{ItimerEntry, PosixTimerEntry, TaskTimersEntry};
use criu_kernel::features::Feature;
use criu_kernel::proc::TimerInfo;
use criu_resource::{Answer, BoxError, BuiltTask, DumpContext, FrozenTask, RestoreContext, Stage, TaskState};
use criu_script::{Arg, Data, Outcome, Script, StepId};

/// Size of `struct itimerval` and of `struct itimerspec`.
const VALUE: usize = 32;
const NANOSECONDS: u64 = 1_000_000_000;
const MICROSECONDS: u64 = 1_000_000;
/// Without PR_TIMER_CREATE_RESTORE_IDS, ids are counted up to one by one.
const MAX_COUNTED: u32 = 20_000;

/// Timers, as asked for by [`ask`].
pub struct Asked {
    intervals: Data,
    posix: Vec<(TimerInfo, Data, StepId)>,
}

/// Adds the steps that read the three interval timers and the given POSIX timers.
pub fn ask(posix: Vec<TimerInfo>, script: &mut Script) -> Asked {
    let intervals = script.zeroed(3 * VALUE);
    for which in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        let value = intervals.part(which as usize * VALUE, VALUE);
        script.syscall(libc::SYS_getitimer, [which.into(), value.into()]);
    }
    let ask_one = |timer: TimerInfo| {
        let value = script.zeroed(VALUE);
        script.syscall(libc::SYS_timer_gettime, [timer.id.into(), value.into()]);
        let overrun = script.syscall(libc::SYS_timer_getoverrun, [timer.id.into()]).id();
        (timer, value, overrun)
    };
    Asked { intervals, posix: posix.into_iter().map(ask_one).collect() }
}

impl Asked {
    /// The timers as an image entry. `ns_tid` translates a thread id to what the image is to hold.
    ///
    /// # Errors
    /// When a timer signals a thread that `ns_tid` does not know.
    pub fn entry(
        &self,
        outcome: &Outcome,
        ns_tid: impl Fn(i32) -> Option<i32>,
    ) -> Result<TaskTimersEntry, Error> {
        let interval = |which: i32| {
            let [isec, iusec, vsec, vusec] =
                words(outcome, self.intervals.part(which as usize * VALUE, VALUE));
            ItimerEntry { isec, iusec, vsec, vusec }
        };
        let posix = |(timer, value, overrun): &(TimerInfo, Data, StepId)| {
            let [isec, insec, vsec, vnsec] = words(outcome, *value);
            let notify_thread_id = match timer.thread {
                false => None,
                true => Some(ns_tid(timer.target).ok_or_else(|| {
                    Error::Unsupported(format!("timer {}, which signals a thread that ended", timer.id))
                })?),
            };
            Ok(PosixTimerEntry {
                it_id: timer.id as u32,
                clock_id: timer.clock as u32,
                si_signo: timer.signal as u32,
                it_sigev_notify: timer.sigev_notify() as u32,
                sival_ptr: timer.value,
                overrun: outcome.ret(*overrun) as u32,
                isec,
                insec,
                vsec,
                vnsec,
                notify_thread_id,
            })
        };
        Ok(TaskTimersEntry {
            real: interval(libc::ITIMER_REAL),
            virt: interval(libc::ITIMER_VIRTUAL),
            prof: interval(libc::ITIMER_PROF),
            posix: self.posix.iter().map(posix).collect::<Result<_, Error>>()?,
        })
    }
}

/// Adds the steps that create the POSIX timers with their ids, unset. `chosen`: the kernel lets one choose ids
/// ([`Feature::TimerRestoreIds`]);
/// otherwise the process must not have had a timer yet, for the kernel counts.
///
/// # Errors
/// For an id that counting does not reach.
pub fn create(entries: &[PosixTimerEntry], chosen: bool, script: &mut Script) -> Result<(), Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_unstable_by_key(|entry| entry.it_id);
    if chosen {
        prctl(script, pr::TIMER_CREATE_RESTORE_IDS, 1, 0);
    }
    let mut next = 0;
    for entry in sorted {
        let mut event = [0; 64];
        event[..8].copy_from_slice(&entry.sival_ptr.to_ne_bytes());
        event[8..12].copy_from_slice(&entry.si_signo.to_ne_bytes());
        event[12..16].copy_from_slice(&entry.it_sigev_notify.to_ne_bytes());
        event[16..20].copy_from_slice(&entry.notify_thread_id().to_ne_bytes());
        let event = script.bytes(&event);
        let id = script.bytes(&entry.it_id.to_ne_bytes());
        let args = [(entry.clock_id as i32).into(), event.into(), id.into()];
        if !chosen {
            if entry.it_id > MAX_COUNTED {
                return Err(Error::Unsupported(format!(
                    "timer id {} on this kernel; Linux 6.15 lets ids be chosen",
                    entry.it_id
                )));
            }
            for passed in next..entry.it_id {
                script.syscall(libc::SYS_timer_create, args);
                script.syscall(libc::SYS_timer_delete, [passed.into()]);
            }
            next = entry.it_id + 1;
        }
        script.syscall(libc::SYS_timer_create, args);
        // Fails when the id is another.
        script.syscall(libc::SYS_timer_getoverrun, [entry.it_id.into()]);
    }
    if chosen {
        prctl(script, pr::TIMER_CREATE_RESTORE_IDS, 0, 0);
    }
    Ok(())
}

/// Adds the steps that set all timers.
///
/// # Errors
/// For times that are none.
pub fn arm(entry: &TaskTimersEntry, script: &mut Script) -> Result<(), Error> {
    let intervals = [&entry.real, &entry.virt, &entry.prof];
    for (which, ItimerEntry { isec, iusec, vsec, vusec }) in intervals.into_iter().enumerate() {
        if let Some(value) = value([*isec, *iusec, *vsec, *vusec], MICROSECONDS)? {
            let value = script.words(&value);
            script.syscall(libc::SYS_setitimer, [which.into(), value.into(), Arg::Value(0)]);
        }
    }
    for timer in &entry.posix {
        if let Some(value) = value([timer.isec, timer.insec, timer.vsec, timer.vnsec], NANOSECONDS)? {
            let value = script.words(&value);
            let zero = Arg::Value(0);
            script.syscall(libc::SYS_timer_settime, [timer.it_id.into(), zero, value.into(), zero]);
        }
    }
    Ok(())
}

/// Interval and time left, each in seconds and fractions, as they are to be set; `None` for a timer that is
/// off. A periodic timer with no time left was just about to expire: it starts a new period.
fn value([isec, ifrac, vsec, vfrac]: [u64; 4], fractions: u64) -> Result<Option<[u64; 4]>, Error> {
    if ifrac >= fractions || vfrac >= fractions || isec > i64::MAX as u64 || vsec > i64::MAX as u64 {
        return Err(Error::corrupt("timer value", format!("{isec}/{ifrac} {vsec}/{vfrac}")));
    }
    Ok(match ([isec, ifrac], [vsec, vfrac]) {
        ([0, 0], [0, 0]) => None,
        (_, [0, 0]) => Some([isec, ifrac, isec, ifrac]),
        _ => Some([isec, ifrac, vsec, vfrac]),
    })
}

/// The timers of a process.
pub struct Timers;

impl TaskState for Timers {
    fn name(&self) -> &'static str {
        "timers"
    }

    fn ask<'a>(
        &'a self,
        task: &'a FrozenTask<'a>,
        _: &'a DumpContext<'a>,
        script: &mut Script,
    ) -> Result<Answer<'a>, BoxError> {
        let asked = ask(task_dir(task)?.timers()?, script);
        let ns_tid = |tid| task.threads.iter().find(|thread| thread.tid == tid).map(|thread| thread.ns_tid);
        Ok(Box::new(move |outcome, images| {
            images.tc().timers = Some(asked.entry(outcome, ns_tid)?);
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
        let Some(entry) = living(task).and_then(|tc| tc.timers.as_ref()) else { return Ok(()) };
        match stage {
            Stage::State => create(&entry.posix, Feature::TimerRestoreIds.is_available(), script)?,
            Stage::Last => arm(entry, script)?,
            _ => {}
        }
        Ok(())
    }
}
