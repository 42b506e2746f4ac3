//! Sessions and process groups: which child a task must clone before it starts its session, who leads a
//! group, and which trees no sequence of calls brings about.
//!
//! A task is born into its parent's session and group. It leaves the session only by setsid(2), as a leader;
//! it changes groups by setpgid(2) within its session. A session or group may outlive its leader: there a
//! [helper](criu_resource::Helper) takes the leader's place for a while.

use crate::error::Error;
use criu_images::proto::PstreeEntry;
use criu_kernel::Pid;
use criu_kernel::proc::ProcDir;
use criu_resource::{
    Answer, Births, BoxError, BuiltTask, BuiltTree, DumpContext, Family, FrozenTask, FrozenTree, Options,
    RestoreContext, Stage, TaskState,
};
use criu_script::Script;
use plan::{helpers, impossible, plan};
use std::collections::HashSet;

mod plan;

/// Checks that a frozen tree's sessions and groups can be rebuilt: it has its own session, or may be a job of
/// a shell; no other session or group has a living leader outside of the tree; and [`births`] will find a way.
///
/// # Errors
/// Names the task, and `--shell-job` where that is the remedy.
pub fn check_sessions(tree: &FrozenTree<'_>, options: &Options) -> Result<(), Error> {
    let entry = |task: &FrozenTask<'_>| PstreeEntry {
        pid: task.ns_pid as u32,
        pgid: task.ns_pgid as u32,
        sid: task.ns_sid as u32,
        ..Default::default()
    };
    let entries: Vec<PstreeEntry> = tree.tasks.iter().map(entry).collect();
    let parents: Vec<Option<usize>> = tree.tasks.iter().map(|task| task.parent).collect();
    let births = check(&entries.iter().collect::<Vec<_>>(), &parents, options)?;
    for helper in helpers(&births) {
        let leads = |task: &&PstreeEntry| task.sid == helper.pid || task.pgid == helper.pid;
        let member = entries.iter().find(leads).unwrap_or(&entries[0]);
        // A group in the shell's session becomes that of criu-rs.
        let adopted = !helper.session && options.shell_job && member.sid == entries[0].sid;
        if !adopted && ProcDir::open(Pid::from_raw(helper.pid as i32)).is_ok() {
            let what = if helper.session { "session" } else { "process group" };
            let why = format!("the leader of its {what} {} lies outside of the tree", helper.pid);
            return Err(impossible(member, &why));
        }
    }
    Ok(())
}

/// The same for a tree to be built.
///
/// # Errors
/// As [`check_sessions`].
pub fn check_built(tree: &BuiltTree, options: &Options) -> Result<(), Error> {
    let (tasks, parents) = relations(tree);
    check(&tasks, &parents, options).map(drop)
}

fn check(tasks: &[&PstreeEntry], parents: &[Option<usize>], options: &Options) -> Result<Vec<Births>, Error> {
    let Some(root) = tasks.first() else { return Ok(Vec::new()) };
    if !options.shell_job && tasks.iter().all(|task| task.pid != root.sid) {
        return Err(Error::ShellJob { pid: root.pid as i32, sid: root.sid as i32 });
    }
    plan(tasks, parents, None)
}

fn relations(tree: &BuiltTree) -> (Vec<&PstreeEntry>, Vec<Option<usize>>) {
    tree.tasks.iter().map(|task| (&task.pstree, task.parent)).unzip()
}

/// Plans the births of a tree, one entry a task. `outer` is the process group that the root is born into.
///
/// # Errors
/// For a task that nobody can bear in the right session, and for a group that nobody can make.
pub fn births(tree: &BuiltTree, outer: u32) -> Result<Vec<Births>, Error> {
    let (tasks, parents) = relations(tree);
    plan(&tasks, &parents, Some(outer))
}

/// Sessions and groups, for the engine.
pub struct Sessions;

impl Family for Sessions {
    fn check(&self, tree: &FrozenTree<'_>, options: &Options) -> Result<(), BoxError> {
        Ok(check_sessions(tree, options)?)
    }

    fn adopt(&self, tree: &mut BuiltTree, options: &Options) -> Result<(), BoxError> {
        check_built(tree, options)?;
        let session = nix::unistd::getsid(None)?.as_raw();
        adopt_outside(tree, session as u32, nix::unistd::getpgrp().as_raw() as u32, group_exists);
        Ok(())
    }

    fn births(&self, tree: &BuiltTree) -> Result<Vec<Births>, BoxError> {
        Ok(births(tree, nix::unistd::getpgrp().as_raw() as u32)?)
    }
}

/// Whether somebody is in this process group now.
fn group_exists(pgid: u32) -> bool {
    let sent = nix::sys::signal::killpg(Pid::from_raw(pgid as i32), None);
    sent != Err(nix::errno::Errno::ESRCH)
}

/// Makes the session of the root and the groups in it, where they lie outside of the tree, those of criu-rs:
/// `sid` and `pgid`. All tasks in them go along. A group other than the root's counts as outside when it still
/// `exists`; otherwise its leader was in the tree and is gone. Comes before the births are planned and the
/// scripts composed.
pub fn adopt_outside(tree: &mut BuiltTree, sid: u32, pgid: u32, exists: impl Fn(u32) -> bool) {
    let pids: HashSet<u32> = tree.tasks.iter().map(|task| task.pstree.pid).collect();
    let Some(root) = tree.tasks.first().map(|task| task.pstree.clone()) else { return };
    if pids.contains(&root.sid) {
        return;
    }
    for task in tree.tasks.iter_mut().map(|task| &mut task.pstree).filter(|task| task.sid == root.sid) {
        task.sid = sid;
        if !pids.contains(&task.pgid) && ([0, root.pgid].contains(&task.pgid) || exists(task.pgid)) {
            task.pgid = pgid;
        }
    }
}

/// Puts the members of a process group into it; zombies too. Leaders have made their groups at birth (see
/// [`Births::setpgid`]), before all tasks meet: in [`Stage::Born`] every group exists.
pub struct Groups;

impl TaskState for Groups {
    fn name(&self) -> &'static str {
        "process group"
    }

    /// The engine records the ids in pstree.
    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        _: &'a DumpContext<'a>,
        _: &mut Script,
    ) -> Result<Answer<'a>, BoxError> {
        Ok(Box::new(|_, _| Ok(())))
    }

    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        _: &RestoreContext<'_>,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        let PstreeEntry { pid, pgid, .. } = task.pstree;
        // 0: from outside of the pid namespace, inherited.
        if stage == Stage::Born && pgid != pid && pgid != 0 {
            script.syscall(libc::SYS_setpgid, [0.into(), pgid.into()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
