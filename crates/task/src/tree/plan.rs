//! Who bears whom: the order of births that brings a tree's sessions and groups about.

use crate::error::Error;
use criu_images::proto::PstreeEntry;
use criu_resource::{Births, Helper};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// How a task comes into the session it must be born into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Its parent is in that session by then.
    Late,
    /// Its parent has it before leaving for a session of its own.
    Early,
    /// The session's leader, a child of its parent too, bears it as a sibling.
    Sibling(usize),
    /// A helper in the leader's place bears it as a sibling.
    Helped,
}

/// The helpers that lead sessions: by number of the session, with the position of their parent.
type Sessions = BTreeMap<u32, (usize, Helper)>;

struct Planner<'a> {
    tasks: &'a [&'a PstreeEntry],
    parents: &'a [Option<usize>],
    index_of: HashMap<u32, usize>,
    /// The session a task must be born into; a leader need not care unless its children do.
    needs: Vec<Option<u32>>,
    origins: Vec<Origin>,
}

/// Plans the births of a tree, one entry a task. `outer` is the process group that the root is born into.
pub(super) fn plan(
    tasks: &[&PstreeEntry],
    parents: &[Option<usize>],
    outer: Option<u32>,
) -> Result<Vec<Births>, Error> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let mut planner = Planner {
        tasks,
        parents,
        index_of: tasks.iter().enumerate().map(|(i, task)| (task.pid, i)).collect(),
        needs: tasks.iter().map(|task| (!leads_session(task)).then_some(task.sid)).collect(),
        origins: vec![Origin::Late; tasks.len()],
    };
    let missing = planner.living_sessions()?;
    let mut sessions = planner.gone_sessions(missing)?;
    let mut births: Vec<Births> = tasks
        .iter()
        .map(|task| Births {
            setsid: leads_session(task),
            setpgid: task.pgid == task.pid && !leads_session(task),
            ..Births::default()
        })
        .collect();
    planner.groups(outer, &mut sessions, &mut births)?;
    for (parent, helper) in sessions.into_values() {
        births[parent].helpers.push(helper);
    }
    for (index, parent) in parents.iter().enumerate().skip(1) {
        let Some(parent) = *parent else { continue };
        match planner.origins[index] {
            Origin::Late => births[parent].after.push(index),
            Origin::Early => births[parent].before_setsid.push(index),
            Origin::Sibling(leader) => births[leader].siblings.push(index),
            Origin::Helped => {}
        }
    }
    match planner.never_born(&births) {
        Some(index) => Err(impossible(tasks[index], "it would have to be its own ancestor")),
        None => Ok(births),
    }
}

fn leads_session(task: &PstreeEntry) -> bool {
    task.sid == task.pid
}

pub(super) fn impossible(task: &PstreeEntry, why: &str) -> Error {
    Error::Tree { pid: task.pid as i32, why: why.into() }
}

/// Every helper of a plan.
pub(super) fn helpers(births: &[Births]) -> Vec<&Helper> {
    let mut all: Vec<&Helper> = births.iter().flat_map(|births| &births.helpers).collect();
    let mut next = 0;
    while next < all.len() {
        let helper = all[next];
        all.extend(&helper.helpers);
        next += 1;
    }
    all
}

impl Planner<'_> {
    /// Children before parents: sessions whose leader is in the tree, or that the root is born into. Gives
    /// the tasks that must be born into others.
    fn living_sessions(&mut self) -> Result<BTreeMap<u32, Vec<usize>>, Error> {
        let mut missing: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for index in (1..self.tasks.len()).rev() {
            let (Some(need), Some(parent)) = (self.needs[index], self.parents[index]) else { continue };
            if need == self.tasks[parent].sid {
                continue;
            }
            match self.index_of.get(&need) {
                Some(&leader) if self.descends(leader, parent) => {
                    if self.parents[leader] != Some(parent) {
                        let ppid = self.tasks[parent].pid;
                        let why =
                            format!("the leader of its session {need} is no child of its parent {ppid}");
                        return Err(impossible(self.tasks[index], &why));
                    }
                    self.origins[index] = Origin::Sibling(leader);
                }
                None if need != self.tasks[0].sid => missing.entry(need).or_default().push(index),
                _ => self.early(index, parent, need)?,
            }
        }
        if self.needs[0].is_some_and(|need| self.index_of.contains_key(&need)) {
            let why = "it would have to be born into a session of its descendants";
            return Err(impossible(self.tasks[0], why));
        }
        Ok(missing)
    }

    /// The parent left that session after the birth, which only a leader can have done.
    fn early(&mut self, index: usize, parent: usize, need: u32) -> Result<(), Error> {
        if !leads_session(self.tasks[parent]) || *self.needs[parent].get_or_insert(need) != need {
            let ppid = self.tasks[parent].pid;
            let why = format!("its session {need} is not one that its parent {ppid} ever was in");
            return Err(impossible(self.tasks[index], &why));
        }
        self.origins[index] = Origin::Early;
        Ok(())
    }

    /// Sessions whose leader is gone: a helper in its place bears the members as its siblings, so they must
    /// have one parent. Where they have several, all but the topmost were in the session themselves.
    fn gone_sessions(&mut self, missing: BTreeMap<u32, Vec<usize>>) -> Result<Sessions, Error> {
        let mut sessions = BTreeMap::new();
        let parents = self.parents;
        for (pid, mut wanted) in missing {
            let parent = loop {
                let of: BTreeSet<usize> = wanted.iter().filter_map(|&index| parents[index]).collect();
                let Some(deepest) = of.iter().copied().max_by_key(|&parent| self.depth(parent)) else {
                    return Err(Error::corrupt("session", pid));
                };
                if of.len() == 1 {
                    break deepest;
                }
                for &index in wanted.iter().filter(|&&index| parents[index] == Some(deepest)) {
                    self.early(index, deepest, pid)?;
                }
                wanted.retain(|&index| parents[index] != Some(deepest));
                if parents[deepest].is_some_and(|parent| self.tasks[parent].sid != pid) {
                    wanted.push(deepest);
                }
            };
            if pid == 0 {
                let why = "the leader of its session lies outside of the pid namespace";
                return Err(impossible(self.tasks[wanted[0]], why));
            }
            wanted.sort_unstable();
            wanted.iter().for_each(|&index| self.origins[index] = Origin::Helped);
            sessions
                .insert(pid, (parent, Helper { pid, session: true, siblings: wanted, helpers: Vec::new() }));
        }
        Ok(sessions)
    }

    /// A group must have its leader, in the same session; or be the one that the root was born into. Where the
    /// leader is gone, a helper makes the group, as a child of somebody in the session.
    fn groups(
        &self,
        outer: Option<u32>,
        sessions: &mut Sessions,
        births: &mut [Births],
    ) -> Result<(), Error> {
        let root = self.tasks[0];
        let mut gone: BTreeMap<u32, &PstreeEntry> = BTreeMap::new();
        for task in self.tasks {
            let (group, sid) = (task.pgid, task.sid);
            let refuse = |why: String| Err(impossible(task, &why));
            if leads_session(task) && group != task.pid {
                return refuse(format!("it leads a session but is in process group {group}"));
            }
            match self.index_of.get(&group).map(|&leader| self.tasks[leader]) {
                Some(leader) if leader.sid != sid => {
                    return refuse(format!("its process group {group} is in another session"));
                }
                Some(leader) if leader.pgid != group => {
                    return refuse(format!("the leader of its process group {group} has left that group"));
                }
                Some(_) => {}
                // 0: outside of the pid namespace.
                None if outer.is_none() && [0, root.pgid].contains(&group) && sid == root.sid => {}
                None if Some(group) == outer && sid == root.sid => {}
                None if group == 0 => {
                    return refuse(
                        "the leader of its process group lies outside of the pid namespace".into(),
                    );
                }
                // A session's helper leads a group too.
                None if sessions.contains_key(&group) && sid == group => {}
                None => {
                    let first = *gone.entry(group).or_insert(task);
                    if first.sid != sid || sessions.contains_key(&group) {
                        return refuse(format!("its process group {group} is in another session"));
                    }
                }
            }
        }
        for (pid, member) in gone {
            let helper = Helper { pid, ..Helper::default() };
            match (sessions.get_mut(&member.sid), self.index_of.get(&member.sid)) {
                (Some((_, leader)), _) => leader.helpers.push(helper),
                (None, Some(&leader)) => births[leader].helpers.push(helper),
                // The session that the root is born into and stays in.
                (None, None) => births[0].helpers.push(helper),
            }
        }
        Ok(())
    }

    fn depth(&self, index: usize) -> usize {
        std::iter::successors(self.parents[index], |&parent| self.parents[parent]).count()
    }

    fn descends(&self, index: usize, ancestor: usize) -> bool {
        std::iter::successors(self.parents[index], |&parent| self.parents[parent]).any(|one| one == ancestor)
    }

    /// A task that nobody bears who is born himself.
    fn never_born(&self, births: &[Births]) -> Option<usize> {
        let mut born = HashSet::from([0]);
        let mut next = vec![0];
        while let Some(index) = next.pop() {
            let Births { before_setsid, siblings, after, helpers, .. } = &births[index];
            let helped = helpers.iter().flat_map(|helper| &helper.siblings);
            let all = before_setsid.iter().chain(siblings).chain(after).chain(helped);
            next.extend(all.copied().filter(|&child| born.insert(child)));
        }
        (0..self.tasks.len()).find(|index| !born.contains(index))
    }
}
