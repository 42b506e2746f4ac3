//! One pass over many ranges.

use std::io;
use std::ops::Range;

use super::{Action, Filter, KERNEL_HALF, PAGE, PageMap, PageRange, Runs, is_missing};

/// Iterator of [`PageMap::scan_ranges`]; it ends after an error.
#[derive(Debug)]
pub struct RangeRuns<'a> {
    map: &'a PageMap,
    ranges: &'a [Range<u64>],
    filter: Filter,
    /// The range that the next run may belong to.
    index: usize,
    /// A run, or what is left of it after a range's end.
    rest: Option<PageRange>,
    runs: Option<Runs<'a>>,
    /// Whether `runs` covers all ranges; otherwise just the one at `index`.
    whole: bool,
}

impl<'a> RangeRuns<'a> {
    pub(super) fn new(map: &'a PageMap, ranges: &'a [Range<u64>], filter: Filter) -> Self {
        let ranges = &ranges[..ranges.partition_point(|range| range.start < KERNEL_HALF)];
        let whole = !map.words && can_scan(map);
        let runs = match ranges {
            [first, .., last] if whole => Some(map.scan(first.start..last.end, filter)),
            [first, ..] => Some(map.scan(first.clone(), filter)),
            [] => None,
        };
        Self { map, ranges, filter, index: 0, rest: None, runs, whole }
    }

    /// The next run, of any range.
    fn run(&mut self) -> io::Result<Option<PageRange>> {
        loop {
            match self.runs.as_mut().and_then(Iterator::next).transpose()? {
                Some(run) => return Ok(Some(run)),
                None if self.whole || self.index + 1 >= self.ranges.len() => return Ok(None),
                None => {
                    self.index += 1;
                    let range = self.ranges[self.index].clone();
                    self.runs = Some(self.map.scan(range, self.filter));
                }
            }
        }
    }

    fn step(&mut self) -> io::Result<Option<(usize, PageRange)>> {
        loop {
            let run = match self.rest.take() {
                Some(rest) => rest,
                None => match self.run()? {
                    Some(run) => run,
                    None => return Ok(None),
                },
            };
            // Runs come in order, so ranges before this one are done with.
            while self.ranges.get(self.index).is_some_and(|range| range.end <= run.start) {
                self.index += 1;
            }
            let Some(range) = self.ranges.get(self.index) else { return Ok(None) };
            if run.end > range.end {
                self.rest = Some(PageRange { start: range.end, ..run });
            }
            let part = PageRange { start: run.start.max(range.start), end: run.end.min(range.end), ..run };
            if part.start < part.end {
                return Ok(Some((self.index, part)));
            }
        }
    }
}

impl Iterator for RangeRuns<'_> {
    type Item = io::Result<(usize, PageRange)>;

    fn next(&mut self) -> Option<Self::Item> {
        let answer = self.step();
        if answer.is_err() {
            self.runs = None;
            self.rest = None;
            self.whole = true;
        }
        answer.transpose()
    }
}

/// Whether the kernel has `PAGEMAP_SCAN`: one call for the first page, which is never mapped.
fn can_scan(map: &PageMap) -> bool {
    match map.scan_with(0..PAGE, Filter::default(), Action::Look).next() {
        Some(Err(error)) => !is_missing(&error),
        _ => true,
    }
}
