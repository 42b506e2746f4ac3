//! Copies of the tasks' memory, from which pages are written when the tasks run again.

use crate::Result;
use criu_kernel::{Pid, proc::ProcDir};
use criu_parasite::{MemoryCopy, Seized};
use criu_resource::{Copies, FrozenTree};

/// Copies in being, with the pids of their tasks. Dropped, they end.
pub(crate) struct Copied(Vec<(i32, MemoryCopy)>);

impl Copied {
    pub(crate) fn pids(&self) -> Copies {
        self.0.iter().map(|(pid, copy)| (*pid, copy.pid())).collect()
    }
}

/// Copies the memory of all tasks for which that pays. One that cannot be copied is no error: it stands still
/// while its memory is written, and a warning says why.
///
/// `subreaper` is a task of the tree that would become the copies' parent.
pub(crate) fn make(
    tree: &FrozenTree<'_>,
    seized: &mut [Option<Seized>],
    parts: &[super::Part<'_>],
    subreaper: Option<i32>,
) -> Result<Copied> {
    let mut copied = Vec::new();
    for pid in parts.iter().flat_map(|(_, part)| part.copyable()) {
        let Some(index) = tree.tasks.iter().position(|task| task.pid == pid) else { continue };
        if let Some(why) = refusal(pid, subreaper)? {
            tracing::warn!("pid {pid} stands still while its memory is written: {why}");
            continue;
        }
        let Some(held) = seized[index].take() else { continue };
        let (held, copy) = held.copy_memory()?;
        seized[index] = Some(held);
        match copy {
            Ok(copy) => copied.push((pid, copy)),
            Err(errno) => {
                tracing::warn!("pid {pid} stands still while its memory is written: no copy of it: {errno}");
            }
        }
    }
    tracing::info!("dump: memory of {} tasks copied on write", copied.len());
    Ok(Copied(copied))
}

/// Why a task's memory must not be copied.
fn refusal(pid: i32, subreaper: Option<i32>) -> Result<Option<String>> {
    if let Some(reaper) = subreaper {
        return Ok(Some(format!("pid {reaper} adopts processes, and would see the copy")));
    }
    let seccomp = ProcDir::open(Pid::from_raw(pid))?.status()?.seccomp;
    Ok((seccomp != 0).then(|| "its seccomp filters would count for the copy".to_owned()))
}
