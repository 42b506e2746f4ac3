//! Copy-on-write: what a child has in common with its parent, as fork(2) left it.
//!
//! A private area that parent and child have at the same place, with at least one stored page equal in both,
//! is mapped and filled by the parent before it clones the child. The child keeps it and changes only the
//! pages that differ, so that the equal ones are in memory once.

use crate::layout::Piece;
use crate::status;
use criu_images::proto::VmaEntry;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

const PAGE: u64 = crate::pages::PAGE;
/// How much is compared at a time.
const CHUNK: u64 = 256 << 10;

/// An area that a child takes over from its parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Its position in the child's list.
    pub own: usize,
    /// Its position in the parent's list.
    pub parents: usize,
    /// What the child has to write.
    pub differs: Vec<Piece>,
    /// What the parent has written and the child has not.
    pub absent: Vec<Range<u64>>,
}

/// The areas at the same place in both lists (ascending), of the same kind: positions in child and parent.
pub fn candidates(child: &[VmaEntry], parent: &[VmaEntry]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let mut there = 0;
    for (own, area) in child.iter().enumerate() {
        while parent.get(there).is_some_and(|other| other.start < area.start) {
            there += 1;
        }
        if parent.get(there).is_some_and(|other| alike(area, other)) {
            pairs.push((own, there));
        }
    }
    pairs
}

fn alike(a: &VmaEntry, b: &VmaEntry) -> bool {
    let kept_from_children: u64 = 1 << libc::MADV_DONTFORK | 1 << libc::MADV_WIPEONFORK;
    let kind = status::ANON_PRIVATE | status::FILE_PRIVATE;
    let locked = libc::MAP_LOCKED as u32;
    status::is_private(a)
        && status::is_private(b)
        && (a.start, a.end, a.status & kind) == (b.start, b.end, b.status & kind)
        && a.flags & !locked == b.flags & !locked
        && (a.madv() | b.madv()) & kept_from_children == 0
        && (!status::is_file(a) || (a.shmid, a.pgoff) == (b.shmid, b.pgoff))
}

/// The pieces of one area.
pub fn of_area(pieces: &[Piece], area: usize) -> &[Piece] {
    let from = pieces.partition_point(|piece| piece.area < area);
    let to = pieces.partition_point(|piece| piece.area <= area);
    &pieces[from..to]
}

/// A range that is stored of the child, of the parent, or of both; offsets are those in the pages images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    start: u64,
    len: u64,
    mine: Option<u64>,
    theirs: Option<u64>,
}

/// Lays the pieces of child and parent side by side.
fn stretches(mine: &[Piece], theirs: &[Piece]) -> Vec<Stretch> {
    let mut cuts: Vec<u64> =
        mine.iter().chain(theirs).flat_map(|piece| [piece.start, piece.start + piece.len]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let (mut mine, mut theirs) = (mine.iter().peekable(), theirs.iter().peekable());
    let at = |pieces: &mut std::iter::Peekable<std::slice::Iter<'_, Piece>>, start: u64| {
        while pieces.next_if(|piece| piece.start + piece.len <= start).is_some() {}
        pieces.peek().filter(|piece| piece.start <= start).map(|piece| piece.offset + (start - piece.start))
    };
    let stretch = |cut: &[u64]| Stretch {
        start: cut[0],
        len: cut[1] - cut[0],
        mine: at(&mut mine, cut[0]),
        theirs: at(&mut theirs, cut[0]),
    };
    cuts.windows(2).map(stretch).filter(|stretch| stretch.mine.or(stretch.theirs).is_some()).collect()
}

/// Compares the stored pages of an area, given as pieces and pages image of child and parent. `None` when
/// no page is equal.
///
/// # Errors
/// Those of reading the pages images.
pub fn compare<R: Read + Seek + ?Sized>(
    (own, parents): (usize, usize),
    (mine, my_image): (&[Piece], &mut R),
    (theirs, their_image): (&[Piece], &mut R),
) -> io::Result<Option<Shared>> {
    if mine.is_empty() || theirs.is_empty() {
        return Ok(None);
    }
    let mut shared = Shared { own, parents, ..Shared::default() };
    let mut equal = false;
    let mut buffers = (Vec::new(), Vec::new());
    for Stretch { start, len, mine, theirs } in stretches(mine, theirs) {
        match (mine, theirs) {
            (Some(mine), Some(theirs)) => {
                my_image.seek(SeekFrom::Start(mine))?;
                their_image.seek(SeekFrom::Start(theirs))?;
                for done in (0..len).step_by(CHUNK as usize) {
                    let part = CHUNK.min(len - done) as usize;
                    buffers.0.resize(part, 0);
                    buffers.1.resize(part, 0);
                    my_image.read_exact(&mut buffers.0)?;
                    their_image.read_exact(&mut buffers.1)?;
                    let piece =
                        Piece { area: own, start: start + done, len: part as u64, offset: mine + done };
                    equal |= add_different(&piece, &buffers.0, &buffers.1, &mut shared.differs);
                }
            }
            (Some(offset), None) => push(&mut shared.differs, Piece { area: own, start, len, offset }),
            (None, _) => shared.absent.push(start..start + len),
        }
    }
    Ok(equal.then_some(shared))
}

/// Adds the pages of `piece` that are not equal; says whether any was equal.
fn add_different(piece: &Piece, mine: &[u8], theirs: &[u8], differs: &mut Vec<Piece>) -> bool {
    if mine == theirs {
        return true;
    }
    let mut equal = false;
    let pages = mine.chunks(PAGE as usize).zip(theirs.chunks(PAGE as usize));
    for (at, (mine, theirs)) in (0..).step_by(PAGE as usize).zip(pages) {
        if mine == theirs {
            equal = true;
        } else {
            let len = mine.len() as u64;
            push(differs, Piece { start: piece.start + at, len, offset: piece.offset + at, ..*piece });
        }
    }
    equal
}

fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    match pieces.last_mut() {
        Some(last) if last.start + last.len == piece.start && last.offset + last.len == piece.offset => {
            last.len += piece.len;
        }
        _ => pieces.push(piece),
    }
}

#[cfg(test)]
mod tests;
