//! Resource limits (getrlimit(2)).
//!
//! They are asked for and set from inside: prlimit(2) on a task of another user takes CAP_SYS_RESOURCE.

use crate::error::Error;
use crate::restorer;
use crate::steps::{living, words};
use criu_images::proto::{RlimitEntry, TaskRlimitsEntry};
use criu_resource::{Answer, BoxError, BuiltTask, DumpContext, FrozenTask, RestoreContext, Stage, TaskState};
use criu_script::{Arg, Data, Outcome, Script};
use nix::sys::resource::{Resource, getrlimit};

/// The limits in the order of their numbers.
const KINDS: [(Resource, &str); 16] = [
    (Resource::RLIMIT_CPU, "RLIMIT_CPU"),
    (Resource::RLIMIT_FSIZE, "RLIMIT_FSIZE"),
    (Resource::RLIMIT_DATA, "RLIMIT_DATA"),
    (Resource::RLIMIT_STACK, "RLIMIT_STACK"),
    (Resource::RLIMIT_CORE, "RLIMIT_CORE"),
    (Resource::RLIMIT_RSS, "RLIMIT_RSS"),
    (Resource::RLIMIT_NPROC, "RLIMIT_NPROC"),
    (Resource::RLIMIT_NOFILE, "RLIMIT_NOFILE"),
    (Resource::RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK"),
    (Resource::RLIMIT_AS, "RLIMIT_AS"),
    (Resource::RLIMIT_LOCKS, "RLIMIT_LOCKS"),
    (Resource::RLIMIT_SIGPENDING, "RLIMIT_SIGPENDING"),
    (Resource::RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE"),
    (Resource::RLIMIT_NICE, "RLIMIT_NICE"),
    (Resource::RLIMIT_RTPRIO, "RLIMIT_RTPRIO"),
    (Resource::RLIMIT_RTTIME, "RLIMIT_RTTIME"),
];
/// Size of `struct rlimit64`.
const RLIMIT: usize = 16;

/// Limits, as asked for by [`ask`].
pub struct Asked(Data);

/// Adds the steps that read all limits.
pub fn ask(script: &mut Script) -> Asked {
    let room = script.zeroed(RLIMIT * KINDS.len());
    for (i, (kind, _)) in KINDS.iter().enumerate() {
        let old = room.part(i * RLIMIT, RLIMIT);
        script.syscall(libc::SYS_prlimit64, [0.into(), (*kind as u32).into(), Arg::Value(0), old.into()]);
    }
    Asked(room)
}

impl Asked {
    /// The limits as an image entry, in the order of their numbers.
    pub fn entry(&self, outcome: &Outcome) -> TaskRlimitsEntry {
        let limit = |i| {
            let [cur, max] = words(outcome, self.0.part(i * RLIMIT, RLIMIT));
            RlimitEntry { cur, max }
        };
        TaskRlimitsEntry { rlimits: (0..KINDS.len()).map(limit).collect() }
    }
}

/// Adds the steps that set all limits.
///
/// # Errors
/// When a hard limit lies above that of criu-rs, which the task inherits, and cannot be raised.
pub fn set(entry: &TaskRlimitsEntry, script: &mut Script) -> Result<(), Error> {
    if entry.rlimits.len() > KINDS.len() {
        return Err(Error::corrupt("number of limits", entry.rlimits.len()));
    }
    for (&(kind, name), limit) in KINDS.iter().zip(&entry.rlimits) {
        let (_, have) = getrlimit(kind).map_err(|errno| Error::Unsupported(format!("{name}: {errno}")))?;
        if limit.max > have && !restorer::may_raise_limits()? {
            return Err(Error::HardLimit { name, want: limit.max, have });
        }
        let new = script.words(&[limit.cur, limit.max]);
        script.syscall(libc::SYS_prlimit64, [0.into(), (kind as u32).into(), new.into(), Arg::Value(0)]);
    }
    Ok(())
}

/// The limits of a process.
pub struct Limits;

impl TaskState for Limits {
    fn name(&self) -> &'static str {
        "limits"
    }

    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        _: &'a DumpContext<'a>,
        script: &mut Script,
    ) -> Result<Answer<'a>, BoxError> {
        let asked = ask(script);
        Ok(Box::new(move |outcome, images| {
            images.tc().rlimits = Some(asked.entry(outcome));
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
        let entry = living(task).and_then(|tc| tc.rlimits.as_ref());
        if let (Stage::Last, Some(entry)) = (stage, entry) {
            set(entry, script)?;
        }
        Ok(())
    }
}
