//! The 64-bit words of `/proc/PID/pagemap`, one a page.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use super::{Category, Filter, PAGE, PageRange};

const PFN_MASK: u64 = (1 << 55) - 1;
/// Words read at once: 64 KiB, the state of 32 MiB.
const BATCH: usize = 8192;

/// A reading under way.
#[derive(Debug)]
pub(super) struct Words<'a> {
    file: &'a File,
    filter: Filter,
    /// Page number after the last word in `words`.
    page: u64,
    end: u64,
    words: Vec<u8>,
    taken: usize,
    run: Option<PageRange>,
}

impl<'a> Words<'a> {
    pub(super) fn new(file: &'a File, range: Range<u64>, filter: Filter) -> Self {
        Self {
            file,
            filter,
            page: range.start / PAGE,
            end: range.end.div_ceil(PAGE).max(range.start / PAGE),
            words: Vec::new(),
            taken: 0,
            run: None,
        }
    }

    /// The next page's number and word.
    fn word(&mut self) -> io::Result<Option<(u64, u64)>> {
        if self.taken == self.words.len() {
            let wanted = (self.end - self.page.min(self.end)).min(BATCH as u64) as usize * 8;
            self.words.resize(wanted, 0);
            self.taken = 0;
            let n = if wanted == 0 { 0 } else { self.file.read_at(&mut self.words, self.page * 8)? };
            self.words.truncate(n / 8 * 8);
            self.page += self.words.len() as u64 / 8;
            if self.words.is_empty() {
                return Ok(None);
            }
        }
        let page = self.page - ((self.words.len() - self.taken) / 8) as u64;
        let mut word = [0; 8];
        word.copy_from_slice(&self.words[self.taken..self.taken + 8]);
        self.taken += 8;
        Ok(Some((page, u64::from_ne_bytes(word))))
    }
}

impl Iterator for Words<'_> {
    type Item = io::Result<PageRange>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (page, word) = match self.word() {
                Ok(Some(found)) => found,
                Ok(None) => return self.run.take().map(Ok),
                Err(error) => {
                    self.page = self.end;
                    self.words.clear();
                    self.taken = 0;
                    self.run = None;
                    return Some(Err(error));
                }
            };
            let is = decode(word, zero_pfn());
            let start = page * PAGE;
            let (accepted, is) = (self.filter.accepts(is), is & self.filter.report);
            if let Some(run) = &mut self.run
                && accepted
                && run.end == start
                && run.is == is
            {
                run.end += PAGE;
                continue;
            }
            let done = self.run.take();
            if accepted {
                self.run = Some(PageRange { start, end: start + PAGE, is });
            }
            if let Some(done) = done {
                return Some(Ok(done));
            }
        }
    }
}

/// Documentation/admin-guide/mm/pagemap.rst in the kernel's source names the bits.
fn decode(word: u64, zero_pfn: u64) -> Category {
    let bit = |n: u32| word >> n & 1 == 1;
    let mut is = Category::empty();
    is.set(Category::PRESENT, bit(63));
    is.set(Category::SWAPPED, bit(62));
    is.set(Category::FILE, bit(61));
    is.set(Category::GUARD, bit(58));
    is.set(Category::WRITTEN, (bit(63) || bit(62)) && !bit(57));
    is.set(Category::SOFT_DIRTY, bit(55));
    is.set(Category::ZERO, bit(63) && zero_pfn != 0 && word & PFN_MASK == zero_pfn);
    is
}

/// The frame number of the kernel's page of zeros; 0 where frame numbers are hidden from us.
fn zero_pfn() -> u64 {
    static PFN: OnceLock<u64> = OnceLock::new();
    *PFN.get_or_init(|| find_zero_pfn().unwrap_or(0))
}

fn find_zero_pfn() -> io::Result<u64> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    let len = std::num::NonZeroUsize::new(PAGE as usize).ok_or(io::ErrorKind::InvalidInput)?;
    let pagemap = File::open("/proc/self/pagemap")?;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let page = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE) }?;
    let mut word = [0; 8];
    // SAFETY: the page was mapped readable just now; reading it brings in the page of zeros.
    unsafe { page.cast::<u8>().read_volatile() };
    let read = pagemap.read_exact_at(&mut word, page.as_ptr() as u64 / PAGE * 8);
    // SAFETY: the mapping is ours, and nothing refers to it any more.
    unsafe { munmap(page, len.get()) }?;
    read?;
    Ok(u64::from_ne_bytes(word) & PFN_MASK)
}
