//! `criu-rs dump`.

use crate::{convert, log, resources::Catalog, workplace::Workplace};
use anyhow::{Context, Result};
use criu_config::Options;
use criu_engine::{Action, Hooks, guard};
use criu_images::{Image, StoreExt, magic};
use criu_resource::BoxError;
use std::io::Write;

/// Dumps; the exit code.
pub fn run(options: &Options, place: &Workplace) -> Result<u8> {
    let root = options.tree.context("--tree PID is required")?;
    anyhow::ensure!(root > 0, "--tree {root}: a pid is a positive number");
    log::flush();
    let rescue = || match criu_net::lock::remove_stale(root) {
        Ok(true) => tracing::warn!("net: the killed dump's network lock is removed"),
        Ok(false) => {}
        Err(error) => tracing::error!("net: the killed dump's network lock stays: {error}"),
    };
    let code = guard::guarded(
        || {
            let code = match work(root, options, place) {
                Ok(()) => 0,
                Err(error) => {
                    crate::report(&error, options);
                    1
                }
            };
            log::flush();
            code
        },
        rescue,
    )?;
    Ok(code as u8)
}

fn work(root: i32, options: &Options, place: &Workplace) -> Result<()> {
    let store = place.new_images()?;
    let catalog = Catalog::new();
    let tree = catalog.tree();
    let mut hooks = Signals;
    let mut stats =
        criu_engine::dump(root, &convert::pipeline(options), catalog.resources(&tree), &store, &mut hooks)?;
    catalog.count(&mut stats.counts);
    place.statistics()?.write_image(Image::Stats, magic::STATS_DUMP, &[stats.entry()])?;
    if options.display_stats {
        writeln!(std::io::stdout(), "{stats}")?;
    }
    tracing::info!("dump: done");
    Ok(())
}

/// Stops the dump on SIGINT, SIGTERM, SIGHUP.
pub struct Signals;

impl Hooks for Signals {
    fn notify(&mut self, action: Action, _: Option<i32>) -> Result<(), BoxError> {
        tracing::debug!("stage {}", action.name());
        Ok(())
    }

    fn cancelled(&self) -> bool {
        guard::cancelled()
    }
}
