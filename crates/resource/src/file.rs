//! Traits for one kind of open file.
//!
//! An open file description may have many descriptors in many tasks. The descriptor table (in
//! `criu-fds`) finds that out, gives each description an id, and asks the kinds, in order, whose it is.

use crate::{BoxError, DumpContext, RestoreContext, Slot as TaskSlot, frozen::Fate};
use criu_images::{RecordSet, proto};
use criu_script::Script;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// One open file description, seen through one of its descriptors.
pub struct Descriptor<'a> {
    /// A duplicate that criu-rs itself holds: position, flags and queues are those of the original.
    pub fd: BorrowedFd<'a>,
    /// The id under which the images know the description. Unique in the dump, not zero.
    pub id: u32,
    /// A task that holds it, or holds the socket in whose queue it lies, in criu-rs's pid namespace.
    pub pid: i32,
    /// Its number there; -1 for one that lies in a queue.
    pub number: i32,
    /// Where `/proc/PID/fd/N` points.
    pub link: &'a Path,
    /// File position.
    pub pos: u64,
    /// Open flags: access mode and status, without O_CLOEXEC.
    pub flags: u32,
    /// Mount id.
    pub mnt_id: i32,
    /// The lines of fdinfo behind the common ones.
    pub extra: &'a str,
    /// Device of the inode, as `st_dev` has it.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Device a special file stands for.
    pub rdev: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// Number of names; 0 for a deleted file.
    pub nlink: u64,
    /// Owner of the file description as F_GETOWN_EX and F_GETSIG have it.
    pub fown: proto::FownEntry,
}

/// Where a task has a description: `number` in task number `task` of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// Position in the tree.
    pub task: usize,
    /// Descriptor number.
    pub number: i32,
}

/// One kind of open file. The command line holds the list of all kinds.
pub trait FileKind: Send + Sync {
    /// Name for messages: `eventfd`.
    fn name(&self) -> &'static str;
    /// The values of the image field `type` that are of this kind.
    fn types(&self) -> &'static [proto::FdTypes];
    /// Whether the description is of this kind. Looks only at the descriptor.
    fn claims(&self, descriptor: &Descriptor<'_>) -> bool;
    /// Starts a dump.
    fn dump<'t>(&'t self, context: &'t DumpContext<'t>) -> Box<dyn FileDump + 't>;
    /// Starts a restore: reads and checks the kind's own images, no side effects.
    fn restore<'t>(&'t self, context: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError>;
}

impl<K: FileKind + ?Sized> FileKind for &K {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn types(&self) -> &'static [proto::FdTypes] {
        (**self).types()
    }

    fn claims(&self, descriptor: &Descriptor<'_>) -> bool {
        (**self).claims(descriptor)
    }

    fn dump<'t>(&'t self, context: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        (**self).dump(context)
    }

    fn restore<'t>(&'t self, context: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        (**self).restore(context)
    }
}

/// A dump of all descriptions of one kind. Dropped without [`FileDump::commit`], it undoes its locks.
pub trait FileDump {
    /// First pass over all descriptions: says whether it can be dumped, and keeps it from changing where
    /// freezing its holders is not enough (a TCP connection has a peer).
    fn lock(&mut self, descriptor: &Descriptor<'_>) -> Result<(), BoxError>;
    /// What was found in queues by [`FileDump::lock`] (SCM_RIGHTS, see unix(7)): the id of the receiving
    /// description, and a duplicate that stays open until [`FileDump::finish`]. There `id_of` knows it by
    /// criu-rs's own pid.
    fn in_flight(&self) -> Vec<(u32, BorrowedFd<'_>)> {
        Vec::new()
    }
    /// Second pass: the entry for `files.img`; entries of other images go to `records`.
    fn entry(
        &mut self,
        descriptor: &Descriptor<'_>,
        records: &mut RecordSet,
    ) -> Result<proto::FileEntry, BoxError>;
    /// All descriptions of all kinds have an entry: what refers to others (epoll targets, peers) or is
    /// stored once for several descriptions (pipe contents). `id_of` tells the id of the description
    /// that a task (criu-rs's pid) has at a number.
    fn finish(
        &mut self,
        id_of: &dyn Fn(i32, i32) -> Option<u32>,
        records: &mut RecordSet,
    ) -> Result<(), BoxError>;
    /// The images are complete: keeps or undoes locks, as the tree's fate demands.
    fn commit(self: Box<Self>, fate: Fate) -> Result<(), BoxError>;
}

/// A restore of all descriptions of one kind.
pub trait FileRestore {
    /// Checks an entry and remembers what it needs. No side effects.
    fn plan(&mut self, entry: &proto::FileEntry) -> Result<(), BoxError>;
    /// What lies in queues: the ids of the receiving description and of the one that it is to receive, as far
    /// as the kind's own images tell.
    fn in_flight(&self) -> Vec<(u32, u32)> {
        Vec::new()
    }
    /// Opens the description. Called in the order of the images. The flags of the entry are set.
    fn open(&mut self, entry: &proto::FileEntry) -> Result<OwnedFd, BoxError>;
    /// All descriptions of all kinds are open: peers, queues. `fd_of` finds a description by id.
    fn connect(&mut self, fd_of: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), BoxError>;
    /// Adds what only a task that holds the description at `slot` can do, when all its descriptors are
    /// in place (epoll targets, controlling terminal). `slot` is the description's first one; for one that
    /// lies in a queue, a number for the time being in a task that has the receiving socket.
    fn steps(
        &mut self,
        entry: &proto::FileEntry,
        slot: TaskSlot,
        script: &mut Script,
    ) -> Result<(), BoxError>;
    /// All tasks stand still, complete: opens connections again.
    fn finish(&mut self) -> Result<(), BoxError>;
}
