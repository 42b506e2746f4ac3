//! `criu-rs dump` and `criu-rs pre-dump`.

use crate::actions::{self, Caller};
use crate::{log, progress::Progress, workplace::Workplace};
use anyhow::Result;
use criu_config::Options;
use criu_engine::guard;
use criu_rpc::HookChain;
use std::io::Write;

/// Dumps; the exit code.
pub fn run(options: &Options, place: &Workplace) -> Result<u8> {
    let root = actions::root(options)?;
    guarded(options, || dump(options, place), || actions::rescue(root))
}

/// Copies memory ahead of a dump; the exit code.
pub fn run_ahead(options: &Options, place: &Workplace) -> Result<u8> {
    actions::root(options)?;
    let work = || {
        let _progress = Progress::of("pre-dump", "copying");
        let hooks = place.hooks(options)?;
        actions::pre_dump(options, place, &hooks).map(drop)
    };
    guarded(options, work, || {})
}

/// Works in a process that is watched by this one.
fn guarded(options: &Options, work: impl FnOnce() -> Result<()>, rescue: impl FnOnce()) -> Result<u8> {
    log::flush();
    let work = || {
        let code = match work() {
            Ok(()) => 0,
            Err(error) => {
                crate::report(&error, options);
                1
            }
        };
        log::flush();
        code
    };
    Ok(guard::guarded(work, rescue)? as u8)
}

fn dump(options: &Options, place: &Workplace) -> Result<()> {
    let scripts = place.hooks(options)?;
    let mut hooks = HookChain(vec![Box::new(Progress::of("dump", "freezing")), Box::new(scripts)]);
    let stats = actions::dump(options, &Caller::default(), place, &mut hooks)?;
    drop(hooks);
    if options.display_stats {
        writeln!(std::io::stdout(), "{stats}")?;
    }
    Ok(())
}
