//! Where criu-rs keeps each description so that the tasks need the fewest steps.

use criu_resource::Slot;
use std::collections::HashMap;

/// A descriptor of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Task and number.
    pub slot: Slot,
    /// Close-on-exec.
    pub cloexec: bool,
}

/// For each description (its places; in order of task and number) the number that criu-rs should keep it
/// at: one that in no task means anything else. Every task inherits it there, in place already.
pub fn preferred(files: &[Vec<Place>]) -> Vec<Option<i32>> {
    // Number → the only description that has it, or nobody's once there are two.
    let mut owner: HashMap<i32, Option<usize>> = HashMap::new();
    for (file, places) in files.iter().enumerate() {
        for place in places {
            owner
                .entry(place.slot.number)
                .and_modify(|known| *known = known.filter(|&known| known == file))
                .or_insert(Some(file));
        }
    }
    files
        .iter()
        .enumerate()
        .map(|(file, places)| {
            let mut uses: HashMap<i32, usize> = HashMap::new();
            for place in places.iter().filter(|p| owner[&p.slot.number] == Some(file)) {
                *uses.entry(place.slot.number).or_default() += 1;
            }
            uses.into_iter().max_by_key(|&(number, count)| (count, -number)).map(|(number, _)| number)
        })
        .collect()
}

/// The ranges (first, last) of descriptor numbers between those in `keep`, which ascend.
pub fn gaps(keep: impl IntoIterator<Item = i32>) -> Vec<(u32, u32)> {
    let mut gaps = Vec::new();
    let mut next = 0;
    for number in keep {
        let number = number as u32;
        if number > next {
            gaps.push((next, number - 1));
        }
        next = number + 1;
    }
    gaps.push((next, u32::MAX));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(slots: &[(usize, i32)]) -> Vec<Place> {
        slots.iter().map(|&(task, number)| Place { slot: Slot { task, number }, cloexec: false }).collect()
    }

    #[test]
    fn a_number_is_preferred_where_it_is_unambiguous() {
        let files = [
            places(&[(0, 0), (1, 0)]),         // shared stdin
            places(&[(0, 3)]),                 // 3 means something else in task 1
            places(&[(1, 3), (1, 7)]),         // but 7 does not
            places(&[(0, 4), (1, 5), (2, 5)]), // twice at 5, once at 4
        ];
        assert_eq!(preferred(&files), [Some(0), None, Some(7), Some(5)]);
    }

    #[test]
    fn gaps_cover_all_else() {
        assert_eq!(gaps([0, 1, 2, 7]), [(3, 6), (8, u32::MAX)]);
        assert_eq!(gaps([5]), [(0, 4), (6, u32::MAX)]);
        assert_eq!(gaps([]), [(0, u32::MAX)]);
    }
}
