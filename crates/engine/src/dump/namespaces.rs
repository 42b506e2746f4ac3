//! Which namespaces a task lives in.

use crate::{Error, Result};
use criu_kernel::proc::ProcDir;

/// The last two are those that a task's children will be in.
const KINDS: [&str; 10] =
    ["pid", "net", "ipc", "uts", "mnt", "user", "cgroup", "time", "pid_for_children", "time_for_children"];

/// Refuses a task outside of criu-rs's own namespaces.
pub(crate) fn check(pid: i32, proc: &ProcDir) -> Result<()> {
    let own = ProcDir::current()?;
    for kind in KINDS {
        let link = format!("ns/{kind}");
        // A kernel without this kind of namespace has no such link.
        if let (Ok(theirs), Ok(ours)) = (proc.read_link(&link), own.read_link(&link))
            && theirs != ours
        {
            return Err(Error::Namespace { pid, kind });
        }
    }
    Ok(())
}
