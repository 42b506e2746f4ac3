//! Sessions and process groups: which child a task must clone before it starts its session, who leads a
//! group, and which trees no sequence of calls brings about.
//!
//! A task is born into its parent's session and group. It leaves the session only by setsid(2), as a leader;
//! it changes groups by setpgid(2) within its session.

use crate::error::Error;
use criu_images::proto::PstreeEntry;
use criu_resource::{
    Answer, Births, BoxError, BuiltTask, BuiltTree, DumpContext, Family, FrozenTask, FrozenTree, Options,
    RestoreContext, Stage, TaskState,
};
use criu_script::Script;
use std::collections::HashSet;

/// Checks that all sessions and groups of a frozen tree have a leader inside, or that the tree may be a job
/// of a shell.
///
/// # Errors
/// Names the task and `--shell-job`.
pub fn check_sessions(tree: &FrozenTree<'_>, options: &Options) -> Result<(), Error> {
    let members = tree.tasks.iter().map(|task| (task.ns_pid, task.ns_sid));
    check_leaders(members, options)
}

/// The same for a tree to be built.
///
/// # Errors
/// Names the task and `--shell-job`.
pub fn check_built(tree: &BuiltTree, options: &Options) -> Result<(), Error> {
    check_leaders(tree.tasks.iter().map(|task| (task.pstree.pid as i32, task.pstree.sid as i32)), options)
}

fn check_leaders(tasks: impl Iterator<Item = (i32, i32)> + Clone, options: &Options) -> Result<(), Error> {
    let pids: HashSet<i32> = tasks.clone().map(|(pid, _)| pid).collect();
    let root_sid = tasks.clone().next().map(|(_, sid)| sid);
    for (pid, sid) in tasks {
        match pids.contains(&sid) {
            true => {}
            false if !options.shell_job => return Err(Error::ShellJob { pid, sid }),
            false if Some(sid) == root_sid => {}
            false => return Err(gone(pid, sid)),
        }
    }
    Ok(())
}

fn gone(pid: i32, sid: i32) -> Error {
    let why =
        format!("the leader of its session {sid} has ended, and it is not the session of the tree's root");
    Error::Tree { pid, why }
}

/// Plans the births of a tree, one entry a task.
///
/// # Errors
/// For a task that its parent cannot have in the right session, and for a group without leader.
pub fn births(tree: &BuiltTree) -> Result<Vec<Births>, Error> {
    let tasks: Vec<&PstreeEntry> = tree.tasks.iter().map(|task| &task.pstree).collect();
    let parents: Vec<Option<usize>> = tree.tasks.iter().map(|task| task.parent).collect();
    plan(&tasks, &parents)
}

fn plan(tasks: &[&PstreeEntry], parents: &[Option<usize>]) -> Result<Vec<Births>, Error> {
    let pids: HashSet<u32> = tasks.iter().map(|task| task.pid).collect();
    let leads_session = |task: &PstreeEntry| task.sid == task.pid;
    let mut births: Vec<Births> = tasks
        .iter()
        .map(|task| Births {
            setsid: leads_session(task),
            setpgid: task.pgid == task.pid && !leads_session(task),
            ..Births::default()
        })
        .collect();
    // The session each task is born into. Outside of the tree all sessions are one: criu-rs's own.
    let session = |sid: u32| if pids.contains(&sid) { Some(sid) } else { None };
    let mut born: Vec<Option<u32>> = Vec::with_capacity(tasks.len());
    for (index, task) in tasks.iter().enumerate() {
        let Some(parent_index) = parents[index] else {
            if session(task.sid).is_some() && !leads_session(task) {
                return Err(impossible(task, "the root is in the session of one of its descendants"));
            }
            born.push(None);
            continue;
        };
        let parent = tasks[parent_index];
        let parent_births = &mut births[parent_index];
        if leads_session(task) || session(task.sid) == session(parent.sid) {
            parent_births.after.push(index);
            born.push(session(parent.sid));
        } else if leads_session(parent) && session(task.sid) == born[parent_index] {
            parent_births.before_setsid.push(index);
            born.push(born[parent_index]);
        } else {
            let why =
                format!("its session {} is not one that its parent {} ever was in", task.sid, parent.pid);
            return Err(impossible(task, &why));
        }
    }
    for (index, task) in tasks.iter().enumerate() {
        check_group(tasks, parents, index, &pids).map_err(|why| impossible(task, &why))?;
    }
    Ok(births)
}

fn impossible(task: &PstreeEntry, why: &str) -> Error {
    Error::Tree { pid: task.pid as i32, why: why.into() }
}

/// A group must have a leader, in the same session; or be the root's, inherited without a break.
fn check_group(
    tasks: &[&PstreeEntry],
    parents: &[Option<usize>],
    index: usize,
    pids: &HashSet<u32>,
) -> Result<(), String> {
    let task = tasks[index];
    if task.pgid == task.pid {
        return Ok(());
    }
    if task.sid == task.pid {
        return Err(format!("it leads a session but is in group {}", task.pgid));
    }
    if pids.contains(&task.pgid) {
        return Ok(());
    }
    match parents[index] {
        None => Ok(()),
        Some(parent) if tasks[parent].pgid == task.pgid => Ok(()),
        Some(_) => Err(format!("the leader of its process group {} has ended", task.pgid)),
    }
}

/// Sessions and groups, for the engine.
pub struct Sessions;

impl Family for Sessions {
    fn check(&self, tree: &FrozenTree<'_>, options: &Options) -> Result<(), BoxError> {
        Ok(check_sessions(tree, options)?)
    }

    fn births(&self, tree: &BuiltTree) -> Result<Vec<Births>, BoxError> {
        Ok(births(tree)?)
    }
}

/// Makes sessions and groups from outside of the tree those of criu-rs, `sid` and `pgid`, which the tree is
/// born into. Comes before the scripts are composed; without it a group from outside cannot be joined.
pub fn adopt_outside(tree: &mut BuiltTree, sid: u32, pgid: u32) {
    let pids: HashSet<u32> = tree.tasks.iter().map(|task| task.pstree.pid).collect();
    for task in &mut tree.tasks {
        if !pids.contains(&task.pstree.sid) {
            task.pstree.sid = sid;
        }
        if !pids.contains(&task.pstree.pgid) {
            task.pstree.pgid = pgid;
        }
    }
}

/// Puts the members of a process group into it; zombies too. Leaders have made their groups at birth (see
/// [`Births::setpgid`]), so after the barrier that follows [`Stage::Born`] every group exists.
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
        if stage == Stage::Files && pgid != pid && pgid != 0 {
            script.syscall(libc::SYS_setpgid, [0.into(), pgid.into()]);
        }
        Ok(())
    }
}
