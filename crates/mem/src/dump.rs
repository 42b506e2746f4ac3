//! The dump of a tree's memory: areas and pages are found under freeze, from outside.

use crate::collect::{Collected, TaskMemory};
use crate::error::{Error, Place};
use crate::mm::Question;
use crate::pages::{Job, Source};
use crate::vma::{Area, FileKey};
use crate::{Memory, aio, status};
use criu_images::proto::{MmEntry, VmaEntry};
use criu_images::{Image, Record, RecordSet};
use criu_kernel::Pid;
use criu_kernel::proc::ProcDir;
use criu_resource::{
    Answer, BoxError, BulkData, DumpContext, Fate, FrozenTask, FrozenTree, OWN_IPC_NAMESPACE, TreeDump,
};
use criu_script::Script;
use nix::fcntl::OFlag;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;

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

    fn bulk(&self) -> Option<BulkData<'_>> {
        Some(Box::new(|| {
            let jobs = std::mem::take(&mut *self.jobs.lock().unwrap_or_else(|e| e.into_inner()));
            self.memory.store(self.context.store, jobs)
        }))
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
