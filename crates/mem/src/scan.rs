//! What a frozen task's memory consists of, seen from outside.

use crate::error::Error;
use crate::pages::{self, Run};
use crate::read::is_exclusive;
use crate::read_ahead::ReadAhead;
use crate::status;
use crate::vma::{self, Area};
use criu_images::proto::VmaEntry;
use criu_kernel::pagemap::{Category, Filter, PageMap};
use criu_kernel::proc::ProcDir;
use criu_kernel::{Pid, procmap};
use criu_resource::BoxError;
use nix::fcntl::OFlag;
use nix::sys::statfs::fstatfs;
use std::io::BufReader;

/// Comparing less than this with another task's memory takes next to no time.
const LARGE: u64 = 1 << 20;

/// The areas of task `pid`, whose directory in procfs is `proc`. `shmem` is what [`crate::shmem::device`]
/// says.
///
/// # Errors
/// Those of reading `/proc/PID/smaps`, and [`Error::Unsupported`].
pub fn areas(proc: &ProcDir, pid: i32, shmem: (u32, u32)) -> Result<Vec<Area>, BoxError> {
    let text = BufReader::with_capacity(64 << 10, ReadAhead::new(proc.file("smaps")?)?);
    let maps = procmap::parse_smaps(text).collect::<Result<Vec<_>, _>>()?;
    let mut areas = vma::classify(pid, shmem, maps)?;
    for Area { entry, .. } in areas.iter_mut().filter(|area| area.entry.flags & status::MAP_HUGETLB != 0) {
        let name = format!("map_files/{:x}-{:x}", entry.start, entry.end);
        let file = proc.open_file(name.as_str(), OFlag::O_PATH)?;
        entry.flags |= status::huge_size(fstatfs(file)?.block_size() as u64);
    }
    Ok(areas)
}

/// The pages to be stored of a task, and its guard pages: one pass over the page tables.
///
/// Private pages are stored that are in memory or swap, but for those that a file or the kernel's page of
/// zeros stands for. PAGEMAP_SCAN, Linux 6.7; before that, every word of `/proc/PID/pagemap` is read. Guard pages
/// (MADV_GUARD_INSTALL, Linux 6.13) are only told from others since Linux 6.16.
///
/// # Errors
/// Those of reading `/proc/PID/pagemap`.
pub fn page_runs(pid: i32, areas: &[Area]) -> Result<(Vec<Run>, Vec<VmaEntry>), Error> {
    let scanned: Vec<&VmaEntry> = areas
        .iter()
        .map(|area| &area.entry)
        .filter(|entry| !status::is_special(entry) && status::is(entry, status::REGULAR))
        .collect();
    let ranges: Vec<_> = scanned.iter().map(|entry| entry.start..entry.end).collect();
    let pagemap = PageMap::open(Pid::from_raw(pid)).map_err(|source| Error::Call {
        pid,
        call: "open(/proc/PID/pagemap)",
        address: 0,
        source,
    })?;
    let filter = Filter {
        all: Category::ZERO,
        any: Category::PRESENT | Category::SWAPPED,
        inverted: Category::ZERO,
        report: Category::FILE | guard_category(&pagemap),
    };
    let mut runs: Vec<Run> = Vec::new();
    let mut guards = Vec::new();
    for found in pagemap.scan_ranges(&ranges, filter) {
        let (index, range) =
            found.map_err(|source| Error::Call { pid, call: "PAGEMAP_SCAN", address: 0, source })?;
        let entry = scanned[index];
        if range.is.contains(Category::GUARD) {
            guards.push(guard(range.start, range.end));
            continue;
        }
        let of_file = status::is(entry, status::FILE_PRIVATE) && range.file();
        // The kernel may drop such pages at any time, so that what is in them is no state.
        let droppable = entry.flags & status::MAP_DROPPABLE != 0;
        if !status::is_private(entry) || of_file || droppable {
            continue;
        }
        let readable = entry.prot & libc::PROT_READ as u32 != 0;
        match runs.last_mut() {
            Some(last) if last.end == range.start && last.readable == readable => last.end = range.end,
            _ => runs.push(Run { start: range.start, end: range.end, readable }),
        }
    }
    // The vDSO is kept whole, so that a restore can tell whether it has the same one.
    let whole = status::VDSO | status::AIORING;
    for entry in areas.iter().map(|area| &area.entry).filter(|entry| status::any(entry, whole)) {
        let at = runs.partition_point(|run| run.start < entry.start);
        runs.insert(at, Run { start: entry.start, end: entry.end, readable: true });
    }
    Ok((runs, guards))
}

/// Notes large areas of which no page is shared with another task: restore need not look for what to share.
///
/// # Errors
/// Those of opening `/proc/PID/pagemap`.
pub fn note_own(proc: &ProcDir, areas: &mut [Area], runs: &[Run]) -> Result<(), BoxError> {
    let pagemap = proc.file("pagemap")?;
    for Area { entry, note, .. } in areas.iter_mut().filter(|area| status::is_private(&area.entry)) {
        let from = runs.partition_point(|run| run.end <= entry.start);
        let to = runs.partition_point(|run| run.start < entry.end);
        let within = runs[from..to].iter().map(|run| Run {
            start: run.start.max(entry.start),
            end: run.end.min(entry.end),
            ..*run
        });
        let large = within.clone().map(|run| run.len()).sum::<u64>() >= LARGE;
        note.own = large && within.into_iter().all(|run| is_exclusive(&pagemap, &run));
    }
    Ok(())
}

/// `GUARD` where the kernel knows the word (Linux 6.16).
fn guard_category(pagemap: &PageMap) -> Category {
    let filter = Filter { report: Category::GUARD, ..Filter::default() };
    match pagemap.scan(0..pages::PAGE, filter).next() {
        Some(Err(_)) => Category::empty(),
        _ => Category::GUARD,
    }
}

fn guard(start: u64, end: u64) -> VmaEntry {
    VmaEntry { start, end, status: status::GUARD, ..VmaEntry::default() }
}
