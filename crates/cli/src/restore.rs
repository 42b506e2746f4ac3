//! `criu-rs restore`.

use crate::actions::{self, Caller};
use crate::{progress::Progress, workplace::Workplace};
use anyhow::{Context, Result};
use criu_config::Options;
use criu_rpc::HookChain;
use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;

/// Restores; the exit code.
pub fn run(options: &Options, place: &Workplace, command: &[OsString]) -> Result<u8> {
    if options.dry_run {
        std::io::stdout().write_all(actions::dry_run(options, place)?.as_bytes())?;
        return Ok(0);
    }
    let scripts = place.hooks(options)?;
    let mut hooks = HookChain(vec![Box::new(Progress::of("restore", "reading")), Box::new(scripts)]);
    let restored = actions::restore(options, &Caller::default(), place, &mut hooks)?;
    drop(hooks);
    if options.display_stats {
        writeln!(std::io::stdout(), "{}", restored.stats)?;
    }
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
