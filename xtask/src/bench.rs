//! `cargo xtask bench`: how long a dump and a restore take, and how long the target stands still.
//!
//! Both binaries work in sandboxes of the same kind, with a tmpfs on /run, where the reference keeps what it learned
//! of the kernel; images go to the temporary folder. Rounds of the two are interleaved, the first round is thrown
//! away, and a ratio is the median over the pairs of one round.

use crate::cargo::criu;
use anyhow::{Context, Result, bail, ensure};
use criu_testkit::{Criu, Sandbox, Target, fixture};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

const ROUNDS: usize = 5;

/// Name and load of each row.
const ROWS: [(&str, &[&str]); 7] = [
    ("tiny", &["tiny"]),
    ("tree", &["tree", "64"]),
    ("threads", &["threads", "500"]),
    ("fds", &["fds", "1200"]),
    ("vmas", &["vmas", "20000"]),
    ("1GiB", &["memory", "1", "1024"]),
    ("8x128MiB", &["memory", "8", "128"]),
];

/// One dump and one restore.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    dump: Duration,
    frozen: Duration,
    restore: Duration,
    /// KiB of the largest process of either.
    memory: u64,
}

type Column = (&'static str, fn(&Sample) -> Duration);

const COLUMNS: [Column; 3] = [
    ("dump", |sample| sample.dump),
    ("frozen", |sample| sample.frozen),
    ("restore", |sample| sample.restore),
];

/// Measures the rows named, or all.
pub fn run(rows: &[&str]) -> Result<()> {
    if let Some(unknown) = rows.iter().find(|row| !ROWS.iter().any(|(name, _)| name == *row)) {
        bail!("no row {unknown}; there are {}", ROWS.map(|(name, _)| name).join(", "));
    }
    let ours = criu()?;
    let reference = std::env::var_os("CRIU_REFERENCE").map(PathBuf::from);
    println!("times in ms, median of {ROUNDS} rounds; memory is that of the largest process of criu-rs\n");
    print!("{:<10}", "row");
    for (name, _) in COLUMNS {
        print!("{name:>10}");
        if reference.is_some() {
            print!("{:>12}{:>8}", "reference", "ratio");
        }
    }
    println!("{:>12}", "memory MiB");
    for (name, load) in ROWS.into_iter().filter(|(name, _)| rows.is_empty() || rows.contains(name)) {
        row(name, load, &ours, reference.as_deref()).with_context(|| format!("row {name}"))?;
    }
    Ok(())
}

fn row(name: &str, load: &[&str], ours: &Path, reference: Option<&Path>) -> Result<()> {
    let our_sandbox = Sandbox::new()?;
    let their_sandbox = Sandbox::new()?;
    let mut samples = Vec::new();
    for round in 0..=ROUNDS {
        let our_sample = || measure(&our_sandbox, ours, load, round).context("criu-rs");
        let their_sample = || match reference {
            Some(binary) => measure(&their_sandbox, binary, load, round).context("the reference"),
            None => Ok(Sample::default()),
        };
        // Neither is always the one that finds the caches as the other left them.
        let pair = match round % 2 {
            0 => (our_sample()?, their_sample()?),
            _ => {
                let their = their_sample()?;
                (our_sample()?, their)
            }
        };
        if round > 0 {
            samples.push(pair);
        }
    }
    print!("{name:<10}");
    for (_, column) in COLUMNS {
        print!("{:>10.1}", milliseconds(median(samples.iter().map(|(ours, _)| column(ours)))));
        if reference.is_some() {
            let ratio =
                |pair: &(Sample, Sample)| column(&pair.0).as_secs_f64() / column(&pair.1).as_secs_f64();
            let theirs = median(samples.iter().map(|(_, theirs)| column(theirs)));
            print!("{:>12.1}{:>8.2}", milliseconds(theirs), median(samples.iter().map(ratio)));
        }
    }
    let memory = samples.iter().map(|(ours, _)| ours.memory).max().unwrap_or(0);
    println!("{:>12.1}", memory as f64 / 1024.0);
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median<T: PartialOrd + Copy>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<_> = values.collect();
    values.sort_by(|one, other| one.partial_cmp(other).expect("times are numbers"));
    values[values.len() / 2]
}

fn measure(sandbox: &Sandbox, binary: &Path, load: &[&str], round: usize) -> Result<Sample> {
    let criu = Criu { sandbox, binary: binary.into() };
    let empty = sandbox.traces()?;
    let mut target = Target::start(sandbox, &[&["load"], load].concat())?;
    let images = format!("images-{round}");
    let folder = sandbox.folder(&images)?;

    let words = quiet(
        ["dump", "--display-stats", "-t"],
        [target.pid.to_string().into(), "-D".into(), folder.clone().into()],
    );
    let (dump, dump_memory, said) = timed(sandbox, &criu, words)?;
    // The kernel frees a pid some time after it took the task out of /proc: it first forgets what /proc showed.
    sandbox.settles_to(&empty)?;
    sleep(Duration::from_millis(100));
    let words = quiet(["restore", "-d", "-D"], [folder.clone().into()]);
    let (restore, restore_memory, _) = timed(sandbox, &criu, words)?;
    target.check()?;

    // A load's children wait for ever; all but the sandbox's init end here.
    sandbox.run(["sh", "-c", "kill -9 -1"])?;
    sandbox.settles_to(&empty)?;
    fs::remove_dir_all(folder)?;
    fs::remove_dir_all(target.folder())?;
    let frozen = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("Frozen time: ")?.strip_suffix(" us")?.parse().ok())
        .context("no frozen time in --display-stats")?;
    Ok(Sample {
        dump,
        frozen: Duration::from_micros(frozen),
        restore,
        memory: dump_memory.max(restore_memory),
    })
}

fn quiet<const N: usize, const M: usize>(action: [&str; N], rest: [OsString; M]) -> Vec<OsString> {
    action.into_iter().map(OsString::from).chain(rest).collect()
}

/// Wall time, KiB of the largest process, output.
fn timed(sandbox: &Sandbox, criu: &Criu, words: Vec<OsString>) -> Result<(Duration, u64, String)> {
    let file = sandbox.path("measured");
    let mut command: Vec<OsString> = vec![fixture().into(), "measure".into(), file.clone().into()];
    command.push(criu.binary.clone().into());
    command.extend(words);
    let outcome = sandbox.run(command)?;
    ensure!(outcome.status.success(), "{outcome}");
    let measured = fs::read_to_string(file)?;
    let (time, memory) = measured.split_once(' ').context("measured")?;
    Ok((Duration::from_micros(time.parse()?), memory.parse()?, outcome.stdout + &outcome.stderr))
}
