//! `criu-rs dump`.

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
    log::flush();
    let work = || {
        let code = match work(options, place) {
            Ok(()) => 0,
            Err(error) => {
                crate::report(&error, options);
                1
            }
        };
        log::flush();
        code
    };
    Ok(guard::guarded(work, || actions::rescue(root))? as u8)
}

fn work(options: &Options, place: &Workplace) -> Result<()> {
    let scripts = place.hooks(options)?;
    let mut hooks = HookChain(vec![Box::new(Progress::of("dump", "freezing")), Box::new(scripts)]);
    let stats = actions::dump(options, &Caller::default(), place, &mut hooks)?;
    drop(hooks);
    if options.display_stats {
        writeln!(std::io::stdout(), "{stats}")?;
    }
    Ok(())
}
