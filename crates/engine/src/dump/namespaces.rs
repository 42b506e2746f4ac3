//! Which namespaces a task lives in.

use crate::{Error, Result};
use criu_kernel::proc::ProcDir;
use std::path::PathBuf;

/// The last two are those that a task's children will be in.
const KINDS: [&str; 10] =
    ["pid", "net", "ipc", "uts", "mnt", "user", "cgroup", "time", "pid_for_children", "time_for_children"];

/// criu-rs's own, by kind; a kernel without one kind has no such link.
pub(crate) struct Own(Vec<(&'static str, String, PathBuf)>);

impl Own {
    /// Reads them once, before anybody stands still.
    pub(crate) fn read() -> Result<Own> {
        let proc = ProcDir::current()?;
        let links = KINDS.into_iter().filter_map(|kind| {
            let link = format!("ns/{kind}");
            let own = proc.read_link(&link).ok()?;
            Some((kind, link, own))
        });
        Ok(Own(links.collect()))
    }

    /// Refuses a task outside of them.
    pub(crate) fn check(&self, pid: i32, proc: &ProcDir) -> Result<()> {
        let foreign =
            |(_, link, own): &&(_, String, PathBuf)| proc.read_link(link).is_ok_and(|link| link != *own);
        match self.0.iter().find(foreign) {
            Some(&(kind, ..)) => Err(Error::Namespace { pid, kind }),
            None => Ok(()),
        }
    }
}
