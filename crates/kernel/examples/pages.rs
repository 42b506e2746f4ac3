//! Prints a process's mappings with the pages that have content:
//! `cargo run -p criu-kernel --example pages -- PID` (without a pid: itself).

use std::error::Error;

use criu_kernel::Pid;
use criu_kernel::pagemap::{Filter, PageMap};
use criu_kernel::proc::ProcDir;

fn main() -> Result<(), Box<dyn Error>> {
    let pid = match std::env::args().nth(1) {
        Some(text) => Pid::from_raw(text.parse()?),
        None => Pid::this(),
    };
    let dir = ProcDir::open(pid)?;
    println!("{pid} {}", String::from_utf8_lossy(&dir.comm()?));

    let map = PageMap::open(pid)?;
    for vma in dir.maps()? {
        let (mut anonymous, mut file, mut swapped) = (0, 0, 0);
        for run in map.scan(vma.start..vma.end, Filter::default()) {
            let run = run?;
            match (run.swapped(), run.file()) {
                (true, _) => swapped += run.pages(),
                (_, true) => file += run.pages(),
                _ => anonymous += run.pages(),
            }
        }
        println!(
            "{:>16x}-{:<16x} {:?}{} {:>7} pages: {anonymous} private, {file} file, {swapped} swapped  {}",
            vma.start,
            vma.end,
            vma.prot,
            if vma.shared { " shared" } else { "" },
            vma.len() / 4096,
            vma.name.display(),
        );
    }
    Ok(())
}
