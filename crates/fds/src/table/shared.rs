//! Tables that several processes have in common (clone(2) with CLONE_FILES).
//!
//! Such a table belongs to the first task that has it, its leader; the others are below it in the tree, each
//! the child of one that has it too, and inherit it when they are cloned.

use super::TableError;
use criu_kernel::Pid;
use criu_kernel::kcmp::{self, Kind};
use criu_resource::{BuiltTree, FrozenTree, Life};
use std::cmp::Ordering;

/// For each task of a frozen tree the position of its table's leader.
///
/// # Errors
/// [`TableError::SharedTable`] for tasks that share a table, but not with their parents.
pub fn leaders(tree: &FrozenTree<'_>) -> Result<Vec<usize>, TableError> {
    let mut failure = None;
    let mut compare = |pid: i32, other: i32| {
        kcmp::compare(Kind::Files, Pid::from_raw(pid), Pid::from_raw(other)).unwrap_or_else(|errno| {
            failure = Some(TableError::Task { pid, call: "kcmp(KCMP_FILES)", errno });
            Ordering::Less
        })
    };
    let mut leaders: Vec<usize> = (0..tree.tasks.len()).collect();
    let alive = |index: &usize| !tree.tasks[*index].threads.is_empty();
    for task in tree.tasks.iter().filter(|task| alive(&task.index)) {
        if let Some(parent) = task.parent.filter(alive)
            && compare(task.pid, tree.tasks[parent].pid).is_eq()
        {
            leaders[task.index] = leaders[parent];
        }
    }
    // In the kernel's order, equal ones are neighbours.
    let mut first: Vec<i32> =
        (0..leaders.len()).filter(alive).filter(|&i| leaders[i] == i).map(|i| tree.tasks[i].pid).collect();
    first.sort_by(|&a, &b| if a == b { Ordering::Equal } else { compare(a, b) });
    let shared = first.windows(2).find(|pair| compare(pair[0], pair[1]).is_eq());
    let shared = shared.map(|pair| TableError::SharedTable { pid: pair[1], other: pair[0] });
    match failure.or(shared) {
        Some(error) => Err(error),
        None => Ok(leaders),
    }
}

/// How a task of a tree to be restored comes to its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Has one of its own.
    Alone,
    /// Its children have it too: they need what is in it until all are complete.
    Leader,
    /// Inherits that of its parent.
    Member,
}

/// The role of each task.
///
/// # Errors
/// As [`leaders`].
pub fn roles(tree: &BuiltTree) -> Result<Vec<Role>, TableError> {
    let table = |index: usize| {
        let task = &tree.tasks[index];
        task.ids.as_ref().filter(|_| !matches!(task.life, Life::Zombie(_))).map(|ids| ids.files_id)
    };
    let mut roles = vec![Role::Alone; tree.tasks.len()];
    let mut first = std::collections::HashMap::new();
    for index in 0..roles.len() {
        let Some(files_id) = table(index) else { continue };
        let Some(&leader) = first.get(&files_id) else {
            first.insert(files_id, index);
            continue;
        };
        if tree.tasks[index].parent.and_then(table) != Some(files_id) {
            let pid = |index: usize| tree.tasks[index].pid() as i32;
            return Err(TableError::SharedTable { pid: pid(index), other: pid(leader) });
        }
        roles[index] = Role::Member;
        roles[leader] = Role::Leader;
    }
    Ok(roles)
}
