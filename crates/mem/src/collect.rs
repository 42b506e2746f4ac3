//! What a dump stores of a frozen tree's memory: areas, pages, shared objects.

use crate::error::Error;
use crate::pages::{self, Job, Run, Source};
use crate::vma::Area;
use crate::{PagesIds, aio, mm, notes, scan, shmem, status, sysv};
use criu_images::Image;
use criu_images::proto::{IpcShmEntry, MmEntry, VmaEntry};
use criu_kernel::proc::ProcDir;
use criu_kernel::{Pid, kcmp};
use criu_resource::{BoxError, FrozenTask, FrozenTree, Life};
use std::collections::HashMap;
use std::os::fd::AsFd;

/// Everything about one task's memory that is known from outside.
pub(crate) struct TaskMemory {
    pub pid: i32,
    pub ns_pid: i32,
    pub mm: MmEntry,
    pub areas: Vec<Area>,
    pub guards: Vec<VmaEntry>,
    runs: Vec<Run>,
    shared: Vec<shmem::Mapping>,
    /// How far asynchronous I/O had come.
    pub tails: Vec<u32>,
}

/// The memory of a tree.
pub(crate) struct Collected {
    /// By pid.
    pub tasks: HashMap<i32, TaskMemory>,
    pub shared: Vec<shmem::Object>,
    /// System V segments.
    pub segments: Vec<IpcShmEntry>,
}

impl Collected {
    pub(crate) fn of(tree: &FrozenTree<'_>) -> Result<Self, BoxError> {
        let shmem = shmem::device()?;
        let alive: Vec<_> = tree.tasks.iter().filter(|task| !matches!(task.life, Life::Zombie(_))).collect();
        refuse_common_memory(&alive)?;
        let mut scanned = scan_all(&alive, shmem)?;
        shmem::as_files(
            &mut scanned.iter_mut().map(|task| (task.pid, &mut task.areas)).collect::<Vec<_>>(),
            shmem,
        )?;
        let segments =
            sysv::segments(&mut scanned.iter_mut().map(|task| &mut task.areas).collect::<Vec<_>>())?;
        for task in &mut scanned {
            task.find_shared();
        }
        let tasks: HashMap<i32, TaskMemory> = scanned.into_iter().map(|found| (found.pid, found)).collect();
        let mut objects = shmem::Objects::default();
        for task in &alive {
            for mapping in &tasks[&task.pid].shared {
                objects.add(task.pid, mapping)?;
            }
        }
        Ok(Collected { tasks, shared: objects.finish()?, segments })
    }

    /// Takes out the pages, as jobs; `source` says how to read those of a task.
    pub(crate) fn jobs(
        &mut self,
        mut ids: PagesIds,
        source: fn(i32) -> Source,
    ) -> Result<Vec<Job>, BoxError> {
        let mut jobs = Vec::new();
        let mut tasks: Vec<_> = self.tasks.values_mut().collect();
        tasks.sort_unstable_by_key(|task| task.ns_pid);
        for task in tasks {
            let entries = task.areas.iter().map(|area| &area.entry);
            let own = entries.filter(|entry| must_be_stored(entry)).map(|entry| entry.start..entry.end);
            let runs = std::mem::take(&mut task.runs);
            let name = (Image::Pagemap, task.ns_pid as u64);
            let job = Job::new(source(task.pid), runs, name, ids.next());
            jobs.push(Job { own: own.collect(), ..job });
        }
        for object in self.shared.drain(..) {
            let size = object.size.next_multiple_of(pages::PAGE);
            let failed = |source| Error::Shared { shmid: object.shmid, call: "lseek", source };
            let runs = pages::data_runs(object.file.as_fd(), size).map_err(failed)?;
            let source = Source::Shared(object.shmid, object.file);
            jobs.push(Job::new(source, runs, (Image::ShmemPagemap, object.shmid), ids.next()));
        }
        Ok(jobs)
    }
}

/// Reads the areas of all tasks, several tasks at a time.
fn scan_all(tasks: &[&FrozenTask<'_>], shmem: (u32, u32)) -> Result<Vec<TaskMemory>, BoxError> {
    let alone = tasks.len() == 1;
    if tasks.len() < 4 {
        return tasks.iter().map(|task| scan_one(task.pid, task.ns_pid, shmem, alone)).collect();
    }
    let pids: Vec<_> = tasks.iter().map(|task| (task.pid, task.ns_pid)).collect();
    use rayon::prelude::*;
    pids.par_iter().map(|&(pid, ns_pid)| scan_one(pid, ns_pid, shmem, alone)).collect()
}

fn scan_one(pid: i32, ns_pid: i32, shmem: (u32, u32), alone: bool) -> Result<TaskMemory, BoxError> {
    let proc = ProcDir::open(Pid::from_raw(pid))?;
    let mut areas = scan::areas(&proc, pid, shmem)?;
    let mut mm = mm::read(&proc)?;
    let rings = areas.iter().map(|area| &area.entry).filter(|entry| status::any(entry, status::AIORING));
    mm.aios = rings.map(aio::entry).collect();
    let tails = aio::tails(pid, &mm.aios)?;
    let (runs, guards) = scan::page_runs(pid, &areas)?;
    if !alone {
        scan::note_own(&proc, &mut areas, &runs)?;
    }
    mm.notes = notes::entries(&areas);
    Ok(TaskMemory { pid, ns_pid, mm, areas, guards, runs, shared: Vec::new(), tails })
}

impl TaskMemory {
    /// Fills in the mappings of shared memory.
    fn find_shared(&mut self) {
        let entries = self.areas.iter().map(|area| &area.entry);
        let shared = entries.filter(|entry| status::is(entry, status::ANON_SHARED));
        self.shared = shared.map(shmem::Mapping::from).collect();
    }
}

/// Whether the pages of an area cannot be left to a parent checkpoint: the reference restores these from the
/// checkpoint's own pages alone.
fn must_be_stored(entry: &VmaEntry) -> bool {
    status::any(entry, status::AIORING) || entry.flags & status::MAP_HUGETLB != 0
}

/// Two processes that have one address space (CLONE_VM without CLONE_THREAD, vfork) cannot be told apart again.
fn refuse_common_memory(tasks: &[&FrozenTask<'_>]) -> Result<(), BoxError> {
    let mut pids: Vec<Pid> = tasks.iter().map(|task| Pid::from_raw(task.pid)).collect();
    let mut failed = None;
    pids.sort_by(|one, other| {
        kcmp::compare(kcmp::Kind::Vm, *one, *other).unwrap_or_else(|errno| {
            failed = Some(Error::Call {
                pid: one.as_raw(),
                call: "kcmp(KCMP_VM)",
                address: 0,
                source: errno.into(),
            });
            one.cmp(other)
        })
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    for pair in pids.windows(2) {
        if kcmp::same(kcmp::Kind::Vm, pair[0], pair[1])? {
            return Err(Error::CommonMemory { pid: pair[0].as_raw(), other: pair[1].as_raw() }.into());
        }
    }
    Ok(())
}
