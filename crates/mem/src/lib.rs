//! Memory: areas, pages, shared memory, the fields of an address space, and the vDSO.
//!
//! [`Memory`] is the one thing to hand to the engine. It knows nothing of files: whoever has mapped files
//! to dump gives it [`MappedFiles`].
//!
//! | module | what |
//! |---|---|
//! | [`vma`] | what each area is: from `/proc/PID/smaps` to `vma_entry` |
//! | [`status`] | the bits of `vma_entry.status` |
//! | [`scan`] | which areas and pages there are |
//! | `collect`, `dump`, `ahead` | what is stored, by a dump or ahead of one |
//! | [`pages`] | the transfer of pages to images |
//! | `read` | reading them, from outside |
//! | `parent` | which of them an earlier checkpoint has |
//! | [`transfer`] | pages that go to another machine |
//! | [`shmem`] | shared anonymous memory |
//! | [`sysv`] | System V segments |
//! | [`mm`] | the fields of the address space |
//! | [`notes`] | what the reference's images do not say of areas: names, seals |
//! | `content` | where the stored pages lie: in this checkpoint and its parents |
//! | [`layout`] | areas and content as steps: mapped at their final addresses, filled by few large reads |
//! | [`cow`] | what a child is to share with its parent, as after fork |
//! | [`aio`] | contexts of asynchronous I/O, which live in memory |
//! | [`vdso`] | vDSO and vvar moved to where they were |
//!
//! On dump everything is read from outside while the tree is frozen; only `brk` and two prctl values are
//! asked from inside. criu-rs's own memory does not grow with that of its targets: a worker copies through
//! a buffer of a fixed size.

#![deny(clippy::undocumented_unsafe_blocks)]

mod ahead;
pub mod aio;
pub mod cow;
pub mod error;
pub mod headroom;
pub mod layout;
pub mod mm;
pub mod notes;
pub mod pages;
pub mod scan;
pub mod shmem;
pub mod status;
pub mod sysv;
pub mod transfer;
pub mod vdso;
pub mod vma;

mod collect;
mod content;
mod dump;
mod parent;
mod read;
mod read_ahead;
mod restore;
mod seat;
mod share;

pub use error::Error;
pub use vdso::Parked;

use criu_images::{Lineage, Store};
use criu_resource::{BoxError, BuiltTree, DumpContext, FrozenTree};
use criu_resource::{RestoreContext, TreeDump, TreeRestore, TreeState};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Mutex;

/// Who knows the files that are mapped, packet sockets among them, and the executables.
pub trait MappedFiles: Send + Sync {
    /// Dump: the id under which `files.img` knows a file of task `pid`. `file` is any descriptor of it
    /// (O_PATH, but readable for a memfd), `link` its name in procfs.
    ///
    /// # Errors
    /// For a file that cannot be found again on restore.
    fn id_of(&self, pid: i32, file: BorrowedFd<'_>, link: &Path) -> Result<u32, BoxError>;

    /// Restore: the descriptor number of criu-rs at which scripts find file `id`, opened with `flags`. It is
    /// filled before they run.
    ///
    /// # Errors
    /// For an id that the images do not have.
    fn number_of(&self, context: &RestoreContext<'_>, id: u32, flags: u32) -> Result<i32, BoxError>;
}

/// What a dump did, for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pages stored of tasks.
    pub pages_written: u64,
    /// Pages stored of shared memory.
    pub shared_pages_written: u64,
    /// Pages of tasks that the parent checkpoint has.
    pub pages_in_parent: u64,
    /// Pages of shared memory that the parent checkpoint has.
    pub shared_pages_in_parent: u64,
}

/// The memory of all tasks of a tree.
pub struct Memory {
    files: Box<dyn MappedFiles>,
    parked: Mutex<Vec<Parked>>,
    counts: Mutex<Counts>,
    server: Option<Mutex<transfer::Client>>,
}

impl Memory {
    /// With someone who knows mapped files.
    pub fn new(files: impl MappedFiles + 'static) -> Self {
        Memory { files: Box::new(files), parked: Mutex::default(), counts: Mutex::default(), server: None }
    }

    /// Restore: tells where the parts of criu-rs's own vDSO wait in every task. Before the first step is
    /// emitted.
    pub fn set_parked(&self, parts: Vec<Parked>) {
        *self.parked.lock().unwrap_or_else(|e| e.into_inner()) = parts;
    }

    /// What the last dump stored.
    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn parked(&self) -> Vec<Parked> {
        self.parked.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn pages_ids(&self) -> PagesIds {
        PagesIds(0)
    }

    /// Sends the pages of the next dump there, instead of storing them.
    pub fn send_to(&mut self, server: transfer::Client) {
        self.server = Some(Mutex::new(server));
    }

    /// Whether pages go to a page server.
    pub fn is_remote(&self) -> bool {
        self.server.is_some()
    }

    /// Stores or sends the pages, but for those that the parent checkpoint has.
    fn store(&self, store: &dyn Store, mut jobs: Vec<pages::Job>) -> Result<(), BoxError> {
        if let Some(server) = &self.server {
            self.count(&jobs);
            return Ok(server.lock().unwrap_or_else(|e| e.into_inner()).send_all(&jobs)?);
        }
        let lineage = Lineage::open(store)?;
        if lineage.is_incremental() {
            parent::compare_all(&lineage, &mut jobs)?;
        }
        self.count(&jobs);
        pages::store_all(store, &jobs)
    }

    fn count(&self, jobs: &[pages::Job]) {
        let sum = |shared: bool, pages: fn(&pages::Job) -> u64| -> u64 {
            let of_kind = |job: &&pages::Job| matches!(job.source, pages::Source::Shared(..)) == shared;
            jobs.iter().filter(of_kind).map(pages).sum()
        };
        let mut counts = self.counts.lock().unwrap_or_else(|e| e.into_inner());
        counts.pages_written += sum(false, pages::Job::pages);
        counts.shared_pages_written += sum(true, pages::Job::pages);
        counts.pages_in_parent += sum(false, pages::Job::pages_in_parent);
        counts.shared_pages_in_parent += sum(true, pages::Job::pages_in_parent);
    }
}

/// Names pages images, from 1 on.
struct PagesIds(u32);

impl PagesIds {
    fn next(&mut self) -> u32 {
        self.0 += 1;
        self.0
    }
}

impl TreeState for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn dump<'t>(
        &'t self,
        tree: &'t FrozenTree<'t>,
        context: &'t DumpContext<'t>,
    ) -> Result<Box<dyn TreeDump + 't>, BoxError> {
        Ok(Box::new(dump::Dump::begin(self, tree, context)?))
    }

    fn restore<'t>(
        &'t self,
        tree: &'t BuiltTree,
        context: &'t RestoreContext<'t>,
    ) -> Result<Box<dyn TreeRestore + 't>, BoxError> {
        Ok(Box::new(restore::Plan::read(self, tree, context)?))
    }
}
