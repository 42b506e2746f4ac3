//! Reading pages from outside.
//!
//! process_vm_readv(2) is the fastest way for pages that one task alone has. Pages that are shared after
//! fork it would first copy for the task (it pins them, and the kernel then ends the sharing): four times slower
//! where measured, and the task grows. Those, and areas that the task itself cannot read, are read through
//! `/proc/PID/mem`.

use crate::error::Error;
use crate::pages::{PAGE, Run, Source};
use criu_kernel::Pid;
use criu_kernel::memory::{self, RemoteRange};
use nix::errno::Errno;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;

/// In a word of `/proc/PID/pagemap` (Linux 4.2): no other task has the page.
const EXCLUSIVE: u64 = 1 << 56;

/// Reads one source; several workers may do so at once.
pub enum Reader<'a> {
    /// A task's memory.
    Task {
        /// The task.
        pid: i32,
        /// `/proc/PID/mem`
        memory: File,
        /// `/proc/PID/pagemap`
        pagemap: File,
    },
    /// The memory of a task that runs, unless it is gone.
    Running(Option<File>),
    /// A shared memory object.
    Shared {
        /// Its id.
        shmid: u64,
        /// It.
        file: &'a File,
    },
}

impl<'a> Reader<'a> {
    /// Opens what is needed.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(source: &'a Source) -> Result<Self, Error> {
        match source {
            Source::Shared(shmid, file) => Ok(Reader::Shared { shmid: *shmid, file }),
            // The open file is of this memory for ever, whoever has the pid later.
            Source::Running(pid) => Ok(Reader::Running(File::open(format!("/proc/{pid}/mem")).ok())),
            Source::Task(pid) => {
                let pid = *pid;
                let open = |name: &str, call| {
                    let failed = |source| Error::Call { pid, call, address: 0, source };
                    File::open(format!("/proc/{pid}/{name}")).map_err(failed)
                };
                let memory = open("mem", "open(/proc/PID/mem)")?;
                Ok(Reader::Task { pid, memory, pagemap: open("pagemap", "open(/proc/PID/pagemap)")? })
            }
        }
    }

    /// Reads runs, one after another, so that they fill the buffer.
    ///
    /// # Errors
    /// Those of the system calls; [`Error::Unreadable`] for a page that none of them reads.
    pub fn read(&self, runs: &[Run], mut buffer: &mut [u8]) -> Result<(), Error> {
        match self {
            Reader::Shared { shmid, file } => {
                for run in runs {
                    let (part, rest) = buffer.split_at_mut(run.len() as usize);
                    read_object(file, part, run.start).map_err(|source| Error::Shared {
                        shmid: *shmid,
                        call: "pread",
                        source,
                    })?;
                    buffer = rest;
                }
                Ok(())
            }
            Reader::Running(memory) => {
                for run in runs {
                    let (part, rest) = buffer.split_at_mut(run.len() as usize);
                    read_what_is_there(memory.as_ref(), run.start, part);
                    buffer = rest;
                }
                Ok(())
            }
            Reader::Task { pid, memory, pagemap } => {
                for group in runs.chunk_by(|a, b| a.readable == b.readable) {
                    let len: u64 = group.iter().map(Run::len).sum();
                    let (part, rest) = buffer.split_at_mut(len as usize);
                    let direct = group[0].readable && group.iter().all(|run| is_exclusive(pagemap, run));
                    let done = if direct { read_direct(*pid, group, part)? } else { 0 };
                    read_through(*pid, memory, group, done as u64, part)?;
                    buffer = rest;
                }
                Ok(())
            }
        }
    }
}

/// Reads a part of a file; what lies behind its end is zero.
fn read_object(file: &File, mut part: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !part.is_empty() {
        match file.read_at(part, offset)? {
            0 => {
                part.fill(0);
                break;
            }
            done => {
                part = &mut part[done..];
                offset += done as u64;
            }
        }
    }
    Ok(())
}

/// Reads memory that may be unmapped meanwhile, which then counts as zeros.
fn read_what_is_there(memory: Option<&File>, start: u64, buffer: &mut [u8]) {
    let whole = memory.is_some_and(|memory| memory.read_exact_at(buffer, start).is_ok());
    if whole {
        return;
    }
    for (address, page) in (start..).step_by(PAGE as usize).zip(buffer.chunks_mut(PAGE as usize)) {
        if memory.is_none_or(|memory| memory.read_exact_at(page, address).is_err()) {
            page.fill(0);
        }
    }
}

/// Whether no page of the run is shared with another task, as far as the kernel tells. `pagemap` is
/// `/proc/PID/pagemap`.
pub(crate) fn is_exclusive(pagemap: &File, run: &Run) -> bool {
    let mut words = [0; 256 * 8];
    let mut page = run.start / PAGE;
    let end = run.end / PAGE;
    while page < end {
        let part = &mut words[..(end - page).min(256) as usize * 8];
        if pagemap.read_exact_at(part, page * 8).is_err() {
            return false;
        }
        let (found, _) = part.as_chunks();
        if !found.iter().all(|word| u64::from_ne_bytes(*word) & EXCLUSIVE != 0) {
            return false;
        }
        page += found.len() as u64;
    }
    true
}

/// Reads by process_vm_readv; returns how many bytes came.
fn read_direct(pid: i32, runs: &[Run], buffer: &mut [u8]) -> Result<usize, Error> {
    let remote: Vec<RemoteRange> =
        runs.iter().map(|run| RemoteRange { address: run.start, len: run.len() as usize }).collect();
    match memory::read_vectored(Pid::from_raw(pid), &mut [IoSliceMut::new(buffer)], &remote) {
        Ok(done) => Ok(done),
        Err(Errno::EFAULT) => Ok(0),
        Err(errno) => {
            let address = runs[0].start;
            Err(Error::Call { pid, call: "process_vm_readv", address, source: errno.into() })
        }
    }
}

/// Reads through procfs what is left after the first `done` bytes.
fn read_through(
    pid: i32,
    memory: &File,
    runs: &[Run],
    mut done: u64,
    mut buffer: &mut [u8],
) -> Result<(), Error> {
    for run in runs {
        let (part, rest) = buffer.split_at_mut(run.len() as usize);
        buffer = rest;
        let skip = done.min(run.len());
        done -= skip;
        let address = run.start + skip;
        memory.read_exact_at(&mut part[skip as usize..], address).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EIO | libc::EFAULT) | None => Error::Unreadable { pid, address },
                _ => Error::Call { pid, call: "pread(/proc/PID/mem)", address, source },
            }
        })?;
    }
    Ok(())
}
