use super::*;
use crate::pagemap::{LAZY, PARENT as IN_PARENT, PRESENT, entry};
use crate::store::MemoryStore;
use proptest::prelude::*;
use std::io::Write as _;

const PAGE: u64 = 4096;

/// Writes a pagemap of `(page, pages, flags)` and its pages, filled with a byte each.
fn checkpoint(store: &MemoryStore, entries: &[(u64, u64, u32)], fill: &mut dyn FnMut(u64) -> u8) {
    let entries_of = |&(page, pages, flags): &(u64, u64, u32)| entry(page * PAGE, pages, flags);
    let map = Pagemap { pages_id: 1, entries: entries.iter().map(entries_of).collect() };
    map.write(store, Image::Pagemap, 9).unwrap();
    let mut writer = store.create("pages-1.img").unwrap();
    for (page, pages, _) in entries.iter().filter(|(_, _, flags)| flags & PRESENT != 0) {
        (*page..page + pages).for_each(|page| writer.write_all(&[fill(page); PAGE as usize]).unwrap());
    }
    writer.finish().unwrap();
}

fn first_bytes(store: &MemoryStore) -> Vec<u8> {
    let lineage = Lineage::open(store).unwrap();
    let pages = lineage.pages(Image::Pagemap, 9).unwrap();
    let mut bytes = Vec::new();
    pages.reader(&lineage).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, pages.len());
    bytes.chunks(PAGE as usize).map(|page| page[0]).collect()
}

#[test]
fn pages_come_from_the_newest_level_that_has_them() {
    let oldest = MemoryStore::new();
    checkpoint(&oldest, &[(1, 6, PRESENT)], &mut |page| page as u8);
    let middle = MemoryStore::upon(&oldest);
    checkpoint(&middle, &[(1, 2, IN_PARENT), (3, 1, PRESENT), (4, 3, IN_PARENT)], &mut |_| 30);
    let newest = MemoryStore::upon(&middle);
    checkpoint(&newest, &[(2, 3, IN_PARENT), (5, 1, PRESENT), (6, 1, IN_PARENT)], &mut |_| 50);
    assert_eq!(first_bytes(&newest), [2, 30, 4, 50, 6]);
    assert_eq!(first_bytes(&middle), [1, 2, 30, 4, 5, 6]);

    let lineage = Lineage::open(&newest).unwrap();
    let pages = lineage.pages(Image::Pagemap, 9).unwrap();
    let levels: Vec<_> = pages.parts(PAGE, 3 * PAGE).map(|part| (part.level, part.offset / PAGE)).collect();
    assert_eq!(levels, [(1, 0), (2, 3), (0, 0)]);
}

#[test]
fn a_page_that_no_level_has_is_named() {
    let parent = MemoryStore::new();
    checkpoint(&parent, &[(1, 1, PRESENT), (3, 1, LAZY)], &mut |_| 1);
    for page in [0, 2, 3, 4] {
        let child = MemoryStore::upon(&parent);
        checkpoint(&child, &[(page, 1, IN_PARENT)], &mut |_| 1);
        let error = Lineage::open(&child).unwrap().pages(Image::Pagemap, 9).unwrap_err();
        assert!(error.to_string().contains(&format!("{:#x}", page * PAGE)), "{error}");
    }
    let orphan = MemoryStore::new();
    checkpoint(&orphan, &[(1, 1, IN_PARENT)], &mut |_| 1);
    assert!(Lineage::open(&orphan).unwrap().pages(Image::Pagemap, 9).is_err());
}

#[test]
fn a_short_pages_image_is_refused_at_every_level() {
    let parent = MemoryStore::new();
    checkpoint(&parent, &[(1, 2, PRESENT)], &mut |_| 1);
    parent.insert("pages-1.img", vec![0; PAGE as usize]);
    let child = MemoryStore::upon(&parent);
    checkpoint(&child, &[(1, 1, IN_PARENT)], &mut |_| 1);
    let error = Lineage::open(&child).unwrap().pages(Image::Pagemap, 9).unwrap_err();
    assert!(error.to_string().contains("4096 bytes, 8192 expected"), "{error}");
}

#[test]
fn a_chain_that_leads_back_ends() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(".", folder.path().join(PARENT)).unwrap();
    let store = crate::DirStore::open(folder.path()).unwrap();
    let error = Lineage::open(&store).unwrap_err();
    assert!(error.to_string().contains("leads back"), "{error}");
}

#[test]
fn a_link_that_leads_nowhere_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("../gone", folder.path().join(PARENT)).unwrap();
    let store = crate::DirStore::open(folder.path()).unwrap();
    let error = Lineage::open(&store).unwrap_err();
    assert!(error.to_string().contains("parent checkpoint"), "{error}");
}

proptest! {
    /// Any history of a few pages: what is read is what was there last.
    #[test]
    fn the_last_content_is_read(history in prop::collection::vec(prop::collection::vec(0..4_u8, 12), 1..6)) {
        let mut stores: Vec<MemoryStore> = Vec::new();
        let mut before: Vec<u8> = vec![0; 12];
        for state in &history {
            let store = stores.last().map_or_else(MemoryStore::new, MemoryStore::upon);
            let flags = |page: usize| match state[page] == before[page] {
                true => IN_PARENT,
                false => PRESENT,
            };
            let there: Vec<usize> = (0..12).filter(|page| state[*page] != 0).collect();
            let entries: Vec<_> = there.iter().map(|&page| (page as u64, 1, flags(page))).collect();
            checkpoint(&store, &entries, &mut |page| state[page as usize]);
            let expected: Vec<u8> = there.iter().map(|&page| state[page]).collect();
            prop_assert_eq!(first_bytes(&store), expected);
            before = state.clone();
            stores.push(store);
        }
    }
}
