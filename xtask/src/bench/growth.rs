//! How the cost grows with the size of the tree.

use super::measure::{Sample, measure};
use super::{median, milliseconds};
use anyhow::{Context, Result};
use criu_testkit::Sandbox;
use std::path::Path;
use std::time::Duration;

const ROUNDS: usize = 3;

/// Name, load, and the numbers of items.
const KINDS: [(&str, &str, [usize; 3]); 4] = [
    ("tasks", "tree", [10, 100, 1000]),
    ("threads", "threads", [10, 100, 1000]),
    ("descriptors", "fds", [10, 100, 1000]),
    ("mappings", "vmas", [1000, 10_000, 50_000]),
];

/// Three sizes of each kind: whole times, and what one item more costs from the smaller size on.
pub fn run(binary: &Path) -> Result<()> {
    println!("growth, median of {ROUNDS} rounds; per item: what each further item takes\n");
    println!(
        "{:<14}{:>8}{:>10}{:>13}{:>12}{:>13}",
        "kind", "n", "dump ms", "per item us", "restore ms", "per item us"
    );
    for (name, load, sizes) in KINDS {
        let mut before: Option<(usize, Duration, Duration)> = None;
        for size in sizes {
            let samples =
                samples(binary, &[load, &size.to_string()]).with_context(|| format!("{size} {name}"))?;
            let dump = median(samples.iter().map(|sample| sample.dump));
            let restore = median(samples.iter().map(|sample| sample.restore));
            let each = |time: Duration, base: fn(&(usize, Duration, Duration)) -> Duration| match &before {
                Some(known) => {
                    let more = milliseconds(time) - milliseconds(base(known));
                    format!("{:.1}", more * 1e3 / (size - known.0) as f64)
                }
                None => "-".into(),
            };
            let (dump_each, restore_each) = (each(dump, |known| known.1), each(restore, |known| known.2));
            let (dump_ms, restore_ms) = (milliseconds(dump), milliseconds(restore));
            println!("{name:<14}{size:>8}{dump_ms:>10.1}{dump_each:>13}{restore_ms:>12.1}{restore_each:>13}");
            before = Some((size, dump, restore));
        }
    }
    println!();
    Ok(())
}

/// The memory that criu-rs takes for a target of 4 GiB.
pub fn memory(binary: &Path) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let sample = measure(&sandbox, binary, &["memory", "1", "4096"], &[], 0)?;
    println!(
        "peak memory of the largest process of criu-rs for 4 GiB: {:.1} MiB",
        sample.memory as f64 / 1024.0
    );
    Ok(())
}

fn samples(binary: &Path, load: &[&str]) -> Result<Vec<Sample>> {
    let sandbox = Sandbox::new()?;
    let rounds = (0..=ROUNDS).map(|round| measure(&sandbox, binary, load, &[], round));
    let mut samples = rounds.collect::<Result<Vec<_>>>()?;
    samples.remove(0); // finds cold caches
    Ok(samples)
}
