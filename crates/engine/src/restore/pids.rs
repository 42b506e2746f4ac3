//! Are the pids free that the tree needs?

use crate::{Error, Result};
use criu_kernel::Pid;
use criu_kernel::proc::ProcDir;
use criu_resource::BuiltTree;
use std::time::{Duration, Instant};

/// How long to wait for a zombie that nobody has reaped yet.
const PATIENCE: Duration = Duration::from_secs(5);

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
