//! Trees that come about by the calls that make them, and trees that cannot.

use super::*;
use proptest::prelude::*;

/// A task as the kernel sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Task {
    parent: Option<usize>,
    pid: u32,
    sid: u32,
    pgid: u32,
}

const SHELL: u32 = 7;
const ROOT: u32 = 100;

#[derive(Clone, Debug)]
enum Call {
    Fork(prop::sample::Index),
    Setsid(prop::sample::Index),
    Setpgid(prop::sample::Index, prop::sample::Index),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let index = any::<prop::sample::Index>;
    let call = prop_oneof![
        3 => index().prop_map(Call::Fork),
        1 => index().prop_map(Call::Setsid),
        1 => (index(), index()).prop_map(|(who, group)| Call::Setpgid(who, group)),
    ];
    prop::collection::vec(call, 0..60)
}

/// setsid(2): refused to whoever's pid names a group.
fn setsid(tasks: &mut [Task], who: usize) -> bool {
    let pid = tasks[who].pid;
    let allowed = tasks.iter().all(|task| task.pgid != pid);
    if allowed {
        (tasks[who].sid, tasks[who].pgid) = (pid, pid);
    }
    allowed
}

/// setpgid(2): not for session leaders; into an own new group, or one that exists in the session.
fn setpgid(tasks: &mut [Task], who: usize, pgid: u32) -> bool {
    let Task { pid, sid, .. } = tasks[who];
    let exists = tasks.iter().any(|task| task.pgid == pgid && task.sid == sid);
    let allowed = sid != pid && (pgid == pid || exists);
    if allowed {
        tasks[who].pgid = pgid;
    }
    allowed
}

fn fork(tasks: &mut Vec<Task>, parent: usize, pid: u32) {
    let Task { sid, pgid, .. } = tasks[parent];
    tasks.push(Task { parent: Some(parent), pid, sid, pgid });
}

/// Whatever a program without deaths may have done.
fn live(root: Task, calls: &[Call]) -> Vec<Task> {
    let mut tasks = vec![root];
    for call in calls {
        match call {
            Call::Fork(who) => {
                let (who, pid) = (who.index(tasks.len()), 100 + tasks.len() as u32);
                fork(&mut tasks, who, pid);
            }
            Call::Setsid(who) => {
                let who = who.index(tasks.len());
                setsid(&mut tasks, who);
            }
            Call::Setpgid(who, group) => {
                let (who, group) = (who.index(tasks.len()), group.index(tasks.len()));
                let pgid = tasks[group].pid;
                setpgid(&mut tasks, who, pgid);
            }
        }
    }
    tasks
}

fn entries(tasks: &[Task]) -> Vec<PstreeEntry> {
    let parent = |task: &Task| task.parent.map_or(0, |parent| tasks[parent].pid);
    let entry = |task: &Task| PstreeEntry {
        pid: task.pid,
        ppid: parent(task),
        pgid: task.pgid,
        sid: task.sid,
        threads: vec![task.pid],
    };
    tasks.iter().map(entry).collect()
}

fn planned(tasks: &[Task]) -> Result<Vec<Births>, Error> {
    let entries = entries(tasks);
    plan(&entries.iter().collect::<Vec<_>>(), &tasks.iter().map(|task| task.parent).collect::<Vec<_>>())
}

/// Does what the engine does with a plan: each task, as soon as it is born.
fn rebuild(wanted: &[Task], births: &[Births]) -> Vec<Task> {
    fn grow(index: usize, wanted: &[Task], births: &[Births], built: &mut Vec<Task>) {
        let here = built.len() - 1;
        let plan = &births[index];
        let bear = |child: usize, built: &mut Vec<Task>| {
            fork(built, here, wanted[child].pid);
            grow(child, wanted, births, built);
        };
        plan.before_setsid.iter().for_each(|&child| bear(child, built));
        assert!(!plan.setsid || setsid(built, here), "setsid of {}", wanted[index].pid);
        assert!(!plan.setpgid || setpgid(built, here, wanted[index].pid), "setpgid of {}", wanted[index].pid);
        plan.after.iter().for_each(|&child| bear(child, built));
    }
    let mut built = vec![Task { sid: SHELL, pgid: SHELL, ..wanted[0].clone() }];
    grow(0, wanted, births, &mut built);
    // After the barrier: what `Groups` does.
    for who in 0..built.len() {
        let task = wanted.iter().find(|task| task.pid == built[who].pid).unwrap();
        if task.pgid != task.pid {
            assert!(setpgid(&mut built, who, task.pgid), "{} joins {}", task.pid, task.pgid);
        }
    }
    built
}

proptest! {
    #[test]
    fn every_tree_without_deaths_comes_about_again(calls in calls(), job in any::<bool>()) {
        let outside = if job { SHELL } else { ROOT };
        let wanted = live(Task { parent: None, pid: ROOT, sid: outside, pgid: outside }, &calls);
        match planned(&wanted) {
            Ok(births) => {
                let mut built = rebuild(&wanted, &births);
                built.sort_by_key(|task| task.pid);
                for (wanted, built) in wanted.iter().zip(&built) {
                    prop_assert_eq!(wanted.pid, built.pid);
                    prop_assert_eq!((wanted.sid, wanted.pgid), (built.sid, built.pgid), "{:?}", wanted);
                }
            }
            // What is not rebuilt: a group whose leader left, and, of a job, what the root alone has left.
            Err(error) => {
                let text = error.to_string();
                let left = wanted[0].sid != SHELL || wanted[0].pgid != SHELL;
                let of_job = job && left && (text.contains("session 7 ") || text.contains("group 7 "));
                prop_assert!(of_job || text.contains("has left that group"), "{}", text);
            }
        }
    }

    #[test]
    fn whatever_ids_there_are_nothing_panics(ids in prop::collection::vec((1u32..9, 1u32..9, any::<prop::sample::Index>()), 1..9)) {
        let task = |(i, (sid, pgid, parent)): (usize, (u32, u32, prop::sample::Index))| Task {
            parent: (i > 0).then(|| parent.index(i)), pid: 1 + i as u32, sid, pgid,
        };
        let tasks: Vec<Task> = ids.into_iter().enumerate().map(task).collect();
        if let Ok(births) = planned(&tasks) {
            let born: usize = births.iter().map(|births| births.before_setsid.len() + births.after.len()).sum();
            prop_assert_eq!(born, tasks.len() - 1, "everybody but the root is born once");
        }
    }
}

fn task(parent: Option<usize>, pid: u32, sid: u32, pgid: u32) -> Task {
    Task { parent, pid, sid, pgid }
}

#[test]
fn a_leader_has_older_children_first() {
    let tree = [task(None, 1, 1, 1), task(Some(0), 2, 2, 2), task(Some(1), 3, 1, 1), task(Some(1), 4, 2, 4)];
    let births = planned(&tree).unwrap();
    assert_eq!(births[1], Births { before_setsid: vec![2], setsid: true, setpgid: false, after: vec![3] });
    assert!(births[3].setpgid && !births[3].setsid);
}

#[test]
fn dead_leaders_are_named() {
    let session = [task(None, 1, 1, 1), task(Some(0), 3, 2, 3)];
    let text = planned(&session).unwrap_err().to_string();
    assert!(text.contains("task 3") && text.contains("session 2"), "{text}");
    let group = [task(None, 1, 1, 1), task(Some(0), 3, 1, 2)];
    let text = planned(&group).unwrap_err().to_string();
    assert!(text.contains("task 3") && text.contains("group 2"), "{text}");
}

#[test]
fn jobs_of_a_shell_take_the_option() {
    let checked = |tasks: &[Task], shell_job| {
        let entries = entries(tasks);
        let parents: Vec<_> = tasks.iter().map(|task| task.parent).collect();
        let options = Options { shell_job, ..Options::default() };
        check(&entries.iter().collect::<Vec<_>>(), &parents, &options).map_err(|error| error.to_string())
    };
    let job = [task(None, 123, 100, 123), task(Some(0), 124, 100, 123)];
    let text = checked(&job, false).unwrap_err();
    assert!(text.starts_with("task 123 belongs to session 100,"), "{text}");
    assert!(text.contains("--shell-job") && text.contains("/etc/criu/default.conf"), "{text}");
    checked(&job, true).unwrap();
    checked(&[task(None, 123, 123, 123), task(Some(0), 124, 123, 123)], false).unwrap();
    // The option does not help: the session is another's.
    let stray = [task(None, 123, 123, 123), task(Some(0), 124, 100, 123)];
    for shell_job in [false, true] {
        let text = checked(&stray, shell_job).unwrap_err();
        assert!(text.contains("task 124") && text.contains("session 100"), "{text}");
    }
}
