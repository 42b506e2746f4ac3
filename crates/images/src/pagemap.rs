//! Which pages of a task or of a shared memory object are stored, and where.
//!
//! `pagemap-ID.img` holds a head, which names a pages image, and then ranges in rising order. The pages of
//! all ranges with [`PRESENT`] lie one after another in that pages image.

use std::ops::Range;

use crate::{
    error::{Error, Result},
    frame::write_entry,
    magic::Image,
    proto::{PagemapEntry, PagemapHead},
    store::{Store, StoreExt},
};

/// Flag of an entry: the pages are in the parent checkpoint.
pub const PARENT: u32 = 1;
/// Flag of an entry: the pages may be fetched after the task runs again.
pub const LAZY: u32 = 2;
/// Flag of an entry: the pages are in the pages image.
pub const PRESENT: u32 = 4;

/// Bytes in a page of the pages image.
pub const PAGE_SIZE: u64 = 4096;

/// A pagemap as a whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pagemap {
    /// The pages image: `pages-N.img`.
    pub pages_id: u32,
    /// The ranges, by rising address.
    pub entries: Vec<PagemapEntry>,
}

/// A range of pages and its place in the pages image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The addresses, in bytes: of the task, or offsets in the shared memory object.
    pub range: Range<u64>,
    /// [`PARENT`], [`LAZY`], [`PRESENT`].
    pub flags: u32,
    /// Where the pages begin in the pages image, in bytes; `None` unless [`PRESENT`].
    pub offset: Option<u64>,
}

/// An entry for `pages` pages from address `vaddr` on.
pub fn entry(vaddr: u64, pages: u64, flags: u32) -> PagemapEntry {
    PagemapEntry {
        vaddr,
        // The reference leaves the old 32-bit count empty.
        compat_nr_pages: 0,
        nr_pages: Some(pages),
        flags: Some(flags),
        in_parent: None,
    }
}

/// The number of pages of an entry, old or new.
pub fn pages(entry: &PagemapEntry) -> u64 {
    entry.nr_pages.unwrap_or(entry.compat_nr_pages.into())
}

/// The flags of an entry, old or new: old ones without flags are present, or marked as in the parent.
pub fn flags(entry: &PagemapEntry) -> u32 {
    match (entry.in_parent(), entry.flags) {
        (true, flags) => flags.unwrap_or(0) | PARENT,
        (false, flags) => flags.unwrap_or(PRESENT),
    }
}

impl Pagemap {
    /// Reads `pagemap-ID.img` ([`Image::Pagemap`]) or `pagemap-shmem-ID.img` ([`Image::ShmemPagemap`]).
    ///
    /// # Errors
    /// All of [`Error`]; [`Error::Corrupt`] for ranges that overlap, are out of order or beyond the address space.
    pub fn read(store: &dyn Store, image: Image, id: u64) -> Result<Self> {
        let mut reader = store.open_image(image, id)?;
        let head: PagemapHead = reader.expect()?;
        let mut this = Pagemap { pages_id: head.pages_id, entries: Vec::new() };
        let mut end = 0;
        loop {
            let offset = reader.offset();
            let Some(entry) = reader.entry::<PagemapEntry>()? else {
                return Ok(this);
            };
            end = range(&entry)
                .filter(|range| range.start >= end)
                .ok_or_else(|| Error::Corrupt {
                    image: image.file_name(id),
                    offset,
                    message: "pagemap_entry".to_owned(),
                    reason: format!(
                        "{} pages at {:#x} overlap the range before or leave the address space",
                        pages(&entry),
                        entry.vaddr
                    ),
                })?
                .end;
            this.entries.push(entry);
        }
    }

    /// Writes the pagemap; its pages image is the caller's to write.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, store: &dyn Store, image: Image, id: u64) -> Result<()> {
        let failed = |source| Error::io(image.file_name(id), "write", source);
        let mut writer = store.create_image(image, id)?;
        let head = PagemapHead { pages_id: self.pages_id };
        write_entry(&mut writer, &head).map_err(failed)?;
        for entry in &self.entries {
            write_entry(&mut writer, entry).map_err(failed)?;
        }
        writer.finish()
    }

    /// The ranges with their places in the pages image.
    pub fn extents(&self) -> impl Iterator<Item = Extent> {
        let mut next = 0_u64;
        self.entries.iter().filter_map(move |entry| {
            let range = range(entry)?;
            let flags = flags(entry);
            let offset = (flags & PRESENT != 0).then_some(next);
            if offset.is_some() {
                next += range.end - range.start;
            }
            Some(Extent { range, flags, offset })
        })
    }

    /// The length that the pages image must have, in bytes, as far as this pagemap goes.
    pub fn stored_bytes(&self) -> u64 {
        self.extents()
            .filter(|extent| extent.offset.is_some())
            .map(|extent| extent.range.end - extent.range.start)
            .sum()
    }
}

fn range(entry: &PagemapEntry) -> Option<Range<u64>> {
    let length = pages(entry).checked_mul(PAGE_SIZE)?;
    Some(entry.vaddr..entry.vaddr.checked_add(length)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[test]
    fn extents_find_pages_between_holes() {
        let map = Pagemap {
            pages_id: 3,
            entries: vec![
                entry(0x1000, 2, PRESENT),
                entry(0x8000, 1, PARENT),
                entry(0x9000, 1, PRESENT | LAZY),
            ],
        };
        let store = MemoryStore::new();
        map.write(&store, Image::Pagemap, 7).expect("written");
        let again = Pagemap::read(&store, Image::Pagemap, 7).expect("read");
        assert_eq!(again, map);
        let offsets: Vec<_> = again.extents().map(|extent| extent.offset).collect();
        assert_eq!(offsets, [Some(0), None, Some(0x2000)]);
        assert_eq!(again.stored_bytes(), 0x3000);
    }

    #[test]
    fn old_entries_mean_what_they_meant() {
        let old = |in_parent, flags| PagemapEntry {
            vaddr: 0,
            compat_nr_pages: 5,
            in_parent,
            flags,
            nr_pages: None,
        };
        assert_eq!(pages(&old(None, None)), 5);
        assert_eq!(flags(&old(None, None)), PRESENT);
        assert_eq!(flags(&old(Some(true), None)), PARENT);
        assert_eq!(flags(&old(Some(false), Some(LAZY))), LAZY);
    }

    #[test]
    fn nonsense_ranges_are_refused() {
        for entries in [
            vec![entry(0x2000, 2, PRESENT), entry(0x3000, 1, PRESENT)],
            vec![entry(0x2000, u64::MAX, PRESENT)],
            vec![entry(u64::MAX - 4095, 2, PRESENT)],
        ] {
            let map = Pagemap { pages_id: 1, entries };
            let store = MemoryStore::new();
            map.write(&store, Image::Pagemap, 1).expect("written");
            let error = Pagemap::read(&store, Image::Pagemap, 1).expect_err("nonsense");
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        }
    }
}
