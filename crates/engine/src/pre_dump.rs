//! The pre-dump: memory is copied while the tree runs, so that the dump that follows has less to store.

use crate::dump::freeze;
use crate::dump::scratch::Scratch;
use crate::dump::{let_go, write};
use crate::hooks::Hooks;
use crate::{DumpStats, Error, Result};
use criu_images::Store;
use criu_resource::{Ahead, DumpContext, Fate, FrozenTree, Options};
use std::time::{Duration, Instant};

/// Copies the memory of the tree below `root` into `store`. The tree stands still only while it is looked at;
/// its tasks have to stop within `timeout`.
///
/// No stage is told to hooks, as in the reference; they can end it. After a failure no image is left.
pub fn pre_dump(
    root: i32,
    options: &Options,
    ahead: &dyn Ahead,
    store: &dyn Store,
    timeout: Duration,
    hooks: &dyn Hooks,
) -> Result<DumpStats> {
    criu_images::inventory::revoke(store)?;
    let scratch = Scratch::new(store);
    let context = DumpContext { options, store: &scratch };
    let stopped = freeze::freeze(root, timeout, &|| hooks.cancelled())?;
    let mut stats = DumpStats { freezing: stopped.since.elapsed(), ..DumpStats::default() };
    let failed = |source| Error::resource(ahead.name())(source);
    let tree = FrozenTree { tasks: freeze::describe(&stopped.held, &stopped.seized)? };
    let copy = ahead.look_ahead(&tree, &context).map_err(failed)?;
    drop(tree);
    stats.frozen = let_go(stopped, Fate::Run)?;
    if hooks.cancelled() {
        return Err(Error::Cancelled);
    }
    let memory = Instant::now();
    copy().map_err(failed)?;
    stats.memory = memory.elapsed();
    write::commit_ahead(&scratch)?;
    stats.counts.pages_written = scratch.pages()?;
    scratch.keep();
    Ok(stats)
}
