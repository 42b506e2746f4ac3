//! How two threads share the filling of a task's memory.

use crate::layout::Piece;
use crate::pages::PAGE;

/// Which part of a task's content a thread fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    All,
    First,
    Second,
}

impl Share {
    /// Halves by size.
    pub(crate) fn of(self, mut pieces: Vec<Piece>) -> Vec<Piece> {
        let mut left = pieces.iter().map(|piece| piece.len).sum::<u64>() / 2 / PAGE * PAGE;
        let middle = pieces.iter().position(|piece| match left.checked_sub(piece.len) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        });
        let (Some(middle), false) = (middle, self == Share::All) else { return pieces };
        let mut second = pieces.split_off(middle);
        let Piece { area, start, len, offset } = second[0];
        pieces.push(Piece { area, start, len: left, offset });
        second[0] = Piece { area, start: start + left, len: len - left, offset: offset + left };
        if self == Share::First { pieces } else { second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_shares_are_the_whole() {
        let piece = |start, pages, offset| Piece { area: 0, start, len: pages * PAGE, offset: offset * PAGE };
        let all = vec![piece(0x10_0000, 3, 0), piece(0x20_0000, 6, 3), piece(0x40_0000, 2, 9)];
        let (first, second) = (Share::First.of(all.clone()), Share::Second.of(all.clone()));
        assert_eq!(first, [piece(0x10_0000, 3, 0), piece(0x20_0000, 2, 3)]);
        assert_eq!(second, [piece(0x20_2000, 4, 5), piece(0x40_0000, 2, 9)]);
        assert_eq!(Share::All.of(all.clone()), all);
        assert!(Share::First.of(Vec::new()).is_empty());
    }
}
