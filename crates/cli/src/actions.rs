//! A dump and a restore as the options say: what the command line and the RPC have in common.

use crate::{convert, page_server, resources::Catalog, workplace::Workplace};
use anyhow::{Context, Result};
use criu_config::Options;
use criu_engine::{Action, DumpStats, Hooks, Restored};
use criu_images::{DirStore, Image, Lineage, Store, StoreExt, magic, proto};
use criu_resource::{BoxError, Options as Pipeline};
use criu_tty::OrphanMaster;
use std::sync::Arc;

/// Who wants a dump or restore, beside the options: an RPC client.
#[derive(Clone, Default)]
pub struct Caller {
    /// The inode of our end of the connection to a client that may belong to the dumped tree.
    pub socket: Option<u64>,
    /// Takes the master of a terminal whose master is outside of the tree.
    pub orphans: Option<Arc<dyn OrphanMaster>>,
}

/// Dumps the tree below `--tree`.
pub fn dump(
    options: &Options,
    caller: &Caller,
    place: &Workplace,
    hooks: &mut dyn Hooks,
) -> Result<DumpStats> {
    criu_task::regs::learn();
    criu_fds::make_room().context("making room for descriptors")?;
    let store = place.new_images()?;
    let mut catalog = Catalog::new(caller.orphans.clone());
    if let Some(server) = page_server::connect(options)? {
        catalog.send_pages_to(server);
    }
    let pipeline = Pipeline { service_socket: caller.socket, ..convert::pipeline(options) };
    let root = root(options)?;
    let parent = place.link_parent(options)?;
    Lineage::open(&store)?.prefetch()?;
    let timeout = convert::timeout(options);
    let mut stats =
        catalog.with(|lists| criu_engine::dump(root, &pipeline, lists, &store, timeout, hooks))?;
    parent.keep();
    dedup_after(options, &store);
    catalog.split_pages(&mut stats.counts);
    keep_statistics(place, magic::STATS_DUMP, stats.entry());
    tracing::info!("dump: done");
    Ok(stats)
}

/// Copies the memory of the tree below `--tree`, which runs on.
pub fn pre_dump(options: &Options, place: &Workplace, hooks: &dyn Hooks) -> Result<DumpStats> {
    let store = place.new_images()?;
    let mut catalog = Catalog::new(None);
    if let Some(server) = page_server::connect(options)? {
        catalog.send_pages_to(server);
    }
    let pipeline = convert::pipeline(options);
    let parent = place.link_parent(options)?;
    let mut stats = criu_engine::pre_dump(
        root(options)?,
        &pipeline,
        catalog.ahead(),
        &store,
        convert::timeout(options),
        hooks,
    )?;
    parent.keep();
    dedup_after(options, &store);
    catalog.split_pages(&mut stats.counts);
    keep_statistics(place, magic::STATS_DUMP, stats.entry());
    tracing::info!("pre-dump: done");
    Ok(stats)
}

/// `--auto-dedup`, once the images are complete: a dump that fails takes nothing from its parents.
pub fn dedup_after(options: &Options, store: &DirStore) {
    if !options.auto_dedup {
        return;
    }
    match criu_images::dedup(store) {
        Ok(bytes) => tracing::info!("auto-dedup: {bytes} bytes of parent checkpoints given back"),
        // The checkpoint is complete all the same.
        Err(error) => tracing::warn!("auto-dedup: {error}"),
    }
}

/// `criu-rs dedup`: takes out of the parents what the complete checkpoint in `--images-dir` has anew.
pub fn dedup(place: &Workplace) -> Result<u8> {
    let store = place.images()?;
    criu_images::inventory::read(&store).context("dedup: no complete checkpoint")?;
    anyhow::ensure!(store.parent()?.is_some(), "dedup: {}: no parent checkpoint", place.images.display());
    let bytes = criu_images::dedup(&store)?;
    tracing::info!("dedup: {bytes} bytes of parent checkpoints given back");
    Ok(0)
}

/// The root of the tree to dump.
pub fn root(options: &Options) -> Result<i32> {
    let root = options.tree.context("--tree PID is required")?;
    anyhow::ensure!(root > 0, "--tree {root}: a pid is a positive number");
    Ok(root)
}

/// Restores what `--images-dir` holds; writes statistics and the pid file.
pub fn restore(
    options: &Options,
    caller: &Caller,
    place: &Workplace,
    hooks: &mut dyn Hooks,
) -> Result<Restored> {
    let store = place.images()?;
    let catalog = Catalog::new(caller.orphans.clone());
    let park = |parts: &[(String, u64, u64)]| catalog.park_vdso(parts);
    let (pipeline, timeout) = (convert::pipeline(options), convert::timeout(options));
    let mut hooks = WithPidfile { hooks, options, place, written: false };
    let restored = catalog
        .with(|lists| criu_engine::restore(&pipeline, lists, &park, &store, timeout, &mut hooks))
        .inspect_err(|_| hooks.forget())?;
    keep_statistics(place, magic::STATS_RESTORE, restored.stats.entry());
    tracing::info!("restore: done, root pid {}", restored.root);
    Ok(restored)
}

/// The scripts of a restore in words.
pub fn dry_run(options: &Options, place: &Workplace) -> Result<String> {
    let store = place.images()?;
    let catalog = Catalog::new(None);
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

/// What is done is done: without its statistics it is worth as much.
fn keep_statistics(place: &Workplace, magic: u64, entry: proto::StatsEntry) {
    let written =
        place.statistics().and_then(|store| Ok(store.write_image(Image::Stats, magic, &[entry])?));
    if let Err(error) = written {
        tracing::warn!("statistics: {error:#}");
    }
}

/// Writes the pid file as soon as all tasks are there, so that those who are told of later stages can read it.
struct WithPidfile<'a> {
    hooks: &'a mut dyn Hooks,
    options: &'a Options,
    place: &'a Workplace,
    written: bool,
}

impl WithPidfile<'_> {
    /// Undoes it.
    fn forget(&self) {
        if let Some(path) = self.options.pidfile.as_ref().filter(|_| self.written) {
            // The error that led here is the one to report.
            let _ = std::fs::remove_file(self.place.work.join(path));
        }
    }
}

impl Hooks for WithPidfile<'_> {
    fn notify(&mut self, action: Action, root: Option<i32>) -> Result<(), BoxError> {
        self.hooks.notify(action, root)?;
        if let (Action::PostRestore, Some(root)) = (action, root) {
            self.place.write_pidfile(self.options, root)?;
            self.written = true;
        }
        Ok(())
    }

    fn cancelled(&self) -> bool {
        self.hooks.cancelled()
    }
}
