//! The dump of a tree's memory: areas and pages are found under freeze, from outside.

use crate::collect::{Collected, TaskMemory};
use crate::error::{Error, Place};
use crate::headroom::headroom;
use crate::mm::Question;
use crate::pages::{Job, Source};
use crate::vma::{Area, FileKey};
use crate::{Memory, aio, status};
use criu_images::proto::{MmEntry, VmaEntry};
use criu_images::{Image, Record, RecordSet};
use criu_kernel::Pid;
use criu_kernel::proc::ProcDir;
use criu_resource::{
    Answer, BoxError, BulkData, Copies, DumpContext, Fate, FrozenTask, FrozenTree, OWN_IPC_NAMESPACE,
    Portion, TreeDump,
};
use criu_script::Script;
use nix::fcntl::OFlag;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;

/// Smaller memory is written sooner than copied.
const WORTH_A_COPY: u64 = 8 << 20;

/// A dump in progress.
pub(crate) struct Dump<'t> {
    context: &'t DumpContext<'t>,
    memory: &'t Memory,
    found: Collected,
    /// All pages to be stored, until they are.
    jobs: Mutex<Vec<Job>>,
    /// Asked for when a task is: by then every resource has started its dump.
    files: Mutex<Files<'t>>,
}

impl<'t> Dump<'t> {
    pub(crate) fn begin(
        memory: &'t Memory,
        tree: &FrozenTree<'_>,
        context: &'t DumpContext<'t>,
    ) -> Result<Self, BoxError> {
        let mut found = Collected::of(tree)?;
        let jobs = Mutex::new(found.jobs(memory.pages_ids(), Source::Task)?);
        let files = Mutex::new(Files { memory, known: HashMap::new() });
        Ok(Dump { context, memory, found, jobs, files })
    }
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

impl Dump<'_> {
    /// Why a task's memory cannot be written from a copy: something of it would not be there, or there is no room
    /// for so many bytes.
    fn refusal(&self, pid: i32, bytes: u64) -> Option<String> {
        let left_out = 1 << libc::MADV_DONTFORK | 1 << libc::MADV_WIPEONFORK;
        let areas = &self.found.tasks[&pid].areas;
        // A copy of huge pages would take them away from the task that has reserved them.
        let special = areas.iter().find(|Area { entry, .. }| {
            status::any(entry, status::AIORING)
                || status::is_private(entry)
                    && (entry.madv() & left_out != 0 || entry.flags & status::MAP_HUGETLB != 0)
        });
        if let Some(Area { entry, .. }) = special {
            return Some(format!("fork does not copy {:#x}-{:#x}", entry.start, entry.end));
        }
        match headroom(pid) {
            Ok(room) if room >= bytes => None,
            Ok(room) => Some(format!("a copy may take {bytes} bytes, and {room} are left")),
            Err(error) => Some(error.to_string()),
        }
    }

    fn take_jobs(&self, portion: Portion<'_>) -> Vec<Job> {
        let mut jobs = self.jobs.lock().unwrap_or_else(|e| e.into_inner());
        let copy = |job: &Job, copies: &Copies| match job.source {
            Source::Task(pid) => copies.get(&pid).copied(),
            _ => None,
        };
        match portion {
            Portion::All => std::mem::take(&mut *jobs),
            Portion::Without(copies) => jobs.extract_if(.., |job| copy(job, copies).is_none()).collect(),
            Portion::Of(copies) => {
                let of_copies = jobs.drain(..).filter_map(|job| {
                    let source = Source::Task(copy(&job, copies)?);
                    Some(Job { source, ..job })
                });
                of_copies.collect()
            }
        }
    }
}

impl TreeDump for Dump<'_> {
    fn ask<'a>(&'a self, task: &'a FrozenTask<'a>, script: &mut Script) -> Result<Answer<'a>, BoxError> {
        let found =
            self.found.tasks.get(&task.pid).ok_or("the task was not there when its memory was read")?;
        let mut mm = found.mm.clone();
        self.files.lock().unwrap_or_else(|e| e.into_inner()).name(found, &mut mm)?;
        let question = Question::ask(script);
        Ok(Box::new(move |outcome, images| {
            question.answer(outcome, &mut mm);
            images.records.push(Record::new(Image::Mm, found.ns_pid as u64, &mm));
            Ok(())
        }))
    }

    fn bulk<'a>(&'a self, portion: Portion<'a>) -> Option<BulkData<'a>> {
        Some(Box::new(move || self.memory.store(self.context.store, self.take_jobs(portion))))
    }

    fn copyable(&self) -> Vec<i32> {
        if self.memory.server.is_some() {
            return Vec::new(); // takes all pages in one go
        }
        let jobs = self.jobs.lock().unwrap_or_else(|e| e.into_inner());
        let of_task = |job: &Job| match job.source {
            Source::Task(pid) if job.bytes() >= WORTH_A_COPY => Some((pid, job.bytes())),
            _ => None,
        };
        let mut taken = 0;
        let large = jobs.iter().filter_map(of_task).filter(|&(pid, bytes)| {
            let refusal = self.refusal(pid, taken + bytes);
            match &refusal {
                Some(why) => tracing::warn!("pid {pid} stands still while its memory is written: {why}"),
                None => taken += bytes,
            }
            refusal.is_none()
        });
        large.map(|(pid, _)| pid).collect()
    }

    fn finish(&mut self, records: &mut RecordSet) -> Result<(), BoxError> {
        let namespace = OWN_IPC_NAMESPACE.into();
        let segments = &self.found.segments;
        records.extend(segments.iter().map(|entry| Record::new(Image::IpcnsShm, namespace, entry)));
        for task in self.found.tasks.values() {
            aio::refuse_progress(task.pid, &task.mm.aios, &task.tails)?;
        }
        Ok(())
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        // Nothing was changed anywhere.
        Ok(())
    }
}
