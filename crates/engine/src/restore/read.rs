//! Reads the tree from the images and checks that they fit together.

use crate::dump::state;
use crate::{Error, Result};
use criu_images::{Image, Store, StoreExt, proto};
use criu_resource::{BuiltTask, BuiltTree, Life};
use std::collections::HashMap;

/// Reads inventory, tree and cores.
pub(crate) fn read(store: &dyn Store) -> Result<BuiltTree> {
    let inventory: proto::InventoryEntry =
        store.read_one_opt(Image::Inventory, 0)?.ok_or(Error::Incomplete)?;
    if !(1..=state::VERSION).contains(&inventory.img_version) {
        return Err(Error::Inconsistent(format!(
            "inventory.img: version {} of the format is unknown (known: 1 and {})",
            inventory.img_version,
            state::VERSION
        )));
    }
    if inventory.pre_dump_mode.is_some() {
        return Err(Error::MemoryOnly);
    }
    let entries: Vec<proto::PstreeEntry> = store.read_image(Image::Pstree, 0)?;
    let mut tasks: Vec<BuiltTask> = Vec::with_capacity(entries.len());
    let mut known = HashMap::new();
    for (index, pstree) in entries.into_iter().enumerate() {
        let parent = match index {
            0 => None,
            _ => Some(*known.get(&pstree.ppid).ok_or_else(|| {
                Error::Inconsistent(format!(
                    "pstree.img: the parent {} of pid {} is missing",
                    pstree.ppid, pstree.pid
                ))
            })?),
        };
        if known.insert(pstree.pid, index).is_some() {
            return Err(Error::Inconsistent(format!("pstree.img: pid {} occurs twice", pstree.pid)));
        }
        tasks.push(task(store, index, parent, pstree)?);
    }
    if tasks.is_empty() {
        return Err(Error::Inconsistent("pstree.img: no task".into()));
    }
    Ok(BuiltTree { tasks })
}

/// Whether SIGSTOP is queued for the task.
fn awaits_stop(tc: &proto::TaskCoreEntry) -> bool {
    let queued = tc.signals_s.iter().flat_map(|queue| &queue.signals);
    let mut signals = queued.filter_map(|info| info.siginfo.first_chunk().copied()).map(i32::from_ne_bytes);
    signals.any(|signal| signal == libc::SIGSTOP)
}

fn task(
    store: &dyn Store,
    index: usize,
    parent: Option<usize>,
    pstree: proto::PstreeEntry,
) -> Result<BuiltTask> {
    let pid = pstree.pid;
    let core: proto::CoreEntry = store.read_one(Image::Core, u64::from(pid))?;
    let tc = core.tc.as_ref();
    let tc =
        tc.ok_or_else(|| Error::Inconsistent(format!("core-{pid}.img: the process's part is missing")))?;
    let life = match tc.task_state {
        state::ALIVE if awaits_stop(tc) => Life::Stopped(libc::SIGSTOP),
        state::ALIVE => Life::Alive,
        state::STOPPED => Life::Stopped(tc.stop_signo.map_or(libc::SIGSTOP, |signal| signal as i32)),
        state::ZOMBIE | state::DEAD => Life::Zombie(tc.exit_code as i32),
        other => return Err(Error::Inconsistent(format!("core-{pid}.img: unknown task state {other}"))),
    };
    let others = match life {
        Life::Zombie(_) => &[],
        _ if pstree.threads.first() == Some(&pid) => &pstree.threads[1..],
        _ => return Err(Error::Inconsistent(format!("pstree.img: pid {pid} does not head its threads"))),
    };
    let threads = others.iter().map(|&tid| store.read_one(Image::Core, u64::from(tid)));
    let threads = threads.collect::<Result<_, _>>()?;
    let ids = match &core.ids {
        Some(ids) => Some(*ids),
        None => store.read_one_opt(Image::Ids, u64::from(pid))?,
    };
    Ok(BuiltTask { index, parent, pstree, life, core, threads, ids })
}
