//! The one list of what can be dumped and restored, in the order in which it is.

use criu_engine::Resources;

/// Everything, with the state that a run needs.
pub struct Catalog {}

impl Catalog {
    /// A fresh catalogue for one dump or restore.
    pub fn new() -> Catalog {
        Catalog {}
    }

    /// The lists for the engine.
    pub fn resources(&self) -> Resources<'_> {
        Resources {
            tree: &[],
            task: criu_task::TASK_STATES,
            thread: criu_task::THREAD_STATES,
            registers: &criu_task::regs::NativeRegisters,
            family: &criu_task::tree::Sessions,
        }
    }

    /// Tells memory where the vDSO waits.
    pub fn park_vdso(&self, _parts: &[(String, u64, u64)]) {}
}
