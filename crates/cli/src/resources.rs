//! The one list of what can be dumped and restored, in the order in which it is.

use criu_engine::Resources;
use criu_fds::{Eventfd, Eventpoll, Fanotify, Fifo, Files, Inotify, Kind, Memfd, Pipe, Regular, Signalfd};
use criu_fds::{Table, Timerfd};
use criu_images::proto;
use criu_mem::{MappedFiles, Memory, Parked};
use criu_resource::{BoxError, FileKind, RestoreContext, TreeState};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

/// Kinds of open files. The first that claims a descriptor gets it.
fn kinds(files: &Arc<Files>) -> Vec<Box<dyn FileKind>> {
    let mut kinds: Vec<Box<dyn FileKind>> = Vec::new();
    //kinds.extend(criu_tty::KINDS.iter().map(|&kind| Box::new(kind) as Box<dyn FileKind>));
    kinds.extend(criu_net::KINDS.iter().map(|&kind| Box::new(kind) as Box<dyn FileKind>));
    kinds.push(Box::new(Memfd::new(files)));
    kinds.push(Box::new(Regular::new(files)));
    kinds.push(Box::new(Pipe));
    kinds.push(Box::new(Fifo::new(files)));
    kinds.push(Box::new(Inotify::new(files)));
    kinds.push(Box::new(Fanotify::new(files)));
    kinds.push(Box::new(Kind::<Eventfd>::new()));
    kinds.push(Box::new(Kind::<Eventpoll>::new()));
    kinds.push(Box::new(Kind::<Signalfd>::new()));
    kinds.push(Box::new(Kind::<Timerfd>::new()));
    kinds
}

/// Everything, with the state of one dump or restore.
pub struct Catalog {
    memory: Memory,
    table: Table,
}

impl Catalog {
    /// A fresh one.
    pub fn new() -> Catalog {
        let files = Arc::new(Files::new());
        Catalog { memory: Memory::new(Mapped(files.clone())), table: Table::new(kinds(&files), files) }
    }

    /// What spans processes. The descriptor table comes last: it closes what the others used.
    pub fn tree(&self) -> [&dyn TreeState; 2] {
        [&self.memory, &self.table]
    }

    /// The lists for the engine.
    pub fn resources<'a>(&'a self, tree: &'a [&'a dyn TreeState]) -> Resources<'a> {
        Resources {
            tree,
            task: criu_task::TASK_STATES,
            thread: criu_task::THREAD_STATES,
            registers: &criu_task::regs::NativeRegisters,
            family: &criu_task::tree::Sessions,
        }
    }

    /// Tells memory where the vDSO waits.
    pub fn park_vdso(&self, parts: &[(String, u64, u64)]) {
        let parts =
            parts.iter().map(|(name, from, len)| Parked { name: name.clone(), from: *from, len: *len });
        self.memory.set_parked(parts.collect());
    }

    /// Splits the pages that a dump wrote into those of tasks and those of memory they share.
    pub fn split_pages(&self, entry: &mut proto::DumpStatsEntry) {
        let own = self.memory.counts().pages_written;
        let shared = entry.pages_written - own;
        entry.pages_scanned = own;
        entry.pages_written = own;
        entry.shpages_scanned = Some(shared);
        entry.shpages_skipped_parent = Some(0);
        entry.shpages_written = Some(shared);
    }
}

/// Memory's files are kept with all others.
struct Mapped(Arc<Files>);

impl MappedFiles for Mapped {
    fn id_of(&self, pid: i32, file: BorrowedFd<'_>, link: &Path) -> Result<u32, BoxError> {
        self.0.mapped(pid, file, link)
    }

    fn number_of(&self, context: &RestoreContext<'_>, id: u32, flags: u32) -> Result<i32, BoxError> {
        Ok(self.0.number_of(context.numbers, id, flags)?)
    }
}
