//! The dump of a tree's memory: areas and pages are found under freeze, from outside.

use crate::error::{Error, Place};
use crate::mm::{self, Question};
use crate::pages::{self, Job, Run, Source};
use crate::vma::{Area, FileKey};
use crate::{Memory, aio, notes, scan, shmem, status, sysv};
use criu_images::proto::{IpcShmEntry, MmEntry, VmaEntry};
use criu_images::{Image, Record, RecordSet};
use criu_kernel::proc::ProcDir;
use criu_kernel::{Pid, kcmp};
use criu_resource::{
    Answer, BoxError, DumpContext, Fate, FrozenTask, FrozenTree, Life, OWN_IPC_NAMESPACE, TreeDump,
};
use criu_script::Script;
use nix::fcntl::OFlag;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;

/// Everything about one task's memory that is known from outside.
pub(crate) struct TaskMemory {
    pid: i32,
    ns_pid: i32,
    mm: MmEntry,
    areas: Vec<Area>,
    guards: Vec<VmaEntry>,
    runs: Vec<Run>,
    shared: Vec<shmem::Mapping>,
}

/// A dump in progress.
pub(crate) struct Dump<'t> {
    context: &'t DumpContext<'t>,
    memory: &'t Memory,
    tasks: HashMap<i32, TaskMemory>,
    /// Asked for when a task is: by then every resource has started its dump.
    files: Mutex<Files<'t>>,
    shared: Vec<shmem::Object>,
    segments: Vec<IpcShmEntry>,
}

impl<'t> Dump<'t> {
    pub(crate) fn begin(
        memory: &'t Memory,
        tree: &FrozenTree<'_>,
        context: &'t DumpContext<'t>,
    ) -> Result<Self, BoxError> {
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
        let files = Mutex::new(Files { memory, known: HashMap::new() });
        Ok(Dump { context, memory, tasks, files, shared: objects.finish()?, segments })
    }
}

/// Reads the areas of all tasks, several tasks at a time.
fn scan_all(tasks: &[&FrozenTask<'_>], shmem: (u32, u32)) -> Result<Vec<TaskMemory>, BoxError> {
    if tasks.len() < 4 {
        return tasks.iter().map(|task| scan_one(task.pid, task.ns_pid, shmem)).collect();
    }
    let pids: Vec<_> = tasks.iter().map(|task| (task.pid, task.ns_pid)).collect();
    use rayon::prelude::*;
    pids.par_iter().map(|&(pid, ns_pid)| scan_one(pid, ns_pid, shmem)).collect()
}

fn scan_one(pid: i32, ns_pid: i32, shmem: (u32, u32)) -> Result<TaskMemory, BoxError> {
    let proc = ProcDir::open(Pid::from_raw(pid))?;
    let areas = scan::areas(&proc, pid, shmem)?;
    let mut mm = mm::read(&proc)?;
    let rings = areas.iter().map(|area| &area.entry).filter(|entry| status::any(entry, status::AIORING));
    mm.aios = rings.map(aio::entry).collect();
    mm.notes = notes::entries(&areas);
    let (runs, guards) = scan::page_runs(pid, &areas)?;
    Ok(TaskMemory { pid, ns_pid, mm, areas, guards, runs, shared: Vec::new() })
}

impl TaskMemory {
    /// Fills in the mappings of shared memory.
    fn find_shared(&mut self) {
        let entries = self.areas.iter().map(|area| &area.entry);
        let shared = entries.filter(|entry| status::is(entry, status::ANON_SHARED));
        self.shared = shared.map(shmem::Mapping::from).collect();
    }
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

/// Gives mapped files their ids, each file once.
struct Files<'a> {
    memory: &'a Memory,
    known: HashMap<FileKey, u32>,
}

impl Files<'_> {
    /// Fills in the areas, and the executable.
    fn name(&mut self, found: &TaskMemory, mm: &mut MmEntry) -> Result<(), BoxError> {
        let pid = found.pid;
        let proc = ProcDir::open(Pid::from_raw(pid))?;
        let mut previous: Option<(&FileKey, u32)> = None;
        for Area { entry, file, .. } in &found.areas {
            let mut entry = *entry;
            if let Some(key) = file {
                let id = match previous {
                    Some((last, id)) if last == key => id,
                    _ => self.id(&proc, pid, key, &entry)?,
                };
                entry.shmid = id.into();
                previous = Some((key, id));
            }
            mm.vmas.push(entry);
        }
        mm.vmas.extend(&found.guards);
        let exe = proc.open_file("exe", OFlag::O_PATH)?;
        mm.exe_file_id = self.memory.files.id_of(pid, exe.as_fd(), &proc.read_link("exe")?)?;
        Ok(())
    }

    fn id(&mut self, proc: &ProcDir, pid: i32, key: &FileKey, entry: &VmaEntry) -> Result<u32, BoxError> {
        if let Some(id) = self.known.get(key) {
            return Ok(*id);
        }
        let name = format!("map_files/{:x}-{:x}", entry.start, entry.end);
        let file = proc.open_file(name.as_str(), OFlag::O_PATH)?;
        let mode = nix::sys::stat::fstat(&file)?;
        let fits = match mode.st_mode & libc::S_IFMT {
            libc::S_IFREG => true,
            libc::S_IFCHR => mode.st_rdev == libc::makedev(1, 5), // /dev/zero
            libc::S_IFSOCK => status::any(entry, status::SOCKET),
            _ => false,
        };
        if !fits {
            let place = Place { pid, start: entry.start, end: entry.end };
            let what = format!("a mapping of {}, which is no regular file", key.path.display());
            return Err(Error::Unsupported { place, what }.into());
        }
        // A memfd is asked for its seals, which needs more than a path.
        let file = match status::is(entry, status::MEMFD) {
            true => proc.open_file(name.as_str(), OFlag::O_RDONLY)?,
            false => file,
        };
        let id = self.memory.files.id_of(pid, file.as_fd(), Path::new(&key.path))?;
        self.known.insert(key.clone(), id);
        Ok(id)
    }
}

impl TreeDump for Dump<'_> {
    fn ask<'a>(&'a self, task: &'a FrozenTask<'a>, script: &mut Script) -> Result<Answer<'a>, BoxError> {
        let found = self.tasks.get(&task.pid).ok_or("the task was not there when its memory was read")?;
        let mut mm = found.mm.clone();
        self.files.lock().unwrap_or_else(|e| e.into_inner()).name(found, &mut mm)?;
        let question = Question::ask(script);
        Ok(Box::new(move |outcome, images| {
            question.answer(outcome, &mut mm);
            images.records.push(Record::new(Image::Mm, found.ns_pid as u64, &mm));
            Ok(())
        }))
    }

    fn finish(&mut self, records: &mut RecordSet) -> Result<(), BoxError> {
        let namespace = OWN_IPC_NAMESPACE.into();
        records.extend(self.segments.iter().map(|entry| Record::new(Image::IpcnsShm, namespace, entry)));
        let mut jobs = Vec::new();
        let mut ids = self.memory.pages_ids();
        let mut tasks: Vec<_> = self.tasks.values_mut().collect();
        tasks.sort_unstable_by_key(|task| task.ns_pid);
        for task in tasks {
            jobs.push(Job {
                source: Source::Task(task.pid),
                runs: std::mem::take(&mut task.runs),
                image: Image::Pagemap,
                id: task.ns_pid as u64,
                pages_id: ids.next(),
            });
        }
        for object in self.shared.drain(..) {
            let size = object.size.next_multiple_of(pages::PAGE);
            let failed = |source| Error::Shared { shmid: object.shmid, call: "lseek", source };
            jobs.push(Job {
                runs: pages::data_runs(object.file.as_fd(), size).map_err(failed)?,
                source: Source::Shared(object.shmid, object.file),
                image: Image::ShmemPagemap,
                id: object.shmid,
                pages_id: ids.next(),
            });
        }
        self.memory.count(&jobs);
        pages::store_all(self.context.store, jobs)
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        // Nothing was changed anywhere.
        Ok(())
    }
}
