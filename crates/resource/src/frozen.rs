//! A frozen process tree, as the resources see it on dump.

use crate::Options;
use criu_images::{RecordSet, Store, proto};
use std::os::fd::BorrowedFd;

/// What a task was doing when it was frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Running or sleeping.
    Alive,
    /// Stopped by this job-control signal.
    Stopped(i32),
    /// Dead and not yet waited for, with this status (as wait(2) encodes it).
    Zombie(i32),
}

/// One frozen thread.
pub struct FrozenThread {
    /// Id in criu-rs's own pid namespace.
    pub tid: i32,
    /// Id in the tree's innermost pid namespace, as the images record it.
    pub ns_tid: i32,
    /// General registers in the kernel's `user_regs_struct` order (27 words on x86-64): those that bring
    /// the thread back where it was, an interrupted system call not yet adjusted.
    pub regs: Vec<u64>,
    /// The extended state as PTRACE_GETREGSET NT_X86_XSTATE gives it.
    pub xstate: Vec<u8>,
    /// Blocked signals.
    pub sigmask: u64,
    /// Signals queued for this thread: `siginfo_t`, 128 bytes each.
    pub pending: Vec<[u8; 128]>,
    /// rseq(2) registration: address, size, signature, flags. `None` when nothing is registered.
    pub rseq: Option<(u64, u32, u32, u32)>,
    /// Head and length of the robust futex list (get_robust_list(2)).
    pub robust_list: (u64, u64),
}

/// One frozen process. A zombie has no threads and an empty descriptor table.
pub struct FrozenTask<'a> {
    /// Position in [`FrozenTree::tasks`]; parents come before children.
    pub index: usize,
    /// Position of the parent; `None` for the root.
    pub parent: Option<usize>,
    /// Id in criu-rs's own pid namespace.
    pub pid: i32,
    /// Id in the tree's innermost pid namespace, as the images record it.
    pub ns_pid: i32,
    /// Process group in the same namespace; 0 when its leader lies outside of that namespace.
    pub ns_pgid: i32,
    /// Session in the same namespace; 0 when its leader lies outside of that namespace.
    pub ns_sid: i32,
    /// What it was doing.
    pub life: Life,
    /// Refers to the process.
    pub pidfd: BorrowedFd<'a>,
    /// Its directory `/proc/PID`.
    pub proc: BorrowedFd<'a>,
    /// Its threads, the main one first.
    pub threads: Vec<FrozenThread>,
    /// Signals queued for the process as a whole: `siginfo_t`, 128 bytes each.
    pub pending: Vec<[u8; 128]>,
}

/// A frozen tree, root first.
pub struct FrozenTree<'a> {
    /// All tasks; each parent comes before its children.
    pub tasks: Vec<FrozenTask<'a>>,
}

/// How the images number the IPC namespace that criu-rs and the tree have in common.
pub const OWN_IPC_NAMESPACE: u32 = 3;

/// What every resource may look at during a dump.
pub struct DumpContext<'a> {
    /// Switches.
    pub options: &'a Options,
    /// Where bulk data (pages) goes. Entries are returned, not written.
    pub store: &'a dyn Store,
}

/// What becomes of the tree once its images are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is killed: its connections stay locked for the restore.
    Kill,
    /// It runs on.
    Run,
    /// It stays stopped.
    Stop,
}

/// The images of one task while they are collected.
#[derive(Default)]
pub struct TaskImages {
    /// `core-PID`, of the main thread: `tc`, `thread_core` and `thread_info` are present from the start.
    pub core: proto::CoreEntry,
    /// `core-TID` of the other threads, in the order of [`FrozenTask::threads`] without the first.
    pub threads: Vec<proto::CoreEntry>,
    /// All else: `mm-PID`, `pagemap-PID`, `fdinfo-N`, `fs-PID`…
    pub records: RecordSet,
}

impl TaskImages {
    /// The process-wide part of the core image.
    pub fn tc(&mut self) -> &mut proto::TaskCoreEntry {
        self.core.tc.get_or_insert_default()
    }

    /// The core image of thread number `thread` (0 is the main one).
    pub fn thread(&mut self, thread: usize) -> &mut proto::CoreEntry {
        match thread {
            0 => &mut self.core,
            n => &mut self.threads[n - 1],
        }
    }
}
