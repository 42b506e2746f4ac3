//! One dump and one restore, timed.

use anyhow::{Context, Result, ensure};
use criu_testkit::{Criu, Sandbox, Target, fixture};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// One dump and one restore.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub dump: Duration,
    pub frozen: Duration,
    pub restore: Duration,
    /// KiB of the largest process of either.
    pub memory: u64,
}

/// Starts the load, dumps it, with these options too, and restores it.
pub fn measure(
    sandbox: &Sandbox,
    binary: &Path,
    load: &[&str],
    options: &[&str],
    round: usize,
) -> Result<Sample> {
    let criu = Criu { sandbox, binary: binary.into() };
    let empty = sandbox.traces()?;
    let mut target = Target::start(sandbox, &[&["load"], load].concat())?;
    let images = format!("images-{round}");
    let folder = sandbox.folder(&images)?;

    let mut words = quiet(
        ["dump", "--display-stats", "-t"],
        [target.pid.to_string().into(), "-D".into(), folder.clone().into()],
    );
    words.extend(options.iter().map(OsString::from));
    let (dump, dump_memory, said) = timed(sandbox, &criu, words)?;
    if options.contains(&"--leave-running") {
        sandbox.run(["kill", "-9", &target.pid.to_string()])?;
    }
    // The kernel frees a pid some time after it took the task out of /proc: it first forgets what /proc showed.
    sandbox.settles_to(&empty)?;
    sleep(Duration::from_millis(100));
    let words = quiet(["restore", "-d", "-D"], [folder.clone().into()]);
    let (restore, restore_memory, _) = timed(sandbox, &criu, words)?;
    target.check()?;

    // A load's children wait for ever; all but the sandbox's init end here.
    sandbox.run(["sh", "-c", "kill -9 -1"])?;
    sandbox.settles_to(&empty)?;
    // Only what is large. ext4 spends seconds on new files after it lost many: it passes over each inode that was
    // freed lately, and both peers would be measured by that.
    for image in fs::read_dir(folder)? {
        let image = image?;
        if image.file_name().to_string_lossy().starts_with("pages-") {
            fs::remove_file(image.path())?;
        }
    }
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
