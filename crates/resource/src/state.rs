//! Traits for state of a thread, of a process, and of the whole tree.
//!
//! What can only be asked from inside a task is asked by a script: `ask` adds steps and returns a closure
//! that, given their results, fills the images. What can be read from outside is read in that closure or
//! before. So one function shows question and answer side by side.

use crate::{BoxError, BuiltTask, BuiltTree, DumpContext, FrozenTask, FrozenThread, FrozenTree};
use crate::{Place, RestoreContext, Stage, TaskImages, frozen::Fate};
use criu_images::{RecordSet, proto};
use criu_script::{Outcome, Script};
use std::collections::HashMap;

/// Fills a task's images from the results of a script.
pub type Answer<'a> = Box<dyn FnOnce(&Outcome, &mut TaskImages) -> Result<(), BoxError> + 'a>;

/// Fills a thread's core image from the results of a script.
pub type ThreadAnswer<'a> = Box<dyn FnOnce(&Outcome, &mut proto::CoreEntry) -> Result<(), BoxError> + 'a>;

/// State of one process, independent of other processes: limits, timers, signal actions, cwd.
pub trait TaskState: Send + Sync {
    /// Name for messages: `timers`.
    fn name(&self) -> &'static str;
    /// Asks a frozen, living task.
    fn ask<'a>(
        &'a self,
        task: &'a FrozenTask<'a>,
        context: &'a DumpContext<'a>,
        script: &mut Script,
    ) -> Result<Answer<'a>, BoxError>;
    /// Adds the steps of one stage to the script of the task's main thread. Called once for each stage.
    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        context: &RestoreContext<'_>,
        script: &mut Script,
    ) -> Result<(), BoxError>;
}

/// State of one thread: signal stack, name, credentials.
pub trait ThreadState: Send + Sync {
    /// Name for messages: `sigaltstack`.
    fn name(&self) -> &'static str;
    /// Asks a frozen thread.
    fn ask<'a>(
        &'a self,
        task: &'a FrozenTask<'a>,
        thread: &'a FrozenThread,
        script: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError>;
    /// Adds the steps of [`Stage::State`] or [`Stage::Last`] to the script of the thread.
    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        thread: usize,
        script: &mut Script,
    ) -> Result<(), BoxError>;
}

/// State that spans processes: descriptor tables, memory.
pub trait TreeState: Send + Sync {
    /// Name for messages: `memory`.
    fn name(&self) -> &'static str;
    /// Looks at the frozen tree from outside.
    fn dump<'t>(
        &'t self,
        tree: &'t FrozenTree<'t>,
        context: &'t DumpContext<'t>,
    ) -> Result<Box<dyn TreeDump + 't>, BoxError>;
    /// Reads and checks the images. No side effects; claims descriptor numbers.
    fn restore<'t>(
        &'t self,
        tree: &'t BuiltTree,
        context: &'t RestoreContext<'t>,
    ) -> Result<Box<dyn TreeRestore + 't>, BoxError>;
}

/// Copies state into the images while the tree runs.
pub type Copy<'t> = Box<dyn FnOnce() -> Result<(), BoxError> + 't>;

/// State that can be copied ahead of a dump: memory.
pub trait Ahead: TreeState {
    /// Looks at the frozen tree; the result is called when it runs again. The dump that follows makes good
    /// whatever changed in between.
    fn look_ahead<'t>(
        &'t self,
        tree: &FrozenTree<'_>,
        context: &'t DumpContext<'t>,
    ) -> Result<Copy<'t>, BoxError>;
}
/// Processes that keep the memory of tasks as it was: the task's pid → the other's.
pub type Copies = HashMap<i32, i32>;

/// A part of the bulk data.
#[derive(Clone, Copy, Debug)]
pub enum Portion<'a> {
    /// All.
    All,
    /// What is not to be read from these copies.
    Without(&'a Copies),
    /// What is to be read from these copies.
    Of(&'a Copies),
}

/// Bulk data of a dump on its way into images; see [`TreeDump::bulk`].
pub type BulkData<'a> = Box<dyn FnOnce() -> Result<(), BoxError> + Send + 'a>;

/// A dump in progress. Dropped without [`TreeDump::commit`], it undoes what it changed (locks).
pub trait TreeDump {
    /// Asks a frozen, living task; called once for each.
    fn ask<'a>(&'a self, task: &'a FrozenTask<'a>, script: &mut Script) -> Result<Answer<'a>, BoxError>;
    /// What can be read and written while the tasks are asked: work for another thread.
    fn bulk<'a>(&'a self, portion: Portion<'a>) -> Option<BulkData<'a>>;
    /// The tasks (pids) whose bulk data is worth a copy of their memory, and can be read from it.
    fn copyable(&self) -> Vec<i32>;
    /// Does what is left once every task was asked: objects that tasks share.
    fn finish(&mut self, records: &mut RecordSet) -> Result<(), BoxError>;
    /// The images are complete: keeps or undoes what was changed outside, as the tree's fate demands.
    fn commit(self: Box<Self>, fate: Fate) -> Result<(), BoxError>;
}

/// A restore in progress: `emit` for every stage and task, then `prepare`, then the scripts run, then
/// `finish`.
pub trait TreeRestore {
    /// Adds the steps of one stage to the script of the task's main thread. No side effects, except that
    /// descriptor numbers are reserved.
    fn emit(&mut self, stage: Stage, task: &BuiltTask, script: &mut Script) -> Result<(), BoxError>;
    /// Adds steps of [`Stage::State`] to the script of thread number `thread` (0 is the main one), before those
    /// of thread states.
    fn emit_thread(&mut self, task: &BuiltTask, thread: usize, script: &mut Script) -> Result<(), BoxError>;
    /// Adds steps that a thread of their own is worth, which runs beside [`Stage::Fill`] and is gone before
    /// [`Stage::Settle`].
    fn aside(&mut self, task: &BuiltTask, script: &mut Script) -> Result<(), BoxError>;
    /// Whether the task takes system calls from itself in [`Stage::State`] (seccomp(2)). From then on it runs
    /// under ptrace, which suspends that until the end.
    fn restrains(&self, task: &BuiltTask) -> bool;
    /// Address ranges (start, end) that the script machine must leave free in every task.
    fn occupied(&self) -> Vec<(u64, u64)>;
    /// Opens everything and puts it at the numbers that the scripts use.
    fn prepare(&mut self, place: &mut dyn Place) -> Result<(), BoxError>;
    /// All scripts are done and all tasks stand still, complete: opens connections again.
    fn finish(&mut self) -> Result<(), BoxError>;
}

/// General registers and extended state of one thread, as ptrace(2) sets them.
#[derive(Clone, Debug, Default)]
pub struct ThreadRegisters {
    /// In the order of [`FrozenThread::regs`].
    pub regs: Vec<u64>,
    /// In the layout of NT_X86_XSTATE.
    pub xstate: Vec<u8>,
}

/// Turns registers into the core image's form and back. Pure data.
pub trait Registers: Send + Sync {
    /// Fills `thread_info`; an interrupted system call is made to start over.
    fn dump(&self, thread: &FrozenThread, core: &mut proto::CoreEntry) -> Result<(), BoxError>;
    /// Reads it back.
    fn restore(&self, core: &proto::CoreEntry) -> Result<ThreadRegisters, BoxError>;
    /// Where a thread stopped inside of a restartable sequence (rseq(2)) has to go on, since it was
    /// interrupted.
    fn aborted(&self, thread: &FrozenThread) -> Result<Option<u64>, BoxError>;
    /// The registers of a thread whose interrupted system call can as well be issued anew, where the kernel
    /// would go on with it in a way of which a later dump could not tell what it was.
    fn anew(&self, _thread: &FrozenThread) -> Option<Vec<u64>> {
        None
    }
}

/// In which order a task does what cannot be undone: a child keeps the session its parent had at birth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Births {
    /// Children (positions in the tree) to clone first.
    pub before_setsid: Vec<usize>,
    /// Whether the task then starts a session of its own.
    pub setsid: bool,
    /// Whether it then leads a process group in another's session.
    pub setpgid: bool,
    /// Children of its own parent (positions in the tree) that are in the task's session, not the parent's.
    pub siblings: Vec<usize>,
    /// Children that only stand in for leaders that are gone.
    pub helpers: Vec<Helper>,
    /// Children to clone at last.
    pub after: Vec<usize>,
}

/// A short-lived process in the place of a leader that is gone. The number of a session or group outlives
/// its leader as long as there are members, and only a process of that number can make it. The helper ends
/// once every task is where it belongs, and its parent waits for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Helper {
    /// Its pid, the number of what it leads.
    pub pid: u32,
    /// Whether it leads a session; otherwise only a process group in its parent's session.
    pub session: bool,
    /// Children of its parent (positions in the tree) to clone into the session.
    pub siblings: Vec<usize>,
    /// Leaders of groups in that session, its children.
    pub helpers: Vec<Helper>,
}

/// Sessions and process groups of a tree.
pub trait Family: Send + Sync {
    /// Whether the tree's sessions can be dumped; the error names the remedy.
    fn check(&self, tree: &FrozenTree<'_>, options: &crate::Options) -> Result<(), BoxError>;
    /// Before a restore: a session or group outside of the tree becomes that of criu-rs.
    fn adopt(&self, tree: &mut BuiltTree, options: &crate::Options) -> Result<(), BoxError>;
    /// Plans the births, one entry a task.
    fn births(&self, tree: &BuiltTree) -> Result<Vec<Births>, BoxError>;
}
