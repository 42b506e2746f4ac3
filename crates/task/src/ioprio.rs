//! The I/O priority of a thread (ioprio_set(2)).

use crate::sched;
use criu_images::proto::ThreadCoreEntry;
use criu_resource::{BoxError, BuiltTask, FrozenTask, FrozenThread, Stage, ThreadAnswer, ThreadState};
use criu_script::Script;

const WHO_PROCESS: i32 = 1;
const CLASS_SHIFT: u32 = 13;
const CLASS_REALTIME: u32 = 1;
const CLASS_BEST_EFFORT: u32 = 2;
const CLASS_IDLE: u32 = 3;

/// What the kernel says of a thread that has none: class and level follow from its scheduling.
fn implied(entry: &ThreadCoreEntry) -> u32 {
    let policy = sched::policy(entry);
    let class = match policy as i32 {
        libc::SCHED_IDLE => CLASS_IDLE,
        libc::SCHED_FIFO | libc::SCHED_RR | libc::SCHED_DEADLINE => CLASS_REALTIME,
        _ => CLASS_BEST_EFFORT,
    };
    (class << CLASS_SHIFT) + (entry.sched_nice() + 20) as u32 / 5
}

/// The I/O priority. Images hold 0 for a thread that has none of its own, or one that is the same.
pub struct IoPriority;

impl ThreadState for IoPriority {
    fn name(&self) -> &'static str {
        "I/O priority"
    }

    /// To be asked after scheduling.
    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        _: &'a FrozenThread,
        script: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError> {
        let asked = script.syscall(libc::SYS_ioprio_get, [WHO_PROCESS.into(), 0.into()]).id();
        Ok(Box::new(move |outcome, core| {
            let entry = core.thread_core.get_or_insert_default();
            let priority = outcome.ret(asked) as u32;
            entry.io_priority = Some(if priority == implied(entry) { 0 } else { priority });
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
        let entry = task.thread(thread).thread_core.as_ref();
        if let (Stage::State, Some(priority)) = (stage, entry.and_then(|entry| entry.io_priority)) {
            script.syscall(libc::SYS_ioprio_set, [WHO_PROCESS.into(), 0.into(), priority.into()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheduling_implies_a_priority() {
        let of = |policy: i32, nice| {
            let policy = Some(policy as u32);
            implied(&ThreadCoreEntry {
                sched_policy: policy,
                sched_nice: Some(nice),
                ..ThreadCoreEntry::default()
            })
        };
        assert_eq!(of(libc::SCHED_OTHER, 0), 0x4004);
        assert_eq!(of(libc::SCHED_BATCH, 19), 0x4007);
        assert_eq!(of(libc::SCHED_FIFO, -20), 0x2000);
        assert_eq!(of(libc::SCHED_IDLE, 0), 0x6004);
    }
}
