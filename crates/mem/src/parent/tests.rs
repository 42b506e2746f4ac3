use super::*;
use crate::pages::Source;
use criu_images::pagemap::{PARENT, PRESENT};
use criu_images::{Image, MemoryStore};
use std::io::{Read, Write};

fn run(first: u64, last: u64) -> Run {
    Run { start: first * PAGE, end: last * PAGE, readable: true }
}

/// A shared memory object whose pages have these first bytes, and a job to store all of it.
fn object(pages: &[u8], own: &[Range<u64>]) -> Job {
    let fd = nix::sys::memfd::memfd_create("object", nix::sys::memfd::MFdFlags::empty()).unwrap();
    let mut file = File::from(fd);
    pages.iter().for_each(|byte| file.write_all(&[*byte; PAGE as usize]).unwrap());
    let runs = vec![run(0, pages.len() as u64)];
    Job { own: own.to_vec(), ..Job::new(Source::Shared(9, file), runs, (Image::ShmemPagemap, 9), 1) }
}

/// Dumps the object upon a parent; the flags and lengths of its pagemap.
fn dump(store: &MemoryStore, pages: &[u8], own: &[Range<u64>]) -> Vec<(u32, u64)> {
    let mut jobs = vec![object(pages, own)];
    let lineage = Lineage::open(store).unwrap();
    if lineage.is_incremental() {
        compare_all(&lineage, &mut jobs).unwrap();
    }
    crate::pages::store_all(store, &jobs).unwrap();
    let map = criu_images::pagemap::Pagemap::read(store, Image::ShmemPagemap, 9).unwrap();
    map.extents().map(|extent| (extent.flags, (extent.range.end - extent.range.start) / PAGE)).collect()
}

fn content(store: &MemoryStore) -> Vec<u8> {
    let lineage = Lineage::open(store).unwrap();
    let mut bytes = Vec::new();
    let pages = lineage.pages(Image::ShmemPagemap, 9).unwrap();
    pages.reader(&lineage).unwrap().read_to_end(&mut bytes).unwrap();
    bytes.chunks(PAGE as usize).map(|page| page[0]).collect()
}

#[test]
fn only_pages_that_differ_are_stored() {
    let first = MemoryStore::new();
    assert_eq!(dump(&first, &[1, 2, 3, 4], &[]), [(PRESENT, 4)]);
    let second = MemoryStore::upon(&first);
    assert_eq!(dump(&second, &[1, 2, 9, 4], &[]), [(PARENT, 2), (PRESENT, 1), (PARENT, 1)]);
    let third = MemoryStore::upon(&second);
    assert_eq!(dump(&third, &[1, 2, 9, 7, 5], &[]), [(PARENT, 3), (PRESENT, 2)]);
    assert_eq!(content(&third), [1, 2, 9, 7, 5]);
    assert_eq!(third.get("pages-1.img").unwrap().len(), 2 * PAGE as usize);
}

#[test]
fn more_than_is_compared_at_once() {
    let pages = 3 * CHUNK / PAGE + 5;
    let before: Vec<u8> = (0..pages).map(|page| page as u8).collect();
    let mut after = before.clone();
    let changed = [0, CHUNK / PAGE - 1, CHUNK / PAGE, pages - 1];
    changed.iter().for_each(|page| after[*page as usize] ^= 1);
    let first = MemoryStore::new();
    dump(&first, &before, &[]);
    let second = MemoryStore::upon(&first);
    let stored =
        dump(&second, &after, &[]).iter().filter(|(flags, _)| *flags == PRESENT).map(|(_, n)| n).sum::<u64>();
    assert_eq!(stored, changed.len() as u64);
    assert_eq!(content(&second), after);
}

#[test]
fn what_must_be_stored_is_stored() {
    let first = MemoryStore::new();
    dump(&first, &[1, 2, 3, 4], &[]);
    let second = MemoryStore::upon(&first);
    let own = [0..PAGE, 2 * PAGE..3 * PAGE];
    assert_eq!(dump(&second, &[1, 2, 3, 4], &own), [(PRESENT, 1), (PARENT, 1), (PRESENT, 1), (PARENT, 1)]);
}

#[test]
fn an_object_that_is_new_is_stored_whole() {
    let second = MemoryStore::upon(&MemoryStore::new());
    assert_eq!(dump(&second, &[1, 2], &[]), [(PRESENT, 2)]);
}

#[test]
fn runs_without_ranges() {
    let ranges = [PAGE..2 * PAGE, 4 * PAGE..6 * PAGE, 8 * PAGE..20 * PAGE];
    assert_eq!(without(&[run(0, 3), run(5, 9), run(10, 12)], &ranges), [run(0, 1), run(2, 3), run(6, 8)]);
}
