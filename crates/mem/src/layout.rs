//! Areas and their content as script steps.
//!
//! Areas are mapped at their final addresses. What has content is mapped writable, filled by few preadv(2)
//! calls straight from the pages image, and gets its final protection afterwards. Neighbours that are alike
//! are mapped together, and the kernel takes them apart again as their protections change.

use crate::error::Error;
use crate::status;
use criu_images::pagemap::Extent;
use criu_images::proto::VmaEntry;
use criu_script::{Check, Script};
use std::ops::Range;

const READ_WRITE: u32 = (libc::PROT_READ | libc::PROT_WRITE) as u32;
const WRITE: u32 = libc::PROT_WRITE as u32;
const ANONYMOUS: u32 = libc::MAP_ANONYMOUS as u32;
const LOCKED: u32 = libc::MAP_LOCKED as u32;
const GROWSDOWN: u32 = libc::MAP_GROWSDOWN as u32;
/// The kernel's limit for one vector.
const IOV_MAX: usize = 1024;
/// Bytes of one read: the kernel's limit is 2 GiB less a page.
const READ_MAX: u64 = 1 << 30;
/// Smaller pieces are not worth a system call.
const POPULATE_MIN: u64 = 1 << 20;
/// madvise(2), Linux 6.13.
const MADV_GUARD_INSTALL: i32 = 102;

/// Why pages are not in the images.
pub const LAZY: &str =
    "not supported: pages that were left to a server of lazy pages; dump without --lazy-pages";

/// Content of an area: `len` bytes at `offset` of the pages image belong to address `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Position of the area in the list.
    pub area: usize,
    /// Address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Place in the pages image, in bytes.
    pub offset: u64,
}

/// Splits the stored ranges along the areas (both ascending).
///
/// # Errors
/// [`Error::Image`] for pages outside of all areas, for such that are not in the images, and for pages of
/// areas that cannot have any.
pub fn pieces(image: &str, areas: &[VmaEntry], extents: &[Extent]) -> Result<Vec<Piece>, Error> {
    let mut pieces = Vec::new();
    let mut area = 0;
    for extent in extents {
        let Some(mut offset) = extent.offset else {
            return Err(Error::image(image, LAZY));
        };
        let mut start = extent.range.start;
        while start < extent.range.end {
            while areas.get(area).is_some_and(|area| area.end <= start) {
                area += 1;
            }
            let Some(found) = areas.get(area).filter(|area| area.start <= start) else {
                return Err(Error::image(image, format!("the page at {start:#x} is in no area")));
            };
            if !status::is_private(found) && !status::any(found, status::VDSO | status::AIORING) {
                return Err(Error::image(
                    image,
                    format!("the page at {start:#x} is in an area without pages"),
                ));
            }
            let len = extent.range.end.min(found.end) - start;
            pieces.push(Piece { area, start, len, offset });
            (start, offset) = (start + len, offset + len);
        }
    }
    Ok(pieces)
}

/// The protection while an area is filled.
fn filling(entry: &VmaEntry, has_content: bool) -> u32 {
    match has_content && entry.prot & WRITE == 0 {
        true if status::is_file(entry) => entry.prot | READ_WRITE,
        true => READ_WRITE,
        false => entry.prot,
    }
}

/// One mmap(2).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping {
    range: Range<u64>,
    prot: u32,
    flags: u32,
    fd: i32,
    offset: u64,
}

/// Adds steps that map areas (ascending). `has_content` says which are filled afterwards, `fd_of` where
/// the file of an area is open.
///
/// # Errors
/// Those of `fd_of`.
pub fn map_steps<'a, E>(
    areas: impl IntoIterator<Item = (usize, &'a VmaEntry)>,
    has_content: &dyn Fn(usize) -> bool,
    fd_of: &mut dyn FnMut(&VmaEntry) -> Result<i32, E>,
    script: &mut Script,
) -> Result<(), E> {
    let mut pending: Option<Mapping> = None;
    for (index, entry) in areas {
        let plain = status::is(entry, status::ANON_PRIVATE) && entry.flags & GROWSDOWN == 0;
        let mut flags = entry.flags & !LOCKED;
        let fd = if status::any(entry, status::ANON_PRIVATE) { -1 } else { fd_of(entry)? };
        if fd >= 0 {
            flags &= !ANONYMOUS;
        }
        let mapping = Mapping {
            range: entry.start..entry.end,
            prot: filling(entry, has_content(index)),
            flags,
            fd,
            offset: if fd >= 0 { entry.pgoff } else { 0 },
        };
        match &mut pending {
            Some(last)
                if plain
                    && last.range.end == entry.start
                    && (last.prot, last.flags, last.fd) == (mapping.prot, flags, -1) =>
            {
                last.range.end = entry.end;
            }
            pending => {
                if let Some(done) = pending.replace(mapping) {
                    map_step(&done, script);
                }
            }
        }
    }
    if let Some(last) = pending {
        map_step(&last, script);
    }
    Ok(())
}

fn map_step(mapping: &Mapping, script: &mut Script) {
    let Mapping { range, prot, flags, fd, offset } = mapping;
    // Nothing may be there yet; if something is, the restore fails here rather than lose it.
    let flags = flags | libc::MAP_FIXED_NOREPLACE as u32;
    let args = [
        range.start.into(),
        (range.end - range.start).into(),
        (*prot).into(),
        flags.into(),
        (*fd).into(),
        (*offset).into(),
    ];
    script.syscall(libc::SYS_mmap, args).check(Check::Eq(range.start as i64));
}

/// Adds steps that read pieces (ascending, also in the image) from the pages image open at `number`.
pub fn fill_steps(pieces: impl IntoIterator<Item = Piece>, number: i32, script: &mut Script) {
    let mut vector: Vec<u64> = Vec::new();
    let (mut first, mut total) = (0, 0);
    let mut flush = |vector: &mut Vec<u64>, first: u64, total: u64| {
        if !vector.is_empty() {
            let count = vector.len() / 2;
            let data = script.words(vector);
            script
                .syscall(libc::SYS_preadv, [number.into(), data.into(), count.into(), first.into(), 0.into()])
                .check(Check::Eq(total as i64));
            vector.clear();
        }
    };
    for Piece { mut start, mut len, mut offset, .. } in pieces {
        while len > 0 {
            let is_next = !vector.is_empty() && first + total == offset && total < READ_MAX;
            let touches = is_next && vector[vector.len() - 2] + vector[vector.len() - 1] == start;
            if !is_next || (!touches && vector.len() / 2 == IOV_MAX) {
                flush(&mut vector, first, total);
                (first, total) = (offset, 0);
            }
            let part = len.min(READ_MAX - total);
            match vector.last_mut() {
                Some(last) if touches => *last += part,
                _ => vector.extend([start, part]),
            }
            (start, len, offset, total) = (start + part, len - part, offset + part, total + part);
        }
    }
    flush(&mut vector, first, total);
}

/// Adds steps that get memory for large anonymous pieces (ascending) at once, rather than fault by fault while
/// they are read: a fifth less time where measured. Huge pages would be faster still where memory is
/// not fragmented, and many times slower where it is. MADV_POPULATE_WRITE, Linux 5.14; without it, the
/// faults come.
pub fn populate_steps(areas: &[VmaEntry], pieces: &[Piece], script: &mut Script) {
    let anonymous = |piece: &&Piece| status::is(&areas[piece.area], status::ANON_PRIVATE);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for Piece { start, len, .. } in pieces.iter().filter(anonymous) {
        match ranges.last_mut() {
            Some(last) if last.end == *start => last.end += len,
            _ => ranges.push(*start..start + len),
        }
    }
    let large = ranges.into_iter().filter(|range| range.end - range.start >= POPULATE_MIN);
    let calls = large.map(|range| (range, libc::MADV_POPULATE_WRITE as u32));
    on_ranges(libc::SYS_madvise, calls, Check::Any, script);
}

/// A system call on a range, as `mprotect` and `madvise` have it, neighbours joined.
fn on_ranges(nr: i64, calls: impl Iterator<Item = (Range<u64>, u32)>, check: Check, script: &mut Script) {
    let mut pending: Option<(Range<u64>, u32)> = None;
    let mut emit = |(range, value): (Range<u64>, u32)| {
        let args = [range.start.into(), (range.end - range.start).into(), value.into()];
        script.syscall(nr, args).check(check);
    };
    for (range, value) in calls {
        match &mut pending {
            Some((last, same)) if last.end == range.start && *same == value => last.end = range.end,
            pending => {
                if let Some(done) = pending.replace((range, value)) {
                    emit(done);
                }
            }
        }
    }
    if let Some(last) = pending {
        emit(last);
    }
}

/// Adds steps for advice that counts while pages come in: whether they may be huge.
pub fn early_advice_steps(areas: &[&VmaEntry], script: &mut Script) {
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE] {
        advise(areas.iter().copied(), advice, script);
    }
}

fn advise<'a>(areas: impl Iterator<Item = &'a VmaEntry>, advice: i32, script: &mut Script) {
    let advised = areas.filter(|entry| !status::is_special(entry) && entry.madv() & 1 << advice != 0);
    let calls = advised.map(|entry| (entry.start..entry.end, advice as u32));
    on_ranges(libc::SYS_madvise, calls, Check::Ok, script);
}

/// Adds steps that give filled areas their final protection, and all areas what is left: advice, locks,
/// guard pages. `on_fault` says of which areas pages are locked only as they are touched.
pub fn final_steps(
    areas: &[VmaEntry],
    has_content: &dyn Fn(usize) -> bool,
    on_fault: &dyn Fn(&VmaEntry) -> bool,
    script: &mut Script,
) {
    let changed = areas.iter().enumerate().filter(|(index, entry)| {
        status::is_private(entry) && filling(entry, has_content(*index)) != entry.prot
    });
    let calls = changed.map(|(_, entry)| (entry.start..entry.end, entry.prot));
    on_ranges(libc::SYS_mprotect, calls, Check::Ok, script);

    let early = [libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE];
    let all = areas.iter().fold(0, |bits, entry| bits | entry.madv());
    for advice in (0..64).filter(|advice| all & 1 << advice != 0 && !early.contains(advice)) {
        advise(areas.iter(), advice, script);
    }
    let guards = areas.iter().filter(|entry| status::is(entry, status::GUARD));
    let calls = guards.map(|entry| (entry.start..entry.end, MADV_GUARD_INSTALL as u32));
    on_ranges(libc::SYS_madvise, calls, Check::Ok, script);

    for locked in areas.iter().filter(|entry| entry.flags & LOCKED != 0 && !status::is_special(entry)) {
        // An area that cannot be read is locked as well, although mlock reports that it has no pages.
        let check = if locked.prot == 0 { Check::Any } else { Check::Ok };
        let (nr, flags) = match on_fault(locked) {
            true => (libc::SYS_mlock2, libc::MLOCK_ONFAULT),
            false => (libc::SYS_mlock, 0),
        };
        on_ranges(nr, std::iter::once((locked.start..locked.end, flags)), check, script);
    }
}

#[cfg(test)]
mod tests;
