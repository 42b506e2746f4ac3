//! `cargo xtask bench`: how long a dump and a restore take, and how long the target stands still.
//!
//! Both binaries work in sandboxes of the same kind, with a tmpfs on /run, where the reference keeps what it learned
//! of the kernel; images go to the temporary folder. Rounds of the two are interleaved, the first round is thrown
//! away, and a ratio is the median over the pairs of one round.
//!
//! Arguments choose: names of [`ROWS`], `snapshot`, `growth`, `memory`. Without any, all of it.

mod growth;
mod measure;
mod snapshot;

use crate::cargo::criu;
use anyhow::{Context, Result, bail, ensure};
use criu_testkit::Sandbox;
use measure::{Sample, measure};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

const ROUNDS: usize = 5;

/// The row whose /run is no tmpfs.
const NO_TMPFS: &str = "tiny-disk-run";

const ROWS: [Row; 8] = [
    Row { name: "tiny", load: &["tiny"] },
    // The reference keeps its probes in no other file system than a tmpfs.
    Row { name: NO_TMPFS, load: &["tiny"] },
    Row { name: "tree", load: &["tree", "64"] },
    Row { name: "threads", load: &["threads", "500"] },
    Row { name: "fds", load: &["fds", "1200"] },
    Row { name: "vmas", load: &["vmas", "20000"] },
    Row { name: "1GiB", load: &["memory", "1", "1024"] },
    Row { name: "8x128MiB", load: &["memory", "8", "128"] },
];

/// What is dumped, as the fixture `load` takes it.
struct Row {
    name: &'static str,
    load: &'static [&'static str],
}

type Column = (&'static str, fn(&Sample) -> Duration);

const COLUMNS: [Column; 3] = [
    ("dump", |sample| sample.dump),
    ("frozen", |sample| sample.frozen),
    ("restore", |sample| sample.restore),
];

/// Measures what is named, or all.
pub fn run(names: &[&str]) -> Result<()> {
    let all: Vec<&str> = ROWS.iter().map(|row| row.name).chain(["snapshot", "growth", "memory"]).collect();
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        bail!("nothing is called {unknown}; there are {}", all.join(", "));
    }
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    let reference = std::env::var_os("CRIU_REFERENCE").map(PathBuf::from);
    let peers = Peers { ours: criu()?, reference, used: RefCell::default() };
    if ROWS.iter().any(|row| wanted(row.name)) {
        rows(&peers, &wanted)?;
    }
    if wanted("snapshot") {
        snapshot::run(&peers)?;
    }
    if wanted("growth") {
        growth::run(&peers.ours)?;
    }
    if wanted("memory") {
        growth::memory(&peers.ours)?;
    }
    Ok(())
}

fn rows(peers: &Peers, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    println!("times in ms, median of {ROUNDS} rounds; memory is that of the largest process of criu-rs\n");
    print!("{:<14}", "row");
    for (name, _) in COLUMNS {
        peers.head(name);
    }
    println!("{:>12}", "memory MiB");
    for row in ROWS.iter().filter(|row| wanted(row.name)) {
        let samples = peers.samples(row, [&[], &[]]).with_context(|| format!("row {}", row.name))?;
        print!("{:<14}", row.name);
        for (_, column) in COLUMNS {
            peers.print(&samples, column);
        }
        let memory = samples.iter().map(|(ours, _)| ours.memory).max().unwrap_or(0);
        println!("{:>12.1}", memory as f64 / 1024.0);
    }
    println!();
    Ok(())
}

/// criu-rs and whom it is compared with.
struct Peers {
    ours: PathBuf,
    reference: Option<PathBuf>,
    /// Kept until the end, with the files in them.
    used: RefCell<Vec<Sandbox>>,
}

impl Peers {
    /// One pair for each round. The options, of criu-rs and the reference, are those of their dumps.
    fn samples(&self, row: &Row, options: [&[&str]; 2]) -> Result<Vec<(Sample, Sample)>> {
        let (our_sandbox, their_sandbox) = (Sandbox::new()?, Sandbox::new()?);
        if row.name == NO_TMPFS {
            for sandbox in [&our_sandbox, &their_sandbox] {
                let run = sandbox.folder("run")?;
                let mounted =
                    sandbox.run([OsStr::new("mount"), "--bind".as_ref(), run.as_ref(), "/run".as_ref()])?;
                ensure!(mounted.status.success(), "{mounted}");
            }
        }
        let mut samples = Vec::new();
        for round in 0..=ROUNDS {
            let ours = || measure(&our_sandbox, &self.ours, row.load, options[0], round).context("criu-rs");
            let theirs = || match &self.reference {
                Some(binary) => {
                    measure(&their_sandbox, binary, row.load, options[1], round).context("the reference")
                }
                None => Ok(Sample::default()),
            };
            // Neither is always the one that finds the caches as the other left them.
            let pair = match round % 2 {
                0 => (ours()?, theirs()?),
                _ => {
                    let theirs = theirs()?;
                    (ours()?, theirs)
                }
            };
            if round > 0 {
                samples.push(pair);
            }
        }
        self.used.borrow_mut().extend([our_sandbox, their_sandbox]);
        Ok(samples)
    }

    fn head(&self, name: &str) {
        print!("{name:>10}");
        if self.reference.is_some() {
            print!("{:>12}{:>8}", "reference", "ratio");
        }
    }

    /// Median, that of the reference, and of the ratios of one round.
    fn print(&self, samples: &[(Sample, Sample)], column: fn(&Sample) -> Duration) {
        print!("{:>10.1}", milliseconds(median(samples.iter().map(|(ours, _)| column(ours)))));
        if self.reference.is_some() {
            let ratio =
                |pair: &(Sample, Sample)| column(&pair.0).as_secs_f64() / column(&pair.1).as_secs_f64();
            let theirs = median(samples.iter().map(|(_, theirs)| column(theirs)));
            print!("{:>12.1}{:>8.2}", milliseconds(theirs), median(samples.iter().map(ratio)));
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median<T: PartialOrd + Copy>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<_> = values.collect();
    values.sort_by(|one, other| one.partial_cmp(other).expect("times are numbers"));
    values[values.len() / 2]
}
