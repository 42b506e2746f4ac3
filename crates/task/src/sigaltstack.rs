//! The alternate signal stack of a thread (sigaltstack(2)).

use crate::steps::words;
use criu_images::proto::ThreadSasEntry;
use criu_resource::{BoxError, BuiltTask, FrozenTask, FrozenThread, Stage, ThreadAnswer, ThreadState};
use criu_script::{Arg, Data, Script};

/// Size of the kernel's `stack_t`: pointer, flags (with padding), size.
const STACK: usize = 24;

/// Adds the step that reads the alternate stack.
pub fn ask(script: &mut Script) -> Data {
    let old = script.zeroed(STACK);
    script.syscall(libc::SYS_sigaltstack, [Arg::Value(0), old.into()]);
    old
}

/// Adds the step that sets the alternate stack.
pub fn set(entry: &ThreadSasEntry, script: &mut Script) {
    let new = script.words(&[entry.ss_sp, u64::from(entry.ss_flags), entry.ss_size]);
    script.syscall(libc::SYS_sigaltstack, [new.into(), Arg::Value(0)]);
}

/// The alternate signal stack.
pub struct SignalStack;

impl ThreadState for SignalStack {
    fn name(&self) -> &'static str {
        "sigaltstack"
    }

    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        _: &'a FrozenThread,
        script: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError> {
        let old = ask(script);
        Ok(Box::new(move |outcome, core| {
            let [ss_sp, flags, ss_size] = words(outcome, old);
            let entry = ThreadSasEntry { ss_sp, ss_size, ss_flags: flags as u32 };
            core.thread_core.get_or_insert_default().sas = Some(entry);
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
        if let (Stage::State, Some(entry)) = (stage, core.and_then(|core| core.sas.as_ref())) {
            set(entry, script);
        }
        Ok(())
    }
}
