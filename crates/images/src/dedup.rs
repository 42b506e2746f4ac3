//! Space given back: pages of earlier checkpoints that a later one has anew.

use std::ops::Range;

use crate::error::Result;
use crate::lineage::Lineage;
use crate::magic::Image;
use crate::pagemap::Pagemap;
use crate::store::Store;

/// Takes out of all parents what no restore of this checkpoint reads there, because the checkpoint has the page
/// itself. Such a parent cannot be restored any more. Returns the bytes given up.
///
/// # Errors
/// Those of reading the pagemaps, and of [`Store::punch`]; calling it again goes on.
pub fn dedup(store: &dyn Store) -> Result<u64> {
    let lineage = Lineage::open(store)?;
    let mut total = 0;
    for name in store.list()? {
        if let Some((image @ (Image::Pagemap | Image::ShmemPagemap), id)) = Image::from_file_name(&name) {
            let own = Pagemap::read(store, image, id)?;
            let stored = own.extents().filter(|extent| extent.offset.is_some());
            total += dedup_one(&lineage, image, id, &stored.map(|extent| extent.range).collect::<Vec<_>>())?;
        }
    }
    Ok(total)
}

fn dedup_one(lineage: &Lineage<'_>, image: Image, id: u64, own: &[Range<u64>]) -> Result<u64> {
    let mut total = 0;
    for level in 1..lineage.levels() {
        let parent = lineage.level(level);
        let pagemap = match Pagemap::read(parent, image, id) {
            Err(error) if error.is_missing() => continue, // a task that was not there
            pagemap => pagemap?,
        };
        let mut superseded: Vec<Range<u64>> = Vec::new();
        for extent in pagemap.extents() {
            let Some(offset) = extent.offset else { continue };
            let first = own.partition_point(|range| range.end <= extent.range.start);
            for range in own[first..].iter().take_while(|range| range.start < extent.range.end) {
                let start = range.start.max(extent.range.start) - extent.range.start;
                let end = range.end.min(extent.range.end) - extent.range.start;
                match superseded.last_mut() {
                    Some(last) if last.end == offset + start => last.end = offset + end,
                    _ => superseded.push(offset + start..offset + end),
                }
            }
        }
        if !superseded.is_empty() {
            parent.punch(&Image::Pages.file_name(pagemap.pages_id.into()), &superseded)?;
            total += superseded.iter().map(|range| range.end - range.start).sum::<u64>();
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pagemap::{PARENT, PRESENT, entry};
    use crate::store::{DirStore, MemoryStore};
    use std::io::Write;

    const PAGE: u64 = 4096;

    fn write(store: &dyn Store, entries: &[(u64, u64, u32)]) {
        let entry = |&(page, pages, flags): &(u64, u64, u32)| entry(page * PAGE, pages, flags);
        let map = Pagemap { pages_id: 1, entries: entries.iter().map(entry).collect() };
        map.write(store, Image::Pagemap, 7).unwrap();
        let mut writer = store.create("pages-1.img").unwrap();
        writer.write_all(&vec![1; map.stored_bytes() as usize]).unwrap();
        writer.finish().unwrap();
    }

    fn kept(store: &MemoryStore) -> Vec<u8> {
        store.get("pages-1.img").unwrap().chunks(PAGE as usize).map(|page| page[0]).collect()
    }

    #[test]
    fn pages_that_a_child_has_anew_go_at_every_level() {
        let oldest = MemoryStore::new();
        write(&oldest, &[(1, 4, PRESENT), (8, 1, PRESENT)]);
        let middle = MemoryStore::upon(&oldest);
        write(&middle, &[(1, 1, PARENT), (2, 2, PRESENT), (4, 1, PARENT), (8, 1, PARENT)]);
        let newest = MemoryStore::upon(&middle);
        write(&newest, &[(1, 1, PARENT), (2, 1, PARENT), (3, 2, PRESENT), (8, 1, PARENT)]);
        assert_eq!(dedup(&newest).unwrap(), 3 * PAGE);
        assert_eq!(kept(&oldest), [1, 1, 0, 0, 1]);
        assert_eq!(kept(&middle), [1, 0]);
        assert_eq!(kept(&newest), [1, 1]);
        assert_eq!(dedup(&oldest).unwrap(), 0);
    }

    #[test]
    fn a_directory_gives_the_space_back() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        std::fs::create_dir(&old).unwrap();
        std::fs::create_dir(&new).unwrap();
        std::os::unix::fs::symlink("../old", new.join(crate::lineage::PARENT)).unwrap();
        write(&DirStore::open(&old).unwrap(), &[(0, 64, PRESENT)]);
        let store = DirStore::open(&new).unwrap();
        write(&store, &[(0, 1, PARENT), (1, 63, PRESENT)]);
        assert_eq!(dedup(&store).unwrap(), 63 * PAGE);
        let pages = std::fs::metadata(old.join("pages-1.img")).unwrap();
        assert_eq!((pages.len(), pages.blocks() * 512), (64 * PAGE, PAGE));
    }
}
