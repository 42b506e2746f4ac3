//! Which pages of an address space hold what: the `PAGEMAP_SCAN` ioctl (Linux 6.7), and the
//! 64-bit words of `/proc/PID/pagemap` where it is missing.
//!
//! A scan walks page tables only, so one pass over the whole address space costs what is mapped,
//! not what could be; the words have to be read for every page of a range.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::plain::{self, Plain};

mod ranges;
mod words;

pub use ranges::RangeRuns;

/// End of the user's half of the address space with four page table levels.
pub const ADDRESS_SPACE_END: u64 = 0x7fff_ffff_f000;

bitflags::bitflags! {
    /// What a page is.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Category: u64 {
        /// Its mapping is registered for asynchronous write protection (userfaultfd); scan only.
        const WP_ALLOWED = 1 << 0;
        /// Written since it was last write-protected by userfaultfd.
        const WRITTEN = 1 << 1;
        /// Belongs to a file or to shared memory.
        const FILE = 1 << 2;
        /// In memory.
        const PRESENT = 1 << 3;
        /// In swap.
        const SWAPPED = 1 << 4;
        /// The kernel's page of zeros: read, never written.
        const ZERO = 1 << 5;
        /// Part of a huge page; scan only.
        const HUGE = 1 << 6;
        /// Written since soft-dirty bits were cleared.
        const SOFT_DIRTY = 1 << 7;
        /// A guard page (`MADV_GUARD_INSTALL`); asking for it by scan needs Linux 6.16.
        const GUARD = 1 << 8;
    }
}

/// A run of pages that are alike in every category asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    /// Address of the first page.
    pub start: u64,
    /// Address after the last page.
    pub end: u64,
    /// What the pages are, as far as asked for.
    pub is: Category,
}

impl PageRange {
    /// In memory.
    pub fn present(&self) -> bool {
        self.is.contains(Category::PRESENT)
    }

    /// In swap.
    pub fn swapped(&self) -> bool {
        self.is.contains(Category::SWAPPED)
    }

    /// Of a file or shared memory.
    pub fn file(&self) -> bool {
        self.is.contains(Category::FILE)
    }

    /// The kernel's page of zeros.
    pub fn zero(&self) -> bool {
        self.is.contains(Category::ZERO)
    }

    /// Soft-dirty.
    pub fn soft_dirty(&self) -> bool {
        self.is.contains(Category::SOFT_DIRTY)
    }

    /// Written since write-protected.
    pub fn written(&self) -> bool {
        self.is.contains(Category::WRITTEN)
    }

    /// Part of a huge page.
    pub fn huge(&self) -> bool {
        self.is.contains(Category::HUGE)
    }

    /// How many pages of 4 KiB.
    pub fn pages(&self) -> u64 {
        (self.end - self.start) / PAGE
    }
}

const PAGE: u64 = 4096;
const KERNEL_HALF: u64 = 1 << 63;

/// Which pages a scan reports, and what it tells about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// All of these must hold.
    pub all: Category,
    /// Any of these must hold (empty: no condition).
    pub any: Category,
    /// Of `all` and `any`, these are meant the other way round.
    pub inverted: Category,
    /// What to tell; pages that differ only in other respects come as one run.
    pub report: Category,
}

impl Default for Filter {
    /// All pages with content, in memory or in swap, with everything that is known everywhere.
    fn default() -> Self {
        Self {
            all: Category::empty(),
            any: Category::PRESENT | Category::SWAPPED,
            inverted: Category::empty(),
            report: Category::all() - Category::GUARD,
        }
    }
}

impl Filter {
    fn accepts(&self, is: Category) -> bool {
        let is = is ^ self.inverted;
        is.contains(self.all) && (self.any.is_empty() || is.intersects(self.any))
    }
}

/// What a scan does to the pages beside looking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Only looks.
    #[default]
    Look,
    /// Write-protects the pages reported, in the same step; mappings that are not registered
    /// with userfaultfd for asynchronous write protection are left alone.
    WriteProtect,
    /// As `WriteProtect`, but fails with `EPERM` where a mapping is not registered.
    WriteProtectAll,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

// SAFETY: twelve u64.
unsafe impl Plain for ScanArg {}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGEMAP_SCAN: libc::Ioctl = nix::request_code_readwrite!(b'f', 16, size_of::<ScanArg>()) as libc::Ioctl;
const PM_SCAN_WP_MATCHING: u64 = 1;
const PM_SCAN_CHECK_WPASYNC: u64 = 2;
/// Runs asked for at once: 24 KiB.
const BATCH: usize = 1024;

/// An open `/proc/PID/pagemap`.
#[derive(Debug)]
pub struct PageMap {
    file: File,
    words: bool,
}

impl PageMap {
    /// Opens it by pid.
    pub fn open(pid: Pid) -> io::Result<Self> {
        Ok(Self::from(OwnedFd::from(File::open(format!("/proc/{pid}/pagemap"))?)))
    }

    /// Uses the 64-bit words even where the kernel can scan.
    pub fn by_words(self) -> Self {
        Self { words: true, ..self }
    }

    /// The runs of pages in `range` that match `filter`, in order.
    ///
    /// Where `PAGEMAP_SCAN` is missing, the words of `range` are read instead: then give ranges
    /// of mappings, not the whole address space. [`Category::ZERO`] is told there only with
    /// `CAP_SYS_ADMIN`, [`Category::HUGE`] and [`Category::WP_ALLOWED`] not at all.
    ///
    /// A range in the kernel's half (`[vsyscall]`) has no pages.
    pub fn scan(&self, range: Range<u64>, filter: Filter) -> Runs<'_> {
        let range = range.start..range.end.min(KERNEL_HALF);
        if self.words {
            Runs(Way::Words(words::Words::new(&self.file, range, filter)))
        } else {
            Runs(Way::Scan(Scan::new(&self.file, range, filter, Action::Look)))
        }
    }

    /// The matching runs in many ranges, sorted and without overlap, each with the index of its
    /// range: one pass over the address space, however many ranges there are.
    ///
    /// A run never reaches from one range into the next, as those of [`PageMap::scan`] may do
    /// where mappings touch.
    pub fn scan_ranges<'a>(&'a self, ranges: &'a [Range<u64>], filter: Filter) -> RangeRuns<'a> {
        RangeRuns::new(self, ranges, filter)
    }

    /// As [`PageMap::scan`], but with an action, and only where the kernel can scan (`ENOTTY`).
    pub fn scan_with(&self, range: Range<u64>, filter: Filter, action: Action) -> Runs<'_> {
        let scan = Scan::new(&self.file, range, filter, action);
        Runs(Way::Scan(Scan { fallback: false, ..scan }))
    }
}

impl From<OwnedFd> for PageMap {
    fn from(fd: OwnedFd) -> Self {
        Self { file: fd.into(), words: false }
    }
}

impl AsFd for PageMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Iterator of [`PageMap::scan`]; it ends after an error.
#[derive(Debug)]
pub struct Runs<'a>(Way<'a>);

#[derive(Debug)]
enum Way<'a> {
    Scan(Scan<'a>),
    Words(words::Words<'a>),
}

impl Iterator for Runs<'_> {
    type Item = io::Result<PageRange>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Way::Scan(scan) = &mut self.0 {
            match scan.next() {
                Some(Err(error)) if scan.fallback && is_missing(&error) => {
                    let rest = scan.at..scan.range_end;
                    self.0 = Way::Words(words::Words::new(scan.file, rest, scan.filter));
                }
                answer => return answer,
            }
        }
        match &mut self.0 {
            Way::Words(words) => words.next(),
            Way::Scan(scan) => scan.next(),
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOTTY)
}

/// A scan under way.
#[derive(Debug)]
struct Scan<'a> {
    file: &'a File,
    filter: Filter,
    flags: u64,
    at: u64,
    range_end: u64,
    fallback: bool,
    regions: Vec<Region>,
    taken: usize,
    run: Option<PageRange>,
}

impl<'a> Scan<'a> {
    fn new(file: &'a File, range: Range<u64>, filter: Filter, action: Action) -> Self {
        Self {
            file,
            filter,
            flags: match action {
                Action::Look => 0,
                Action::WriteProtect => PM_SCAN_WP_MATCHING,
                Action::WriteProtectAll => PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
            },
            at: range.start,
            range_end: range.end,
            fallback: true,
            regions: Vec::new(),
            taken: 0,
            run: None,
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        // A small range has room for few regions only; the kernel's effort grows with the room.
        let room = ((self.range_end - self.at) / PAGE).clamp(1, BATCH as u64) as usize;
        self.regions.resize(room, Region { start: 0, end: 0, categories: 0 });
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            flags: self.flags,
            start: self.at,
            end: self.range_end,
            vec: self.regions.as_mut_ptr() as u64,
            vec_len: room as u64,
            category_inverted: self.filter.inverted.bits(),
            category_mask: self.filter.all.bits(),
            category_anyof_mask: self.filter.any.bits(),
            return_mask: self.filter.report.bits(),
            ..plain::zeroed()
        };
        // SAFETY: `arg` has the size it says and names the regions with their number.
        let n = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &mut arg) };
        let n = Errno::result(n)? as usize;
        self.regions.truncate(n);
        self.taken = 0;
        // Not `walk_end`: after an inner buffer of the kernel was full once, it stays behind.
        self.at = match self.regions.last() {
            Some(last) if n == room => last.end,
            _ => self.range_end,
        };
        Ok(())
    }
}

impl Scan<'_> {
    /// The next region as the kernel gives it: a run may come in pieces.
    fn region(&mut self) -> io::Result<Option<PageRange>> {
        while self.taken == self.regions.len() {
            if self.at >= self.range_end {
                return Ok(None);
            }
            if let Err(error) = self.refill() {
                if !(self.fallback && is_missing(&error)) {
                    self.at = self.range_end;
                }
                self.regions.clear();
                self.taken = 0;
                return Err(error);
            }
        }
        let Region { start, end, categories } = self.regions[self.taken];
        self.taken += 1;
        Ok(Some(PageRange { start, end, is: Category::from_bits_truncate(categories) }))
    }
}

impl Iterator for Scan<'_> {
    type Item = io::Result<PageRange>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let region = match self.region() {
                Ok(Some(region)) => region,
                Ok(None) => return self.run.take().map(Ok),
                Err(error) => return Some(Err(error)),
            };
            match &mut self.run {
                Some(run) if run.end == region.start && run.is == region.is => run.end = region.end,
                run => {
                    if let Some(done) = run.replace(region) {
                        return Some(Ok(done));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
