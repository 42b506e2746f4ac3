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
use std::collections::{HashMap, HashSet};

/// Checks that a frozen tree's sessions and groups can be rebuilt: it has its own session, or may be a job of
/// a shell; and [`births`] will find a way.
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
    check(&entries.iter().collect::<Vec<_>>(), &parents, options)
}

/// The same for a tree to be built.
///
/// # Errors
/// As [`check_sessions`].
pub fn check_built(tree: &BuiltTree, options: &Options) -> Result<(), Error> {
    let (tasks, parents) = relations(tree);
    check(&tasks, &parents, options)
}

fn check(tasks: &[&PstreeEntry], parents: &[Option<usize>], options: &Options) -> Result<(), Error> {
    let Some(root) = tasks.first() else { return Ok(()) };
    if !options.shell_job && tasks.iter().all(|task| task.pid != root.sid) {
        return Err(Error::ShellJob { pid: root.pid as i32, sid: root.sid as i32 });
    }
    plan(tasks, parents).map(drop)
}

fn relations(tree: &BuiltTree) -> (Vec<&PstreeEntry>, Vec<Option<usize>>) {
    tree.tasks.iter().map(|task| (&task.pstree, task.parent)).unzip()
}

/// Plans the births of a tree, one entry a task.
///
/// # Errors
/// For a task that its parent cannot have in the right session, and for a group without leader.
pub fn births(tree: &BuiltTree) -> Result<Vec<Births>, Error> {
    let (tasks, parents) = relations(tree);
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
    // The session a task must be born into; a leader need not care unless its children do.
    let mut needs: Vec<Option<u32>> =
        tasks.iter().map(|task| (!leads_session(task)).then_some(task.sid)).collect();
    for (index, task) in tasks.iter().enumerate().rev() {
        let Some(need) = needs[index] else { continue };
        if !pids.contains(&need) && need != tasks[0].sid {
            let why = format!("the leader of its session {need} has ended or lies outside of the tree");
            return Err(impossible(task, &why));
        }
        let Some(parent) = parents[index] else { continue };
        if need == tasks[parent].sid {
            continue;
        }
        // The parent left that session after the birth, which only a leader can have done.
        if !leads_session(tasks[parent]) || *needs[parent].get_or_insert(need) != need {
            let why =
                format!("its session {need} is not one that its parent {} ever was in", tasks[parent].pid);
            return Err(impossible(task, &why));
        }
    }
    if needs[0].is_some_and(|need| pids.contains(&need)) {
        return Err(impossible(tasks[0], "it would have to be born into a session of its descendants"));
    }
    for index in 0..tasks.len() {
        let Some(parent) = parents[index] else { continue };
        match needs[index] {
            Some(need) if need != tasks[parent].sid => births[parent].before_setsid.push(index),
            _ => births[parent].after.push(index),
        }
    }
    let index_of: HashMap<u32, usize> = tasks.iter().enumerate().map(|(i, task)| (task.pid, i)).collect();
    for task in tasks {
        let leader = index_of.get(&task.pgid).map(|&leader| tasks[leader]);
        check_group(task, leader, tasks[0]).map_err(|why| impossible(task, &why))?;
    }
    Ok(births)
}

fn impossible(task: &PstreeEntry, why: &str) -> Error {
    Error::Tree { pid: task.pid as i32, why: why.into() }
}

/// A group must have its leader, in the same session; or be the one that the root was born into.
fn check_group(task: &PstreeEntry, leader: Option<&PstreeEntry>, root: &PstreeEntry) -> Result<(), String> {
    let group = task.pgid;
    match leader {
        _ if task.sid == task.pid && group != task.pid => {
            Err(format!("it leads a session but is in process group {group}"))
        }
        None if group == root.pgid => Ok(()),
        None => Err(format!("the leader of its process group {group} has ended or lies outside of the tree")),
        Some(leader) if leader.sid != task.sid => {
            Err(format!("its process group {group} is in another session"))
        }
        Some(leader) if leader.pgid != group => {
            Err(format!("the leader of its process group {group} has left that group"))
        }
        Some(_) => Ok(()),
    }
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
        adopt_outside(tree, session as u32, nix::unistd::getpgrp().as_raw() as u32);
        Ok(())
    }

    fn births(&self, tree: &BuiltTree) -> Result<Vec<Births>, BoxError> {
        Ok(births(tree)?)
    }
}

/// Makes the session and group of the root, where they lie outside of the tree, those of criu-rs: `sid` and
/// `pgid`. All tasks in them go along. Comes before the births are planned and the scripts composed.
pub fn adopt_outside(tree: &mut BuiltTree, sid: u32, pgid: u32) {
    let pids: HashSet<u32> = tree.tasks.iter().map(|task| task.pstree.pid).collect();
    let Some(root) = tree.tasks.first().map(|task| task.pstree.clone()) else { return };
    for PstreeEntry { sid: task_sid, pgid: task_pgid, .. } in
        tree.tasks.iter_mut().map(|task| &mut task.pstree)
    {
        if *task_sid == root.sid && !pids.contains(&root.sid) {
            *task_sid = sid;
        }
        if *task_pgid == root.pgid && !pids.contains(&root.pgid) {
            *task_pgid = pgid;
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
