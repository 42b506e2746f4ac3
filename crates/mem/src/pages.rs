//! From memory to a pages image.
//!
//! Pages keep their place in the image, known before the first byte is read, so that several workers can
//! fill one image. Pages that hold nothing but zeros are left out of the file as holes.

use crate::error::Error;
use crate::read::Reader;
use criu_images::pagemap::{self, Pagemap};
use criu_images::{Image, ImageWriter, Store};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes read and written at once. Not more: a write of a mebibyte makes the page cache take folios of that
/// size, which come from memory that was never used; in a virtual machine that took five times as long as
/// writes of this size, whose folios are recycled ones (measured with dd, 1 GiB: 2,400 against 460 ms).
const BUFFER: usize = 256 << 10;
/// What one worker takes of a large image at a time.
const UNIT: u64 = 16 << 20;
/// From this size on, an image is filled by all workers together.
const LARGE: u64 = 64 << 20;
/// How many workers copy at most; memory bandwidth is shared anyway.
const WORKERS: usize = 4;

/// A range of pages to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First byte: an address, or an offset in a shared memory object.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
    /// Whether the area can be read as such; otherwise only procfs's `mem` reads it.
    pub readable: bool,
}

impl Run {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it has no page.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where pages come from.
pub enum Source {
    /// The memory of a task that stands still.
    Task(i32),
    /// The memory of a task that runs. Pages that are gone meanwhile read as zeros.
    Running(i32),
    /// A shared memory object.
    Shared(u64, File),
}

/// Pages of one source, and the images that they go to.
pub struct Job {
    /// Where they come from.
    pub source: Source,
    /// Which pages, ascending.
    pub runs: Vec<Run>,
    /// Pages that the parent checkpoint has, ascending; they are only mentioned.
    pub in_parent: Vec<Range<u64>>,
    /// Ranges that this checkpoint must store itself, ascending.
    pub own: Vec<Range<u64>>,
    /// [`Image::Pagemap`] or [`Image::ShmemPagemap`].
    pub image: Image,
    /// Its id.
    pub id: u64,
    /// The pages image.
    pub pages_id: u32,
}

impl Job {
    /// All pages of `runs` go to the image `pages_id`; `image` and `id` are those of the pagemap.
    pub fn new(source: Source, runs: Vec<Run>, (image, id): (Image, u64), pages_id: u32) -> Job {
        Job { source, runs, in_parent: Vec::new(), own: Vec::new(), image, id, pages_id }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// How many pages it stores.
    pub fn pages(&self) -> u64 {
        self.bytes() / PAGE
    }

    /// How many pages it leaves to the parent checkpoint.
    pub fn pages_in_parent(&self) -> u64 {
        self.in_parent.iter().map(|range| range.end - range.start).sum::<u64>() / PAGE
    }

    fn pagemap(&self) -> Pagemap {
        let stored = self.runs.iter().map(|run| (run.start, run.end, pagemap::PRESENT));
        let known = self.in_parent.iter().map(|range| (range.start, range.end, pagemap::PARENT));
        let mut all: Vec<_> = stored.chain(known).collect();
        all.sort_unstable();
        let mut entries: Vec<criu_images::proto::PagemapEntry> = Vec::new();
        let mut before = (0, 0);
        for (start, end, flags) in all {
            let pages = (end - start) / PAGE;
            match entries.last_mut() {
                Some(last) if before == (start, flags) => last.nr_pages = Some(pagemap::pages(last) + pages),
                _ => entries.push(pagemap::entry(start, pages, flags)),
            }
            before = (end, flags);
        }
        Pagemap { pages_id: self.pages_id, entries }
    }

    /// Pieces of at most [`UNIT`] bytes, each with its place in the image.
    pub(crate) fn units(&self) -> Vec<(u64, Vec<Run>)> {
        let mut units: Vec<(u64, Vec<Run>)> = Vec::new();
        let (mut offset, mut room) = (0, 0);
        for run in &self.runs {
            let mut start = run.start;
            while start < run.end {
                if room == 0 {
                    units.push((offset, Vec::new()));
                    room = UNIT;
                }
                let len = room.min(run.end - start);
                if let Some((_, runs)) = units.last_mut() {
                    runs.push(Run { start, end: start + len, ..*run });
                }
                (start, offset, room) = (start + len, offset + len, room - len);
            }
        }
        units
    }
}

/// Writes the pagemaps and pages of all jobs.
///
/// # Errors
/// Those of the first job that fails; the images are then incomplete.
pub fn store_all(store: &dyn Store, jobs: &[Job]) -> Result<(), criu_resource::BoxError> {
    let workers = workers();
    let total: u64 = jobs.iter().map(Job::bytes).sum();
    let mut jobs: Vec<&Job> = jobs.iter().collect();
    jobs.sort_by_key(|job| std::cmp::Reverse(job.bytes()));
    let share = LARGE.max(total / workers as u64);
    let large = jobs.iter().take_while(|job| workers > 1 && job.bytes() >= share).count();
    let small = jobs.split_off(large);
    for job in &jobs {
        store_one(store, job, workers, &mut Vec::new())?;
    }
    // A second thread costs more than a few small images.
    let workers = if total < (4 << 20) && small.len() < 16 { 1 } else { workers.min(small.len()) };
    let mut queue = small.into_iter();
    if workers <= 1 {
        let mut buffer = Vec::new();
        return queue.try_for_each(|job| store_one(store, job, 1, &mut buffer));
    }
    let queue = Mutex::new(queue);
    in_parallel(workers, || {
        let mut buffer = Vec::new();
        loop {
            let job = queue.lock().unwrap_or_else(|e| e.into_inner()).next();
            match job {
                Some(job) => store_one(store, job, 1, &mut buffer)?,
                None => return Ok(()),
            }
        }
    })
}

/// How many workers this machine is good for.
pub(crate) fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS)
}

/// Runs `work` on several threads; the first error counts.
pub(crate) fn in_parallel<E: Send>(workers: usize, work: impl Fn() -> Result<(), E> + Sync) -> Result<(), E> {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..workers).map(|_| scope.spawn(&work)).collect();
        let own = work();
        others.into_iter().fold(own, |result, other| match other.join() {
            Ok(more) => result.and(more),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

fn store_one(
    store: &dyn Store,
    job: &Job,
    workers: usize,
    buffer: &mut Vec<u8>,
) -> Result<(), criu_resource::BoxError> {
    job.pagemap().write(store, job.image, job.id)?;
    let name = Image::Pages.file_name(job.pages_id.into());
    let mut writer = store.create(&name)?;
    let units = job.units();
    let reader = Reader::open(&job.source)?;
    match writer.as_fd().map(|fd| fd.try_clone_to_owned()).transpose()? {
        None => {
            for (_, runs) in &units {
                copy(&reader, runs, buffer, &mut |_, bytes| {
                    writer.write_all(bytes).map_err(|source| Error::Write { image: name.clone(), source })
                })?;
            }
        }
        Some(fd) => {
            let file = File::from(fd);
            let failed = |source| Error::Write { image: name.clone(), source };
            let last = std::sync::atomic::AtomicUsize::new(0);
            let work = |buffer: &mut Vec<u8>| -> Result<(), Error> {
                loop {
                    let next = last.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some((offset, runs)) = units.get(next) else { return Ok(()) };
                    let mut at = *offset;
                    copy(&reader, runs, buffer, &mut |_, bytes| {
                        write_sparsely(&file, bytes, at).map_err(failed)?;
                        at += bytes.len() as u64;
                        Ok(())
                    })?;
                }
            };
            if workers > 1 {
                in_parallel(workers, || work(&mut Vec::new()))?;
            } else {
                work(buffer)?;
            }
            file.set_len(job.bytes()).map_err(failed)?;
        }
    }
    Ok(ImageWriter::finish(writer)?)
}

/// Writes all but the pages that are zero throughout; the file must be new.
pub(crate) fn write_sparsely(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    let page = PAGE as usize;
    let mut rest = 0;
    for at in (0..bytes.len()).step_by(page) {
        if is_zero(&bytes[at..(at + page).min(bytes.len())]) {
            file.write_all_at(&bytes[rest..at], offset + rest as u64)?;
            rest = at + page;
        }
    }
    match bytes.get(rest..) {
        Some(tail) => file.write_all_at(tail, offset + rest as u64),
        None => Ok(()),
    }
}

fn is_zero(page: &[u8]) -> bool {
    // Nearly all pages with content show it in their first words.
    page.iter().take(64).all(|byte| *byte == 0)
        && page.chunks(256).all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
}

/// Takes pieces of runs and the bytes in them.
type Give<'a> = dyn FnMut(&[Run], &[u8]) -> Result<(), Error> + 'a;

/// Reads the runs, a buffer at a time, and gives the bytes on, with the pieces of runs that they are.
pub(crate) fn copy(
    reader: &Reader<'_>,
    runs: &[Run],
    buffer: &mut Vec<u8>,
    give: &mut Give<'_>,
) -> Result<(), Error> {
    let total = runs.iter().map(Run::len).sum::<u64>().min(BUFFER as u64) as usize;
    buffer.resize(buffer.len().max(total), 0);
    let mut batch: Vec<Run> = Vec::new();
    let mut filled = 0;
    for run in runs {
        let mut start = run.start;
        while start < run.end {
            let len = (run.end - start).min(BUFFER as u64 - filled);
            batch.push(Run { start, end: start + len, ..*run });
            (start, filled) = (start + len, filled + len);
            if filled == BUFFER as u64 {
                reader.read(&batch, &mut buffer[..BUFFER])?;
                give(&batch, &buffer[..BUFFER])?;
                batch.clear();
                filled = 0;
            }
        }
    }
    if filled > 0 {
        let bytes = &mut buffer[..filled as usize];
        reader.read(&batch, bytes)?;
        give(&batch, bytes)?;
    }
    Ok(())
}

/// The ranges of a shared memory object that hold data, found by SEEK_DATA and SEEK_HOLE.
///
/// # Errors
/// Those of lseek(2).
pub fn data_runs(file: BorrowedFd<'_>, size: u64) -> std::io::Result<Vec<Run>> {
    let seek = |offset: u64, whence| {
        // SAFETY: lseek takes numbers only.
        let at = unsafe { libc::lseek(file.as_raw_fd(), offset as i64, whence) };
        nix::errno::Errno::result(at).map(|at| at as u64)
    };
    let mut runs = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(at, libc::SEEK_DATA) {
            Ok(start) => start,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        // An object need not end with a page.
        at = seek(start, libc::SEEK_HOLE)?.next_multiple_of(PAGE).min(size);
        if start < at {
            runs.push(Run { start, end: at, readable: true });
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests;
