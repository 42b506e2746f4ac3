//! Dump: looks at every descriptor of every task.

use super::{Table, TableError, fs, shared};
use crate::locks::Locks;
use crate::observed::{self, Observed};
use crate::{Files, late, sys};
use criu_images::{Image, Record, RecordSet, proto};
use criu_kernel::kcmp::FileIds;
use criu_kernel::{Pid, pidfd};
use criu_resource::{
    Answer, BoxError, BulkData, DumpContext, Fate, FileDump, FrozenTask, FrozenTree, Portion, TreeDump,
};
use criu_script::Script;
use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use rayon::prelude::*;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Descriptors of criu-rs beside those it holds for the tree.
const OWN: usize = 256;
/// How many descriptors are fetched at most before it is asked which of them are equal.
const PART: usize = 1024;
/// So many are worth a second thread.
const MANY: usize = 32;
/// What equal descriptions surely have in common: device, inode, mode, access mode, and the number that
/// fdinfo gives some kinds, which all have one and the same inode.
type Hint = (u64, u64, u32, u32, Option<String>);

/// One open file description.
struct Seen {
    id: u32,
    kind: usize,
    /// Position of the first task that has it.
    task: usize,
    observed: Observed,
    /// Kept as long as there is room for it.
    held: Option<OwnedFd>,
}

impl Seen {
    /// Calls `use_it` with a descriptor of it.
    fn with<T>(
        &self,
        tree: &FrozenTree<'_>,
        use_it: impl FnOnce(&criu_resource::Descriptor<'_>) -> Result<T, BoxError>,
    ) -> Result<T, BoxError> {
        let fetched;
        let fd = match &self.held {
            Some(fd) => fd.as_fd(),
            None => {
                fetched = pidfd::getfd(tree.tasks[self.task].pidfd, self.observed.number)?;
                fetched.as_fd()
            }
        };
        use_it(&self.observed.view(fd, self.id))
    }

    fn error(&self, kind: &'static str) -> impl FnOnce(BoxError) -> TableError {
        let Observed { pid, number, link, .. } = &self.observed;
        let (pid, number, link) = (*pid, *number, link.clone());
        move |source| TableError::Kind { pid, number, link, kind, source }
    }
}

/// A dump of all tables.
pub(super) struct Dump<'t> {
    table: &'t Table,
    context: &'t DumpContext<'t>,
    kinds: Vec<Box<dyn FileDump + 't>>,
    records: RecordSet,
    /// Which description a task (by pid) has at a number.
    ids: HashMap<(i32, i32), u32>,
    /// The numbers of the tables in the images, by the pid of their first holder.
    tables: HashMap<i32, u32>,
    /// For each task the first that has the same table.
    leaders: HashMap<i32, i32>,
    /// Dropped last.
    _reset: Reset<'t>,
}

impl<'t> Dump<'t> {
    pub fn start(
        table: &'t Table,
        tree: &'t FrozenTree<'t>,
        context: &'t DumpContext<'t>,
    ) -> Result<Self, BoxError> {
        table.files.begin(context.options);
        let kinds = table.kinds.iter().map(|kind| kind.dump(context)).collect();
        let mut dump = Dump {
            table,
            context,
            kinds,
            records: RecordSet::new(),
            ids: HashMap::new(),
            leaders: HashMap::new(),
            tables: HashMap::new(),
            _reset: Reset(&table.files),
        };
        let leaders = shared::leaders(tree)?;
        dump.leaders =
            tree.tasks.iter().map(|task| (task.pid, tree.tasks[leaders[task.index]].pid)).collect();
        let limit = sys::raise_descriptor_limit()?;
        let own = criu_kernel::proc::ProcDir::current()?.descriptors()?.len();
        let mut scan = Scan {
            table,
            room: limit.saturating_sub(own + OWN),
            pids: tree.tasks.iter().map(|task| (task.pid, task.ns_pid)).collect(),
            known: FileIds::new(),
            seen: Vec::new(),
            by_id: HashMap::new(),
            locks: Locks::new(context.options.file_locks),
        };
        let mut places = Vec::new();
        for task in tree.tasks.iter().filter(|task| !task.threads.is_empty()) {
            if leaders[task.index] == task.index {
                places.extend(numbers(task)?.into_iter().map(|number| (task.index, number)));
                dump.tables.insert(task.pid, task.index as u32 + 1);
                dump.records.touch(Image::Fdinfo, task.index as u64 + 1);
            }
            let entry = fs::entry(task, &table.files)?;
            dump.records.push(Record::new(Image::Fs, task.ns_pid as u64, &entry));
        }
        let mut places = &places[..];
        while !places.is_empty() {
            // What is fetched is open until it is known to be new or not: not more than there is room for now.
            let (part, rest) = places.split_at(places.len().min(scan.room.clamp(OWN / 2, PART)));
            places = rest;
            for fetched in fetch(tree, part, &scan.pids)? {
                let task = &tree.tasks[fetched.task];
                let slot = scan.descriptor(task, fetched)?;
                dump.ids.insert((task.pid, slot.fd as i32), slot.id);
                dump.records.push(Record::new(Image::Fdinfo, task.index as u64 + 1, &slot));
            }
        }
        dump.lock(&mut scan, tree)?;
        dump.records.extend(scan.locks.entries().map(|lock| Record::new(Image::FileLocks, 0, lock)));
        for file in &scan.seen {
            let name = table.kinds[file.kind].name();
            let entry = file
                .with(tree, |d| {
                    let entry = dump.kinds[file.kind].entry(d, &mut dump.records)?;
                    late::check(&entry, tree)?;
                    Ok(entry)
                })
                .map_err(file.error(name))?;
            dump.records.push(Record::new(Image::Files, 0, &entry));
        }
        Ok(dump)
    }

    /// Locks all descriptions, and those that lie in their queues, and so on.
    fn lock(&mut self, scan: &mut Scan<'_>, tree: &FrozenTree<'_>) -> Result<(), BoxError> {
        let own = criu_kernel::proc::ProcDir::current()?;
        let pid = nix::unistd::getpid().as_raw();
        self.leaders.insert(pid, pid);
        let mut locked = 0;
        while locked < scan.seen.len() {
            for file in &scan.seen[locked..] {
                let name = self.table.kinds[file.kind].name();
                file.with(tree, |d| self.kinds[file.kind].lock(d)).map_err(file.error(name))?;
            }
            locked = scan.seen.len();
            for (receiver, fd) in self.kinds.iter().flat_map(|kind| kind.in_flight()) {
                if let Entry::Vacant(place) = self.ids.entry((pid, fd.as_raw_fd())) {
                    place.insert(scan.in_flight(own.as_fd(), receiver, fd, tree)?);
                }
            }
        }
        Ok(())
    }
}

/// The pass over all descriptors.
struct Scan<'t> {
    table: &'t Table,
    /// How many more descriptors criu-rs can hold.
    room: usize,
    pids: HashMap<i32, i32>,
    known: FileIds<Hint>,
    seen: Vec<Seen>,
    /// Where in `seen` an id is.
    by_id: HashMap<u32, usize>,
    locks: Locks,
}

/// A descriptor of a task, fetched and looked at.
struct Fetched {
    /// The task's position.
    task: usize,
    fd: OwnedFd,
    seen: Observed,
}

/// Fetches descriptors, given by the task's position and the number there; side by side where there are many.
/// `pids` turns ids of criu-rs's pid namespace into the tree's.
fn fetch(
    tree: &FrozenTree<'_>,
    places: &[(usize, i32)],
    pids: &HashMap<i32, i32>,
) -> Result<Vec<Fetched>, TableError> {
    let map = |pid: i32| pids.get(&pid).copied().unwrap_or(pid);
    let one = |buffer: &mut Vec<u8>, &(task, number): &(usize, i32)| {
        let FrozenTask { pid, pidfd, proc, .. } = tree.tasks[task];
        let observe = |source: BoxError| TableError::Observe { pid, number, source };
        let fd =
            pidfd::getfd(pidfd, number).map_err(|errno| observe(format!("pidfd_getfd: {errno}").into()))?;
        let seen = Observed::of(proc, pid, number, fd.as_fd(), &map, buffer)
            .map_err(|error| observe(error.into()))?;
        Ok(Fetched { task, fd, seen })
    };
    if places.len() < MANY {
        let mut buffer = Vec::new();
        return places.iter().map(|place| one(&mut buffer, place)).collect();
    }
    places.par_iter().with_min_len(MANY / 2).map_init(Vec::new, one).collect()
}

impl Scan<'_> {
    fn descriptor(
        &mut self,
        task: &FrozenTask<'_>,
        Fetched { fd, seen, .. }: Fetched,
    ) -> Result<proto::FdinfoEntry, TableError> {
        let (pid, number) = (task.pid, seen.number);
        let observe = |source: BoxError| TableError::Observe { pid, number, source };
        let found = self
            .known
            .insert(hint(&seen), Pid::from_raw(pid), number)
            .map_err(|errno| observe(format!("kcmp: {errno}").into()))?;
        self.locks.note(task.ns_pid, found, number, &seen, fd.as_fd()).map_err(|e| observe(e.into()))?;
        let flags = if seen.cloexec { libc::FD_CLOEXEC as u32 } else { 0 };
        if found.first {
            let room = self.room > 0;
            self.room = self.room.saturating_sub(1);
            self.add(task.index, seen, fd, room)?;
        }
        let file = &self.seen[found.id as usize];
        let kind = self.table.kinds[file.kind].types()[0];
        Ok(proto::FdinfoEntry {
            id: file.id,
            flags,
            r#type: kind as i32,
            fd: number as u32,
            xattr_security_selinux: None,
        })
    }

    /// Remembers a description.
    fn add(&mut self, task: usize, observed: Observed, fd: OwnedFd, hold: bool) -> Result<(), TableError> {
        let id = self.table.files.next_id();
        let kind = self.kind(&observed.view(fd.as_fd(), id))?;
        if self.table.kinds[kind].types().contains(&proto::FdTypes::Packetsk) {
            self.table.files.has_rings(observed.stat.st_ino, id);
        }
        self.by_id.insert(id, self.seen.len());
        self.seen.push(Seen { id, kind, task, observed, held: hold.then_some(fd) });
        Ok(())
    }

    /// The id of a description that is on its way to the description `receiver`. `own` is criu-rs's
    /// directory in procfs, `fd` a duplicate that stays open as long as others are looked at.
    fn in_flight(
        &mut self,
        own: BorrowedFd<'_>,
        receiver: u32,
        fd: BorrowedFd<'_>,
        tree: &FrozenTree<'_>,
    ) -> Result<u32, TableError> {
        let task = self.by_id.get(&receiver).map_or(0, |&index| self.seen[index].task);
        let pid = tree.tasks[task].pid;
        let observe = |source: BoxError| TableError::Observe { pid, number: -1, source };
        let (pids, number) = (&self.pids, fd.as_raw_fd());
        let map = |pid: i32| pids.get(&pid).copied().unwrap_or(pid);
        let seen = Observed::of(own, pid, number, fd, &map, &mut Vec::new())
            .map_err(|error| observe(error.into()))?;
        let found = self
            .known
            .insert(hint(&seen), nix::unistd::getpid(), number)
            .map_err(|errno| observe(format!("kcmp: {errno}").into()))?;
        if found.first {
            if observed::line(&seen.extra, "lock").is_some() {
                return Err(observe("a lock that only a file in flight holds is not supported yet".into()));
            }
            let held = fd.try_clone_to_owned().map_err(|error| observe(error.into()))?;
            self.add(task, Observed { number: -1, ..seen }, held, true)?;
        }
        Ok(self.seen[found.id as usize].id)
    }

    fn kind(&self, descriptor: &criu_resource::Descriptor<'_>) -> Result<usize, TableError> {
        self.table.kinds.iter().position(|kind| kind.claims(descriptor)).ok_or_else(|| {
            TableError::Unsupported {
                pid: descriptor.pid,
                number: descriptor.number,
                link: descriptor.link.to_owned(),
            }
        })
    }
}

fn hint(seen: &Observed) -> Hint {
    let access = seen.flags & (libc::O_ACCMODE | libc::O_PATH) as u32;
    let event = observed::line(&seen.extra, "eventfd-id").map(str::to_owned);
    (seen.stat.st_dev, seen.stat.st_ino, seen.stat.st_mode, access, event)
}

/// The numbers of a task's descriptors, ascending.
fn numbers(task: &FrozenTask<'_>) -> Result<Vec<i32>, TableError> {
    let failed = |errno| TableError::Task { pid: task.pid, call: "readdir", errno };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = Dir::openat(task.proc, "fd", flags, Mode::empty()).map_err(failed)?;
    let mut numbers = Vec::new();
    for entry in dir.iter() {
        let entry = entry.map_err(failed)?;
        numbers.extend(entry.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

impl TreeDump for Dump<'_> {
    fn ask<'a>(&'a self, task: &'a FrozenTask<'a>, _: &mut Script) -> Result<Answer<'a>, BoxError> {
        Ok(Box::new(move |_, images| {
            let table = self.leaders.get(&task.pid).and_then(|leader| self.tables.get(leader));
            images.core.ids.get_or_insert_default().files_id = table.copied().unwrap_or_default();
            Ok(())
        }))
    }

    fn bulk<'a>(&'a self, _: Portion<'a>) -> Option<BulkData<'a>> {
        None
    }

    fn copyable(&self) -> Vec<i32> {
        Vec::new()
    }

    fn finish(&mut self, records: &mut RecordSet) -> Result<(), BoxError> {
        let (ids, leaders) = (&self.ids, &self.leaders);
        let id_of = |pid: i32, number: i32| ids.get(&(*leaders.get(&pid)?, number)).copied();
        for (kind, dump) in self.table.kinds.iter().zip(&mut self.kinds) {
            dump.finish(&id_of, &mut self.records)
                .map_err(|error| -> BoxError { format!("{}: {error}", kind.name()).into() })?;
        }
        self.table.files.drain(&mut self.records, self.context.store)?;
        self.records.touch(Image::Files, 0);
        records.append(std::mem::take(&mut self.records));
        Ok(())
    }

    fn commit(self: Box<Self>, fate: Fate) -> Result<(), BoxError> {
        let Dump { table, kinds, _reset, .. } = *self;
        let mut result = Ok(());
        for (kind, dump) in table.kinds.iter().zip(kinds) {
            let done = dump.commit(fate);
            result = result.and(done.map_err(|error| format!("{}: {error}", kind.name()).into()));
        }
        table.files.commit(fate);
        result
    }
}

/// A dump that ended half-way leaves no names behind.
struct Reset<'t>(&'t Files);

impl Drop for Reset<'_> {
    fn drop(&mut self) {
        self.0.reset();
    }
}
