//! What a dump need not store, because the parent checkpoint has it.
//!
//! Found by comparing content: every page is read, but only those are written that differ. That is sound
//! whatever happened between the two dumps and whoever made the first, works on every kernel, and leaves nothing
//! in the tasks to watch their memory.

use crate::pages::{self, Job, PAGE, Run};
use crate::read::Reader;
use crate::shmem;
use criu_images::lineage::Part;
use criu_images::{Lineage, Pages};
use criu_resource::BoxError;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes compared at once.
const CHUNK: u64 = 256 << 10;

/// Takes the pages out of the jobs that the parent of the lineage has as they are.
///
/// # Errors
/// Those of reading the memory and the parent's images.
pub(crate) fn compare_all(lineage: &Lineage<'_>, jobs: &mut [Job]) -> Result<(), BoxError> {
    let mut units: Vec<Unit> = Vec::new();
    for (job, of) in jobs.iter().enumerate() {
        let parent = match lineage.pages_from(1, of.image, of.id) {
            Err(error) if error.is_missing() => continue, // a task or object that was not there
            parent => parent?,
        };
        for (_, runs) in of.units() {
            let pieces = common(&runs, &of.own, &parent);
            if !pieces.is_empty() {
                units.push(Unit { job, pieces, parent: parent.clone(), equal: Vec::new() });
            }
        }
    }
    let next = AtomicUsize::new(0);
    let units: Vec<Mutex<Unit>> = units.into_iter().map(Mutex::new).collect();
    pages::in_parallel(pages::workers().min(units.len()), || -> Result<(), BoxError> {
        let mut buffers = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
        while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut unit = unit.lock().unwrap_or_else(|e| e.into_inner());
            let reader = Reader::open(&jobs[unit.job].source)?;
            unit.compare(&reader, lineage, &mut buffers)?;
        }
        Ok(())
    })?;
    for unit in units {
        let unit = unit.into_inner().unwrap_or_else(|e| e.into_inner());
        jobs[unit.job].in_parent.extend(unit.equal);
    }
    for job in jobs {
        job.runs = without(&job.runs, &job.in_parent);
    }
    Ok(())
}

/// A piece of memory and its place in the whole of the parent's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    run: Run,
    at: u64,
}

/// What one worker compares at a time.
struct Unit {
    job: usize,
    pieces: Vec<Piece>,
    parent: Pages,
    equal: Vec<Range<u64>>,
}

impl Unit {
    fn compare(
        &mut self,
        reader: &Reader<'_>,
        lineage: &Lineage<'_>,
        (mine, theirs): &mut (Vec<u8>, Vec<u8>),
    ) -> Result<(), BoxError> {
        let mut files: Vec<Option<File>> = Vec::new();
        let mut pieces = &self.pieces[..];
        while !pieces.is_empty() {
            let mut len = 0;
            let count = pieces.iter().take_while(|piece| {
                len += piece.run.len();
                len <= CHUNK
            });
            let (batch, rest) = pieces.split_at(count.count());
            pieces = rest;
            let runs: Vec<Run> = batch.iter().map(|piece| piece.run).collect();
            let len = runs.iter().map(Run::len).sum::<u64>() as usize;
            reader.read(&runs, &mut mine[..len])?;
            let mut filled = 0;
            for part in parts(&self.parent, batch) {
                let file = file_of(&mut files, &self.parent, lineage, part.level)?;
                let slot = &mut theirs[filled..filled + part.len as usize];
                file.read_exact_at(slot, part.offset).map_err(|source| {
                    criu_images::Error::io(self.parent.name(part.level), "read the parent checkpoint", source)
                })?;
                filled += part.len as usize;
            }
            let addresses = runs.iter().flat_map(|run| (run.start..run.end).step_by(PAGE as usize));
            let pages = mine[..len].chunks(PAGE as usize).zip(theirs[..len].chunks(PAGE as usize));
            for (address, (mine, theirs)) in addresses.zip(pages) {
                if mine == theirs {
                    push(&mut self.equal, address);
                }
            }
        }
        Ok(())
    }
}

fn push(ranges: &mut Vec<Range<u64>>, page: u64) {
    match ranges.last_mut() {
        Some(last) if last.end == page => last.end += PAGE,
        _ => ranges.push(page..page + PAGE),
    }
}

/// The parts of the parent's images that hold a batch, neighbours joined.
fn parts(parent: &Pages, batch: &[Piece]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for part in batch.iter().flat_map(|piece| parent.parts(piece.at, piece.run.len())) {
        match parts.last_mut() {
            Some(last) if last.level == part.level && last.offset + last.len == part.offset => {
                last.len += part.len;
            }
            _ => parts.push(part),
        }
    }
    parts
}

fn file_of<'f>(
    files: &'f mut Vec<Option<File>>,
    parent: &Pages,
    lineage: &Lineage<'_>,
    level: usize,
) -> Result<&'f File, BoxError> {
    if files.len() <= level {
        files.resize_with(level + 1, || None);
    }
    let slot = &mut files[level];
    match slot {
        Some(file) => Ok(file),
        None => {
            let file = shmem::file_of(&mut *parent.open(lineage, level)?)?;
            Ok(slot.insert(file.into()))
        }
    }
}

/// The pieces of at most [`CHUNK`] bytes that the parent has too, without those that must be stored anew.
fn common(runs: &[Run], own: &[Range<u64>], parent: &Pages) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for run in without(runs, own) {
        let first = parent.extents.partition_point(|extent| extent.range.end <= run.start);
        for extent in parent.extents[first..].iter().take_while(|extent| extent.range.start < run.end) {
            let Some(offset) = extent.offset else { continue };
            let mut start = run.start.max(extent.range.start);
            let end = run.end.min(extent.range.end);
            while start < end {
                let next = end.min(start + CHUNK);
                let at = offset + (start - extent.range.start);
                pieces.push(Piece { run: Run { start, end: next, ..run }, at });
                start = next;
            }
        }
    }
    pieces
}

/// Runs without the ranges; both ascend.
pub(crate) fn without(runs: &[Run], ranges: &[Range<u64>]) -> Vec<Run> {
    let mut left = Vec::with_capacity(runs.len());
    for run in runs {
        let mut start = run.start;
        let first = ranges.partition_point(|range| range.end <= run.start);
        for range in ranges[first..].iter().take_while(|range| range.start < run.end) {
            if start < range.start {
                left.push(Run { start, end: range.start, ..*run });
            }
            start = range.end;
        }
        if start < run.end {
            left.push(Run { start, ..*run });
        }
    }
    left
}

#[cfg(test)]
mod tests;
