//! Are the pids free that the tree needs?

use crate::{Error, Result};
use criu_kernel::Pid;
use criu_kernel::proc::ProcDir;
use criu_resource::BuiltTree;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How long to wait for a zombie that nobody has reaped yet, or for the kernel to give up a pid that nobody has any
/// more: it first forgets what procfs showed of it, which can take a second on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Pids that neither the tree nor anybody else has, for threads that are gone before the tree is complete.
pub(crate) struct Spare {
    used: HashSet<u32>,
    next: u32,
}

impl Spare {
    pub(crate) fn new(tree: &BuiltTree) -> Spare {
        let most = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok();
        let most = most.and_then(|text| text.trim().parse().ok()).unwrap_or(32768);
        let entries = tree.tasks.iter().map(|task| &task.pstree);
        let used = entries.flat_map(|entry| entry.threads.iter().chain([&entry.pgid, &entry.sid])).copied();
        Spare { used: used.collect(), next: most }
    }

    /// One, from the top: there, pids are the last to be given out.
    pub(crate) fn take(&mut self) -> Result<u32> {
        let is_free =
            |pid: &u32| !self.used.contains(pid) && ProcDir::open(Pid::from_raw(*pid as i32)).is_err();
        let found = (1..self.next).rev().find(is_free);
        self.next = found.ok_or_else(|| Error::Inconsistent("every pid of this system is in use".into()))?;
        Ok(self.next)
    }
}

/// Waits for zombies to go; otherwise says who holds a pid.
pub(crate) fn check(tree: &BuiltTree) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for &tid in tree.tasks.iter().flat_map(|task| &task.pstree.threads) {
        let tid = tid as i32;
        while let Some(holder) = holder(tid) {
            if !holder.1 || Instant::now() > deadline {
                return Err(Error::PidTaken { pid: tid, holder: holder.0 });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Who has the pid, and whether it may soon be free.
fn holder(pid: i32) -> Option<(String, bool)> {
    let stat = ProcDir::open(Pid::from_raw(pid)).ok()?.stat().ok()?;
    let name = String::from_utf8_lossy(&stat.comm).into_owned();
    let zombie = stat.is_zombie();
    Some((format!("process {pid} ({name}{})", if zombie { ", a zombie" } else { "" }), zombie))
}

/// Explains a pid that clone3 found in use although no process has it.
pub(crate) fn explain(pid: i32) -> Error {
    let users = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let other: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = ProcDir::open(Pid::from_raw(other)).ok()?.stat().ok()?;
        (stat.pgrp == pid || stat.session == pid).then(|| {
            let kind = if stat.session == pid { "session" } else { "process group" };
            format!("process {other} ({}) as its {kind}", String::from_utf8_lossy(&stat.comm))
        })
    });
    match users.last().or_else(|| holder(pid).map(|(text, _)| text)) {
        Some(holder) => Error::PidTaken { pid, holder },
        None => Error::PidLingers { pid },
    }
}
