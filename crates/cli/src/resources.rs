//! The one list of what can be dumped and restored, in the order in which it is.

use criu_engine::Resources;
use criu_fds::{
    Bpfmap, Eventfd, Eventpoll, Fanotify, Fifo, Files, Inotify, Kind, Memfd, Nsfile, Pidfd, Pipe, Regular,
};
use criu_fds::{Signalfd, Table, Timerfd};
use criu_images::proto;
use criu_mem::{MappedFiles, Memory, Parked, transfer};
use criu_resource::{Ahead, BoxError, FileKind, RestoreContext};
use criu_tty::{OrphanMaster, Terminals};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

/// Kinds of open files. The first that claims a descriptor gets it.
fn kinds(files: &Arc<Files>, terminals: &Terminals) -> Vec<Box<dyn FileKind>> {
    vec![
        Box::new(terminals.clone()),
        Box::new(&criu_net::INET),
        Box::new(&criu_net::UNIX),
        Box::new(&criu_net::NETLINK),
        Box::new(&criu_net::PACKET),
        Box::new(Memfd::new(files)),
        Box::new(Regular::new(files)),
        Box::new(Pipe),
        Box::new(Fifo::new(files)),
        Box::new(Inotify::new(files)),
        Box::new(Fanotify::new(files)),
        Box::new(Kind::<Eventfd>::new()),
        Box::new(Eventpoll),
        Box::new(Kind::<Signalfd>::new()),
        Box::new(Kind::<Timerfd>::new()),
        Box::new(Pidfd),
        Box::new(Bpfmap),
        Box::new(Kind::<Nsfile>::new()),
    ]
}

/// Everything, with the state of one dump or restore.
pub struct Catalog {
    memory: Memory,
    terminals: Terminals,
    table: Table,
}

impl Catalog {
    /// A fresh one. `orphans` takes the masters of terminals that the tree has only slaves of.
    pub fn new(orphans: Option<Arc<dyn OrphanMaster>>) -> Catalog {
        let files = Arc::new(Files::new());
        let terminals = orphans.map_or_else(Terminals::new, Terminals::with_orphans);
        Catalog {
            memory: Memory::new(Mapped(files.clone())),
            table: Table::new(kinds(&files, &terminals), files),
            terminals,
        }
    }

    /// Runs a pipeline with the lists. What spans processes: the descriptor table comes last, since it closes
    /// what the others used.
    pub fn with<R>(&self, pipeline: impl FnOnce(Resources<'_>) -> R) -> R {
        pipeline(Resources {
            tree: &[&criu_task::seccomp::Seccomp, &self.memory, &self.terminals, &self.table],
            task: criu_task::TASK_STATES,
            thread: criu_task::THREAD_STATES,
            registers: &criu_task::regs::NativeRegisters,
            family: &criu_task::tree::Sessions,
        })
    }

    /// Sends the memory of a dump to a page server.
    pub fn send_pages_to(&mut self, server: transfer::Client) {
        self.memory.send_to(server);
    }

    /// What a pre-dump copies.
    pub fn ahead(&self) -> &dyn Ahead {
        &self.memory
    }

    /// Tells memory where the vDSO waits.
    pub fn park_vdso(&self, parts: &[(String, u64, u64)]) {
        let parts =
            parts.iter().map(|(name, from, len)| Parked { name: name.clone(), from: *from, len: *len });
        self.memory.set_parked(parts.collect());
    }

    /// Splits the pages that a dump wrote into those of tasks and those of memory they share.
    pub fn split_pages(&self, entry: &mut proto::DumpStatsEntry) {
        let counts = self.memory.counts();
        // More than memory writes such images: that of a memfd counts as shared.
        let sent = if self.memory.is_remote() { counts.shared_pages_written } else { 0 };
        let here = if self.memory.is_remote() { 0 } else { counts.pages_written };
        let shared = entry.pages_written - here + sent;
        entry.pages_scanned = counts.pages_written + counts.pages_in_parent;
        entry.pages_skipped_parent = counts.pages_in_parent;
        entry.pages_written = counts.pages_written;
        entry.shpages_scanned = Some(shared + counts.shared_pages_in_parent);
        entry.shpages_skipped_parent = Some(counts.shared_pages_in_parent);
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
