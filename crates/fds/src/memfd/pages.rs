//! The contents of memory files.

use super::MemfdError;
use criu_images::pagemap::{self, PAGE_SIZE, PRESENT, Pagemap};
use criu_images::proto::MemfdInodeEntry;
use criu_images::{Image, Lineage, Store};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// How much is read at once, in bytes.
const PIECE: u64 = 1 << 20;

/// The size of the file's pages, where they are huge.
fn huge_page(entry: &MemfdInodeEntry) -> Option<u64> {
    match entry.hugetlb_flag() >> libc::MFD_HUGE_SHIFT & 63 {
        0 => None,
        shift => Some(1 << shift),
    }
}

/// Stores the parts of the file that are not holes.
pub fn store(
    file: &File,
    entry: &MemfdInodeEntry,
    pages_id: u32,
    store: &dyn Store,
    failed: &dyn Fn(io::Error) -> MemfdError,
) -> Result<(), MemfdError> {
    let mut map = Pagemap { pages_id, entries: Vec::new() };
    let mut writer = store.create(&Image::Pages.file_name(pages_id.into()))?;
    let mut buffer = Vec::new();
    let mut position = 0;
    while let Some(data) = next_data(file, entry, position).map_err(failed)? {
        map.entries.push(pagemap::entry(data.start, (data.end - data.start) / PAGE_SIZE, PRESENT));
        for offset in data.clone().step_by(PIECE as usize) {
            // What lies behind the end of the file, in its last page, is zero.
            buffer.clear();
            buffer.resize(PIECE.min(data.end - offset) as usize, 0);
            let inside = entry.size.saturating_sub(offset).min(buffer.len() as u64) as usize;
            file.read_exact_at(&mut buffer[..inside], offset).map_err(failed)?;
            writer.write_all(&buffer).map_err(|e| criu_images::Error::io("pages", "write", e))?;
        }
        position = data.end;
    }
    writer.finish()?;
    map.write(store, Image::ShmemPagemap, entry.shmid.into())?;
    Ok(())
}

/// The next part of the file, in whole pages, that is no hole.
fn next_data(file: &File, entry: &MemfdInodeEntry, position: u64) -> io::Result<Option<Range<u64>>> {
    if position >= entry.size {
        return Ok(None);
    }
    if let Some(page) = huge_page(entry) {
        return next_huge(file, position..entry.size, page);
    }
    let start = match lseek(file, position as i64, Whence::SeekData) {
        Ok(start) => start as u64 / PAGE_SIZE * PAGE_SIZE,
        Err(Errno::ENXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let end = lseek(file, start.max(position) as i64, Whence::SeekHole)? as u64;
    Ok(Some(start..end.next_multiple_of(PAGE_SIZE)))
}

/// A file of huge pages cannot tell its holes, but a page of zeros may as well be one.
fn next_huge(file: &File, rest: Range<u64>, page: u64) -> io::Result<Option<Range<u64>>> {
    let (mut buffer, zeros) = (vec![0; PIECE as usize], vec![0; PIECE as usize]);
    for start in rest.step_by(page as usize) {
        for offset in (start..start + page).step_by(PIECE as usize) {
            file.read_exact_at(&mut buffer, offset)?;
            if buffer != zeros {
                return Ok(Some(start..start + page));
            }
        }
    }
    Ok(None)
}

/// Writes them into a new file.
pub fn load(file: &File, entry: &MemfdInodeEntry, store: &dyn Store) -> Result<(), MemfdError> {
    let lineage = Lineage::open(store)?;
    let whole = lineage.pages(Image::ShmemPagemap, entry.shmid.into())?;
    let mut pages = whole.reader(&lineage)?;
    for extent in &whole.extents {
        let Some(from) = extent.offset else { continue };
        pages.seek(SeekFrom::Start(from)).map_err(|e| criu_images::Error::io(whole.name(0), "seek", e))?;
        let range = extent.range.start..extent.range.end.min(entry.size);
        match huge_page(entry) {
            Some(page) => load_huge(file, entry, range, page, &mut *pages)?,
            None => load_range(file, entry, range, &mut *pages)?,
        }
    }
    Ok(())
}

fn load_range(
    file: &File,
    entry: &MemfdInodeEntry,
    range: Range<u64>,
    pages: &mut dyn Read,
) -> Result<(), MemfdError> {
    let mut buffer = Vec::new();
    for offset in range.clone().step_by(PIECE as usize) {
        buffer.resize(PIECE.min(range.end - offset) as usize, 0);
        pages.read_exact(&mut buffer).map_err(|e| criu_images::Error::io("pages", "read", e))?;
        file.write_all_at(&buffer, offset).map_err(|source| MemfdError::Io {
            name: super::shown(entry),
            call: "write",
            source,
        })?;
    }
    Ok(())
}

/// Huge pages cannot be written like a file, only through a mapping.
fn load_huge(
    file: &File,
    entry: &MemfdInodeEntry,
    range: Range<u64>,
    page: u64,
    pages: &mut dyn Read,
) -> Result<(), MemfdError> {
    let name = || super::shown(entry);
    let length = NonZeroUsize::new(page as usize).expect("a power of two");
    let mut at = range.start;
    while at < range.end {
        let offset = at / page * page;
        let inside = (at - offset) as usize..(range.end - offset).min(page) as usize;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice. It reserves its page, so that touching
        // it cannot fail.
        let mapped = unsafe { mmap(None, length, prot, MapFlags::MAP_SHARED, file, offset as i64) };
        let start = mapped.map_err(|errno| match errno {
            Errno::ENOMEM => MemfdError::HugePages { name: name(), bytes: entry.size, page },
            errno => MemfdError::Io { name: name(), call: "mmap", source: errno.into() },
        })?;
        // SAFETY: the mapping just made, of that length; nobody else has the new file yet.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast::<u8>(), length.get()) };
        let read = pages.read_exact(&mut bytes[inside]);
        // SAFETY: the mapping just made, to which `bytes` was the last reference.
        unsafe { munmap(start, length.get()) }.map_err(|errno| MemfdError::Io {
            name: name(),
            call: "munmap",
            source: errno.into(),
        })?;
        read.map_err(|e| criu_images::Error::io("pages", "read", e))?;
        at = offset + page;
    }
    Ok(())
}
