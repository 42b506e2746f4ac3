//! `criu-rs restore`.

use crate::{convert, dump::Signals, resources::Catalog, workplace::Workplace};
use anyhow::{Context, Result};
use criu_config::Options;
use criu_images::{Image, StoreExt, magic};
use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;

/// Restores; the exit code.
pub fn run(options: &Options, place: &Workplace, command: &[OsString]) -> Result<u8> {
    let store = place.images()?;
    let catalog = Catalog::new();
    let tree = catalog.tree();
    let pipeline = convert::pipeline(options);
    let park = |parts: &[(String, u64, u64)]| catalog.park_vdso(parts);
    if options.dry_run {
        let text = criu_engine::restore::dry_run(&pipeline, catalog.resources(&tree), &park, &store)?;
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(0);
    }
    let timeout = convert::timeout(options);
    let restored =
        criu_engine::restore(&pipeline, catalog.resources(&tree), &park, &store, timeout, &mut Signals)?;
    place.statistics()?.write_image(Image::Stats, magic::STATS_RESTORE, &[restored.stats.entry()])?;
    if let Some(path) = &options.pidfile {
        place.write_pidfile(path, restored.root)?;
    }
    if options.display_stats {
        writeln!(std::io::stdout(), "{}", restored.stats)?;
    }
    tracing::info!("restore: done, root pid {}", restored.root);
    crate::log::flush();
    if options.exec_cmd {
        let mut words = command.iter();
        let program = words.next().context("--exec-cmd needs a command after `--`")?;
        let error = std::process::Command::new(program).args(words).exec();
        return Err(error).with_context(|| format!("--exec-cmd {}", program.display()));
    }
    if !options.restore_detached {
        await_end(Pid::from_raw(restored.root))?;
    }
    Ok(0)
}

fn await_end(root: Pid) -> Result<()> {
    loop {
        match waitpid(root, None) {
            Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(()), // a sibling, not a child
            result => return result.map(drop).context("waiting for the restored tree"),
        }
    }
}
