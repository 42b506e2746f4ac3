//! Incremental checkpoints: pages that lie in the images of an earlier one.
//!
//! The images directory of an incremental checkpoint has a link, [`PARENT`], to that of the checkpoint before.
//! Pages that were the same then are stored there, or in the parent of that one, and so on.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::BorrowedFd;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::error::{Error, Result};
use crate::magic::Image;
use crate::pagemap::{self, Extent, Pagemap};
use crate::store::{ImageReader, Store};

/// The name of the link to the parent.
pub const PARENT: &str = "parent";
/// A longer chain is taken for one that leads back to itself.
const LONGEST: usize = 500;

/// A checkpoint and those that it builds upon: level 0 is its own, level 1 its parent, and so on.
#[derive(Debug)]
pub struct Lineage<'a> {
    own: &'a dyn Store,
    parents: Vec<Box<dyn Store>>,
}

impl<'a> Lineage<'a> {
    /// Opens all parents of a store.
    ///
    /// # Errors
    /// [`Error::Io`] for a link that leads nowhere, [`Error::Misuse`] for a chain that does not end.
    pub fn open(own: &'a dyn Store) -> Result<Self> {
        let mut parents: Vec<Box<dyn Store>> = Vec::new();
        let mut next = own.parent()?;
        while let Some(parent) = next {
            if parents.len() == LONGEST {
                let reason =
                    format!("more than {LONGEST} checkpoints build upon each other, or the link leads back");
                return Err(Error::Misuse { image: PARENT.to_owned(), reason });
            }
            next = parent.parent()?;
            parents.push(parent);
        }
        Ok(Lineage { own, parents })
    }

    /// The store of a level, which must be one that [`Pages`] names.
    pub fn level(&self, level: usize) -> &dyn Store {
        match level {
            0 => self.own,
            level => &*self.parents[level - 1],
        }
    }

    /// Asks the kernel to have the parents' pages at hand soon, so that a dump need not wait for a disk while
    /// tasks stand still.
    ///
    /// # Errors
    /// Those of [`Store::list`] and [`Store::open`].
    pub fn prefetch(&self) -> Result<()> {
        for parent in &self.parents {
            for name in parent.list()? {
                if !matches!(Image::from_file_name(&name), Some((Image::Pages, _))) {
                    continue;
                }
                let image = parent.open(&name)?;
                if let Some(fd) = image.as_fd() {
                    // Advice only: where it is not taken, the dump waits.
                    let _ = posix_fadvise(fd, 0, 0, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
                }
            }
        }
        Ok(())
    }

    /// How many levels there are.
    pub fn levels(&self) -> usize {
        self.parents.len() + 1
    }

    /// Whether there is a parent.
    pub fn is_incremental(&self) -> bool {
        !self.parents.is_empty()
    }

    /// Where the pages of a pagemap lie.
    ///
    /// # Errors
    /// Those of reading the pagemaps; [`Error::Misuse`] for pages that no level has, and for a pages image
    /// that is too short.
    pub fn pages(&self, image: Image, id: u64) -> Result<Pages> {
        self.pages_from(0, image, id)
    }

    /// As [`pages`](Self::pages), for the pagemap of that name at another level.
    ///
    /// # Errors
    /// As [`pages`](Self::pages).
    pub fn pages_from(&self, level: usize, image: Image, id: u64) -> Result<Pages> {
        let mut search = Search { lineage: self, image, id, levels: Vec::new() };
        let extents = search.load(level)?.extents.clone();
        let mut pages = Pages { extents, parts: Vec::new(), names: Vec::new() };
        let mut whole = 0;
        for extent in &mut pages.extents {
            let bytes = extent.range.end - extent.range.start;
            if extent.offset.is_none() && extent.flags & pagemap::PARENT == 0 {
                continue;
            }
            search.find(level, extent.range.clone(), &mut |level, offset, len| {
                push(&mut pages.parts, level, whole, offset, len);
                whole += len;
            })?;
            extent.offset = Some(whole - bytes);
        }
        pages.names = search.levels.into_iter().map(|found| found.map(|found| found.pages)).collect();
        Ok(pages)
    }
}

fn push(parts: &mut Vec<Part>, level: usize, at: u64, offset: u64, len: u64) {
    match parts.last_mut() {
        Some(last) if (last.level, last.offset + last.len) == (level, offset) => last.len += len,
        _ => parts.push(Part { level, at, offset, len }),
    }
}

/// One level's pagemap.
struct Found {
    extents: Vec<Extent>,
    /// The name of its pages image.
    pages: String,
}

struct Search<'a> {
    lineage: &'a Lineage<'a>,
    image: Image,
    id: u64,
    /// What was read so far.
    levels: Vec<Option<Found>>,
}

impl Search<'_> {
    /// Reads a level's pagemap, unless it was.
    fn load(&mut self, level: usize) -> Result<&Found> {
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, || None);
        }
        let slot = &mut self.levels[level];
        if let Some(found) = slot {
            return Ok(found);
        }
        let store = self.lineage.level(level);
        let pagemap = Pagemap::read(store, self.image, self.id)?;
        let pages = Image::Pages.file_name(pagemap.pages_id.into());
        let expected = pagemap.stored_bytes();
        if expected > 0 {
            let len = store.open(&pages)?.len();
            if len < expected {
                let reason = format!("{len} bytes, {expected} expected; dump again");
                return Err(Error::Misuse { image: pages, reason });
            }
        }
        Ok(slot.insert(Found { extents: pagemap.extents().collect(), pages }))
    }

    /// Gives level, offset and length of the pieces that make up a range of addresses.
    fn find(&mut self, level: usize, range: Range<u64>, give: &mut dyn FnMut(usize, u64, u64)) -> Result<()> {
        let (image, id) = (self.image, self.id);
        let missing = |address: u64| {
            let reason = format!(
                "the page at {address:#x} should be in a parent checkpoint (level {level}), which lacks it"
            );
            Error::Misuse { image: image.file_name(id), reason }
        };
        if level > self.lineage.parents.len() {
            return Err(missing(range.start));
        }
        let mut at = range.start;
        while at < range.end {
            let found = match self.load(level) {
                Err(error) if error.is_missing() && level > 0 => return Err(missing(at)),
                found => found?,
            };
            let index = found.extents.partition_point(|extent| extent.range.end <= at);
            let extent = found.extents.get(index).filter(|extent| extent.range.start <= at).cloned();
            let extent = extent.ok_or_else(|| missing(at))?;
            let end = extent.range.end.min(range.end);
            match extent.offset {
                Some(offset) => give(level, offset + (at - extent.range.start), end - at),
                None if extent.flags & pagemap::PARENT != 0 => self.find(level + 1, at..end, give)?,
                None => return Err(missing(at)),
            }
            at = end;
        }
        Ok(())
    }
}

/// Consecutive pages in the pages image of one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Whose image it is.
    pub level: usize,
    /// Place in the whole, in bytes.
    pub at: u64,
    /// Place in that image, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// The pages of one pagemap as one whole, wherever they lie.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    /// The ranges; offsets are places in the whole. Without an offset: pages that are nowhere in the images.
    pub extents: Vec<Extent>,
    parts: Vec<Part>,
    /// The pages image of each level, where it is known.
    names: Vec<Option<String>>,
}

impl Pages {
    /// Length of the whole, in bytes.
    pub fn len(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.at + part.len)
    }

    /// Whether there is no page.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The parts that make up `len` bytes at `at` of the whole.
    pub fn parts(&self, at: u64, len: u64) -> impl Iterator<Item = Part> {
        let first = self.parts.partition_point(|part| part.at + part.len <= at);
        self.parts[first..].iter().take_while(move |part| part.at < at + len).map(move |part| {
            let start = part.at.max(at);
            let end = (part.at + part.len).min(at + len);
            Part { at: start, offset: part.offset + (start - part.at), len: end - start, ..*part }
        })
    }

    /// The name of a level's pages image.
    pub fn name(&self, level: usize) -> &str {
        self.names.get(level).and_then(Option::as_deref).unwrap_or_default()
    }

    /// Opens a level's pages image.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open(&self, lineage: &Lineage<'_>, level: usize) -> Result<Box<dyn ImageReader>> {
        lineage.level(level).open(self.name(level))
    }

    /// Opens the whole for reading.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn reader(&self, lineage: &Lineage<'_>) -> Result<Box<dyn ImageReader>> {
        if let [part] = &self.parts[..]
            && part.offset == 0
        {
            let image = self.open(lineage, part.level)?;
            if image.len() == part.len {
                return Ok(image);
            }
        }
        let mut readers: Vec<Option<Box<dyn ImageReader>>> = Vec::new();
        for part in &self.parts {
            if readers.len() <= part.level {
                readers.resize_with(part.level + 1, || None);
            }
            let slot = &mut readers[part.level];
            if slot.is_none() {
                *slot = Some(self.open(lineage, part.level)?);
            }
        }
        Ok(Box::new(Whole { pages: self.clone(), readers, at: 0 }))
    }
}

/// Reads pages of several images as one.
struct Whole {
    pages: Pages,
    readers: Vec<Option<Box<dyn ImageReader>>>,
    at: u64,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(part) = self.pages.parts(self.at, buffer.len() as u64).next() else { return Ok(0) };
        let Some(reader) = &mut self.readers[part.level] else { return Ok(0) };
        reader.seek(SeekFrom::Start(part.offset))?;
        let count = reader.read(&mut buffer[..part.len as usize])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Whole {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.pages.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl ImageReader for Whole {
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn len(&self) -> u64 {
        self.pages.len()
    }
}

#[cfg(test)]
mod tests;
