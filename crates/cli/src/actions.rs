//! A dump and a restore as the options say: what the command line and the RPC have in common.

use crate::{convert, resources::Catalog, workplace::Workplace};
use anyhow::{Context, Result};
use criu_config::Options;
use criu_engine::{DumpStats, Hooks, Restored};
use criu_images::{Image, StoreExt, magic};
use criu_resource::Options as Pipeline;

/// Dumps the tree below `--tree`, to which the client at the other end of the socket `service` may belong.
pub fn dump(
    options: &Options,
    service: Option<u64>,
    place: &Workplace,
    hooks: &mut dyn Hooks,
) -> Result<DumpStats> {
    let store = place.new_images()?;
    let catalog = Catalog::new();
    let pipeline = Pipeline { service_socket: service, ..convert::pipeline(options) };
    let root = root(options)?;
    let mut stats = catalog.with(|lists| criu_engine::dump(root, &pipeline, lists, &store, hooks))?;
    catalog.split_pages(&mut stats.counts);
    place.statistics()?.write_image(Image::Stats, magic::STATS_DUMP, &[stats.entry()])?;
    tracing::info!("dump: done");
    Ok(stats)
}

/// The root of the tree to dump.
pub fn root(options: &Options) -> Result<i32> {
    let root = options.tree.context("--tree PID is required")?;
    anyhow::ensure!(root > 0, "--tree {root}: a pid is a positive number");
    Ok(root)
}

/// Restores what `--images-dir` holds; writes statistics and the pid file.
pub fn restore(options: &Options, place: &Workplace, hooks: &mut dyn Hooks) -> Result<Restored> {
    let store = place.images()?;
    let catalog = Catalog::new();
    let park = |parts: &[(String, u64, u64)]| catalog.park_vdso(parts);
    let (pipeline, timeout) = (convert::pipeline(options), convert::timeout(options));
    let restored =
        catalog.with(|lists| criu_engine::restore(&pipeline, lists, &park, &store, timeout, hooks))?;
    place.statistics()?.write_image(Image::Stats, magic::STATS_RESTORE, &[restored.stats.entry()])?;
    if let Some(path) = &options.pidfile {
        place.write_pidfile(path, restored.root)?;
    }
    tracing::info!("restore: done, root pid {}", restored.root);
    Ok(restored)
}

/// The scripts of a restore in words.
pub fn dry_run(options: &Options, place: &Workplace) -> Result<String> {
    let store = place.images()?;
    let catalog = Catalog::new();
    let park = |parts: &[(String, u64, u64)]| catalog.park_vdso(parts);
    let pipeline = convert::pipeline(options);
    Ok(catalog.with(|lists| criu_engine::restore::dry_run(&pipeline, lists, &park, &store))?)
}

/// Makes the connections of a tree work again whose dump was killed.
pub fn rescue(root: i32) {
    match criu_net::rescue(root) {
        Ok(true) => tracing::warn!("net: the killed dump's network lock is removed"),
        Ok(false) => {}
        Err(error) => tracing::error!("net: connections of the tree may stay locked: {error}"),
    }
}
