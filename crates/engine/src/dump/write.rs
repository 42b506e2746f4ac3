//! The images that belong to no resource: the tree, the tasks' cores, the inventory.

use crate::Result;
use criu_images::{Image, RecordSet, Store, StoreExt, proto};
use criu_resource::{FrozenTask, FrozenTree, Life, NetworkLock, OWN_IPC_NAMESPACE, Options, TaskImages};

/// `task_state` values of the core image.
pub(crate) const ALIVE: u32 = 1;
pub(crate) const DEAD: u32 = 2;
pub(crate) const STOPPED: u32 = 3;
/// Only read: older images tell a zombie from a task that is about to die.
pub(crate) const ZOMBIE: u32 = 6;

/// `img_version` of the inventory.
pub(crate) const VERSION: u32 = 2;

/// The images of a task before anybody was asked.
pub(crate) fn new_images(task: &FrozenTask<'_>) -> Result<TaskImages> {
    let number = task.index as u32 + 1;
    let (task_state, exit_code, stop_signo) = match task.life {
        Life::Alive => (ALIVE, 0, None),
        Life::Stopped(signal) => (STOPPED, 0, Some(signal as u32)),
        Life::Zombie(status) => (DEAD, status as u32, None),
    };
    let stat = criu_kernel::proc::ProcDir::open(criu_kernel::Pid::from_raw(task.pid))?.stat()?;
    let core = || proto::CoreEntry { mtype: proto::core_entry::March::X8664 as i32, ..Default::default() };
    let thread_core = || Some(proto::ThreadCoreEntry::default());
    let tc = proto::TaskCoreEntry {
        task_state,
        exit_code,
        stop_signo,
        flags: stat.flags,
        comm: stat.comm.clone(),
        exit_signal: (stat.exit_signal != libc::SIGCHLD).then_some(stat.exit_signal.max(0) as u32),
        ..Default::default()
    };
    let ids = proto::TaskKobjIdsEntry {
        vm_id: number,
        files_id: number,
        fs_id: number,
        sighand_id: number,
        ..namespaces()
    };
    let alive = !task.threads.is_empty();
    Ok(TaskImages {
        core: proto::CoreEntry {
            tc: Some(tc),
            thread_core: if alive { thread_core() } else { None },
            ids: alive.then_some(ids),
            ..core()
        },
        threads: task
            .threads
            .iter()
            .skip(1)
            .map(|_| proto::CoreEntry { thread_core: thread_core(), ..core() })
            .collect(),
        records: RecordSet::new(),
    })
}

/// Numbers for the namespaces that criu-rs and the tree have in common.
fn namespaces() -> proto::TaskKobjIdsEntry {
    proto::TaskKobjIdsEntry {
        pid_ns_id: Some(1),
        net_ns_id: Some(2),
        ipc_ns_id: Some(OWN_IPC_NAMESPACE),
        uts_ns_id: Some(4),
        mnt_ns_id: Some(5),
        user_ns_id: Some(6),
        cgroup_ns_id: Some(7),
        time_ns_id: Some(8),
        ..Default::default()
    }
}

/// Writes the images of one task.
pub(crate) fn write_task(
    store: &dyn Store,
    task: &FrozenTask<'_>,
    mut images: TaskImages,
) -> criu_images::Result<()> {
    if let Some(ids) = images.core.ids.take() {
        store.write_image(Image::Ids, task.ns_pid as u64, &[ids])?;
    }
    store.write_image(Image::Core, task.ns_pid as u64, &[images.core])?;
    for (thread, core) in task.threads.iter().skip(1).zip(images.threads) {
        store.write_image(Image::Core, thread.ns_tid as u64, &[core])?;
    }
    images.records.write_to(store)
}

/// Writes what tasks share, and the tree: all images but the inventory.
pub(crate) fn write_shared(store: &dyn Store, tree: &FrozenTree<'_>, shared: &RecordSet) -> Result<()> {
    shared.write_to(store)?;
    let entries: Vec<_> = tree.tasks.iter().map(|task| pstree_entry(tree, task)).collect();
    store.write_image(Image::Pstree, 0, &entries)?;
    Ok(())
}

fn pstree_entry(tree: &FrozenTree<'_>, task: &FrozenTask<'_>) -> proto::PstreeEntry {
    proto::PstreeEntry {
        pid: task.ns_pid as u32,
        ppid: task.parent.map_or(0, |parent| tree.tasks[parent].ns_pid as u32),
        pgid: task.ns_pgid as u32,
        sid: task.ns_sid as u32,
        threads: match task.threads.is_empty() {
            true => vec![task.ns_pid as u32],
            false => task.threads.iter().map(|thread| thread.ns_tid as u32).collect(),
        },
    }
}

/// Writes the inventory: from here on the checkpoint is complete.
pub(crate) fn commit(store: &dyn Store, root: i32, options: &Options) -> Result<()> {
    let inventory = proto::InventoryEntry {
        img_version: VERSION,
        fdinfo_per_id: Some(true),
        ns_per_id: Some(true),
        root_ids: Some(proto::TaskKobjIdsEntry { ..namespaces() }),
        lsmtype: Some(proto::Lsmtype::NoLsm as i32),
        dump_uptime: uptime(),
        tcp_close: Some(options.tcp_close),
        network_lock_method: Some(match options.network_lock {
            // Not the numbers of rpc.proto: the image has its own.
            NetworkLock::Iptables => 0,
            NetworkLock::Nftables => 1,
            NetworkLock::Skip => 2,
        }),
        // Names the network lock. A later dump of the same tree finds what an earlier one left.
        dump_criu_run_id: Some(root.to_string()),
        ..Default::default()
    };
    Ok(criu_images::inventory::commit(store, &inventory)?)
}

/// Of `pre_dump_mode`: all kinds of areas are there, those that cannot be read as well.
const PRE_DUMP_ALL: u32 = 1;

/// Writes the inventory of a pre-dump.
pub(crate) fn commit_ahead(store: &dyn Store) -> Result<()> {
    let inventory = proto::InventoryEntry {
        img_version: VERSION,
        dump_uptime: uptime(),
        pre_dump_mode: Some(PRE_DUMP_ALL),
        ..Default::default()
    };
    Ok(criu_images::inventory::commit(store, &inventory)?)
}

/// Microseconds since the machine was started.
fn uptime() -> Option<u64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).ok()?;
    Some(time.tv_sec() as u64 * 1_000_000 + time.tv_nsec() as u64 / 1000)
}
