//! Where the stored pages of a task lie, and how its script reads them.

use crate::layout::{self, Piece};
use crate::seat::Seat;
use crate::shmem;
use criu_images::{Lineage, Pages};
use criu_resource::{BoxError, Place, RestoreContext};
use criu_script::Script;
use std::collections::BTreeMap;

/// The pages of a task, its own and those that parent checkpoints have.
pub(crate) struct Content {
    /// All of them as one whole, to which the offsets of pieces refer.
    pub pages: Pages,
    /// Where scripts find the images, by level.
    seats: BTreeMap<usize, Seat>,
}

impl Content {
    pub(crate) fn new(pages: Pages) -> Content {
        Content { pages, seats: BTreeMap::new() }
    }

    /// The number at which scripts find the pages image of a level.
    pub(crate) fn number(
        &mut self,
        level: usize,
        context: &RestoreContext<'_>,
        lineage: &Lineage<'_>,
    ) -> Result<i32, BoxError> {
        if let Some(seat) = self.seats.get(&level) {
            return Ok(seat.number());
        }
        let file = shmem::file_of(&mut *self.pages.open(lineage, level)?)?;
        let seat = Seat::reserve(context.numbers, file)?;
        let number = seat.number();
        self.seats.insert(level, seat);
        Ok(number)
    }

    /// Adds steps that read pieces (ascending) from the images in which they lie.
    pub(crate) fn fill_steps(
        &mut self,
        pieces: &[Piece],
        context: &RestoreContext<'_>,
        lineage: &Lineage<'_>,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        let mut levels: BTreeMap<usize, Vec<Piece>> = BTreeMap::new();
        for piece in pieces {
            for part in self.pages.parts(piece.offset, piece.len) {
                let start = piece.start + (part.at - piece.offset);
                let own = Piece { start, len: part.len, offset: part.offset, ..*piece };
                levels.entry(part.level).or_default().push(own);
            }
        }
        for (level, pieces) in levels {
            let number = self.number(level, context, lineage)?;
            layout::fill_steps(pieces, number, script);
        }
        Ok(())
    }

    /// Puts the images where scripts find them.
    pub(crate) fn settle(&mut self, place: &mut dyn Place) -> Result<(), BoxError> {
        for seat in std::mem::take(&mut self.seats).into_values() {
            seat.settle(place)?;
        }
        Ok(())
    }
}
