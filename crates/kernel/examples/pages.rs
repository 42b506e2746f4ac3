//! Prints a process's mappings with the pages that have content:
//! `cargo run -p criu-kernel --example pages -- PID` (without a pid: itself).

use std::error::Error;
use std::io::{BufWriter, Write};
use std::ops::Range;

use criu_kernel::Pid;
use criu_kernel::pagemap::{Filter, PageMap};
use criu_kernel::proc::ProcDir;

#[derive(Clone, Copy, Default)]
struct Count {
    private: u64,
    file: u64,
    swapped: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let pid = match std::env::args().nth(1) {
        Some(text) => Pid::from_raw(text.parse()?),
        None => Pid::this(),
    };
    let dir = ProcDir::open(pid)?;
    let vmas = dir.maps()?;
    let ranges: Vec<Range<u64>> = vmas.iter().map(|vma| vma.start..vma.end).collect();

    // One pass over the page tables for all mappings.
    let mut counts = vec![Count::default(); vmas.len()];
    for part in PageMap::open(pid)?.scan_ranges(&ranges, Filter::default()) {
        let (index, run) = part?;
        let count = &mut counts[index];
        match (run.swapped(), run.file()) {
            (true, _) => count.swapped += run.pages(),
            (_, true) => count.file += run.pages(),
            _ => count.private += run.pages(),
        }
    }

    let mut out = BufWriter::new(std::io::stdout().lock());
    writeln!(out, "{pid} {}: {} mappings", String::from_utf8_lossy(&dir.comm()?), vmas.len())?;
    writeln!(out, "{:>33} {:>8} {:>8} {:>8} {:>8}", "", "pages", "private", "file", "swapped")?;
    for (vma, count) in vmas.iter().zip(counts) {
        writeln!(
            out,
            "{:>16x}-{:<16x} {:>8} {:>8} {:>8} {:>8} {}",
            vma.start,
            vma.end,
            vma.len() / 4096,
            count.private,
            count.file,
            count.swapped,
            vma.name.display(),
        )?;
    }
    Ok(out.flush()?)
}
