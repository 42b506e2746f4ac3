use super::*;
use std::io::Cursor;

const PRIVATE: u32 = status::REGULAR | status::ANON_PRIVATE;

fn area(start: u64, pages: u64) -> VmaEntry {
    let end = start + pages * PAGE;
    VmaEntry { start, end, prot: 3, flags: 0x22, status: PRIVATE, ..VmaEntry::default() }
}

fn piece(page: u64, pages: u64, offset: u64) -> Piece {
    Piece { area: 0, start: page * PAGE, len: pages * PAGE, offset: offset * PAGE }
}

fn image(pages: &[u8]) -> Cursor<Vec<u8>> {
    Cursor::new(pages.iter().flat_map(|page| vec![*page; PAGE as usize]).collect())
}

#[test]
fn only_like_areas_at_like_places_are_candidates() {
    let parent = [area(0x1000, 1), area(0x8000, 2), area(0x10000, 4), area(0x20000, 1)];
    let mut other = area(0x20000, 1);
    other.madv = Some(1 << libc::MADV_DONTFORK);
    let child = [area(0x8000, 2), area(0x10000, 3), other, area(0x30000, 1)];
    assert_eq!(candidates(&child, &parent), [(0, 1)]);
    // Another protection now does not mean that it was another area at fork.
    let read_only = VmaEntry { prot: 1, ..area(0x1000, 1) };
    assert_eq!(candidates(&[read_only], &parent), [(0, 0)]);
    let shared = VmaEntry { status: status::REGULAR | status::ANON_SHARED, ..area(0x1000, 1) };
    assert_eq!(candidates(&[shared], &parent), []);
}

#[test]
fn pages_are_compared_one_by_one() {
    // Parent: pages 0..6 = a b c d e f. Child: 2..8 = c x e e g h.
    let theirs = [piece(0, 6, 0)];
    let mine = [piece(2, 3, 1), piece(5, 3, 4)];
    let (mut my_image, mut their_image) = (image(b"_cxeegh"), image(b"abcdef"));
    let shared = compare((3, 4), (&mine, &mut my_image), (&theirs, &mut their_image)).unwrap().unwrap();
    assert_eq!((shared.own, shared.parents), (3, 4));
    assert_eq!(shared.absent.len(), 1);
    assert_eq!(shared.absent[0], 0..2 * PAGE);
    let differs: Vec<_> =
        shared.differs.iter().map(|p| (p.start / PAGE, p.len / PAGE, p.offset / PAGE)).collect();
    assert_eq!(differs, [(3, 1, 2), (5, 3, 4)]);
}

#[test]
fn nothing_in_common_is_not_shared() {
    let pieces = [piece(0, 2, 0)];
    let compared = compare((0, 0), (&pieces, &mut image(b"ab")), (&pieces, &mut image(b"cd"))).unwrap();
    assert_eq!(compared, None);
    assert_eq!(compare((0, 0), (&pieces, &mut image(b"ab")), (&[], &mut image(b""))).unwrap(), None);
}

#[test]
fn a_short_image_is_an_error() {
    let pieces = [piece(0, 2, 0)];
    assert!(compare((0, 0), (&pieces, &mut image(b"a")), (&pieces, &mut image(b"ab"))).is_err());
}
