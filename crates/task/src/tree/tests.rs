//! Trees that come about by the calls that make them, and by deaths, and trees that cannot.

use super::*;
use criu_resource::Helper;
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
    Exit(prop::sample::Index),
}

fn calls(deaths: u32) -> impl Strategy<Value = Vec<Call>> {
    let index = any::<prop::sample::Index>;
    let call = prop_oneof![
        3 => index().prop_map(Call::Fork),
        1 => index().prop_map(Call::Setsid),
        1 => (index(), index()).prop_map(|(who, group)| Call::Setpgid(who, group)),
        deaths => index().prop_map(Call::Exit),
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
    let shell = pgid == SHELL && sid == SHELL; // whose own group is always there
    let exists = shell || tasks.iter().any(|task| task.pgid == pgid && task.sid == sid);
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

/// exit(2), and the parent waits: children go to the root, which never ends.
fn exit(tasks: &mut Vec<Task>, who: usize) {
    if who == 0 {
        return;
    }
    tasks.remove(who);
    for parent in tasks.iter_mut().filter_map(|task| task.parent.as_mut()) {
        match (*parent).cmp(&who) {
            std::cmp::Ordering::Equal => *parent = 0,
            std::cmp::Ordering::Greater => *parent -= 1,
            std::cmp::Ordering::Less => {}
        }
    }
}

/// Whatever a program may have done.
fn live(root: Task, calls: &[Call]) -> Vec<Task> {
    let mut tasks = vec![root];
    let mut pids = 101..;
    for call in calls {
        match call {
            Call::Fork(who) => {
                let (who, pid) = (who.index(tasks.len()), pids.next().unwrap());
                fork(&mut tasks, who, pid);
            }
            Call::Exit(who) => {
                let who = who.index(tasks.len());
                exit(&mut tasks, who);
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
    let parents: Vec<_> = tasks.iter().map(|task| task.parent).collect();
    plan(&entries.iter().collect::<Vec<_>>(), &parents, Some(SHELL))
}

/// Does what the engine does with a plan: each task, as soon as it is born.
struct Rebuilt<'a> {
    wanted: &'a [Task],
    births: &'a [Births],
    built: Vec<Task>,
    helpers: Vec<usize>,
}

impl Rebuilt<'_> {
    /// `wanted[child]` is born to `parent`, in the session and group of `like`.
    fn bear(&mut self, child: usize, like: usize, parent: Option<usize>) {
        let Task { sid, pgid, .. } = self.built[like];
        let here = self.built.len();
        self.built.push(Task { parent, pid: self.wanted[child].pid, sid, pgid });
        self.grow(child, here);
    }

    fn grow(&mut self, index: usize, here: usize) {
        let plan = &self.births[index];
        plan.before_setsid.iter().for_each(|&child| self.bear(child, here, Some(here)));
        let pid = self.wanted[index].pid;
        assert!(!plan.setsid || setsid(&mut self.built, here), "setsid of {pid}");
        assert!(!plan.setpgid || setpgid(&mut self.built, here, pid), "setpgid of {pid}");
        plan.siblings.iter().for_each(|&child| self.bear(child, here, self.built[here].parent));
        plan.helpers.iter().for_each(|helper| self.help(helper, here));
        plan.after.iter().for_each(|&child| self.bear(child, here, Some(here)));
    }

    fn help(&mut self, helper: &Helper, parent: usize) {
        let here = self.built.len();
        fork(&mut self.built, parent, helper.pid);
        self.helpers.push(here);
        let led = match helper.session {
            true => setsid(&mut self.built, here),
            false => setpgid(&mut self.built, here, helper.pid),
        };
        assert!(led, "helper {}", helper.pid);
        helper.siblings.iter().for_each(|&child| self.bear(child, here, Some(parent)));
        helper.helpers.iter().for_each(|helper| self.help(helper, here));
    }
}

fn rebuild(wanted: &[Task], births: &[Births]) -> Vec<Task> {
    let root = Task { sid: SHELL, pgid: SHELL, ..wanted[0].clone() };
    let mut rebuilt = Rebuilt { wanted, births, built: vec![root], helpers: Vec::new() };
    rebuilt.grow(0, 0);
    let Rebuilt { mut built, helpers, .. } = rebuilt;
    // After the barrier: what `Groups` does.
    for who in (0..built.len()).filter(|who| !helpers.contains(who)) {
        let task = wanted.iter().find(|task| task.pid == built[who].pid).unwrap();
        if task.pgid != task.pid {
            assert!(setpgid(&mut built, who, task.pgid), "{} joins {}", task.pid, task.pgid);
        }
    }
    let parent = |task: &Task| task.parent.map(|parent| built[parent].pid);
    let lasting = built.iter().enumerate().filter(|(who, _)| !helpers.contains(who));
    // The parent is told by its pid, since positions differ.
    let mut lasting: Vec<Task> = lasting
        .map(|(_, task)| Task { parent: parent(task).map(|pid| pid as usize), ..task.clone() })
        .collect();
    lasting.sort_by_key(|task| task.pid);
    lasting
}

/// Rebuilds a tree and compares; `Err` with the refusal.
fn rebuilt_alike(wanted: &[Task]) -> Result<(), String> {
    let births = planned(wanted).map_err(|error| error.to_string())?;
    if helpers(&births).iter().any(|helper| helper.pid == SHELL) {
        return Err("the leader lies outside".into()); // as `check_sessions` says
    }
    let built = rebuild(wanted, &births);
    assert_eq!(wanted.len(), built.len());
    for (task, built) in wanted.iter().zip(&built) {
        let parent = task.parent.map(|parent| wanted[parent].pid as usize);
        assert_eq!(&Task { parent, ..task.clone() }, built);
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_tree_without_deaths_comes_about_again(calls in calls(0), job in any::<bool>()) {
        let outside = if job { SHELL } else { ROOT };
        let wanted = live(Task { parent: None, pid: ROOT, sid: outside, pgid: outside }, &calls);
        // What is not rebuilt: a group whose leader left, and of a job, whose root left the session, the rest.
        let known = ["has left that group", "lies outside"];
        if let Err(text) = rebuilt_alike(&wanted) {
            prop_assert!(known.iter().any(|known| text.contains(known)), "{}", text);
        }
    }

    #[test]
    fn leaders_may_be_gone(calls in calls(2), job in any::<bool>()) {
        let outside = if job { SHELL } else { ROOT };
        let wanted = live(Task { parent: None, pid: ROOT, sid: outside, pgid: outside }, &calls);
        // Nor a session whose leader lives further down than its orphans, or that had two parents.
        let known = ["has left that group", "lies outside", "is no child of its parent", "ever was in"];
        if let Err(text) = rebuilt_alike(&wanted) {
            prop_assert!(known.iter().any(|known| text.contains(known)), "{}", text);
        }
    }

    #[test]
    fn whatever_ids_there_are_nothing_panics(ids in prop::collection::vec((1u32..9, 1u32..9, any::<prop::sample::Index>()), 1..9)) {
        let task = |(i, (sid, pgid, parent)): (usize, (u32, u32, prop::sample::Index))| Task {
            parent: (i > 0).then(|| parent.index(i)), pid: 1 + i as u32, sid, pgid,
        };
        let tasks: Vec<Task> = ids.into_iter().enumerate().map(task).collect();
        if let Ok(births) = planned(&tasks) {
            let own = |births: &Births| births.before_setsid.len() + births.siblings.len() + births.after.len();
            let helped: usize = helpers(&births).iter().map(|helper| helper.siblings.len()).sum();
            let born = births.iter().map(own).sum::<usize>() + helped;
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
    assert_eq!(
        births[1],
        Births { before_setsid: vec![2], setsid: true, after: vec![3], ..Default::default() }
    );
    assert!(births[3].setpgid && !births[3].setsid);
}

#[test]
fn helpers_take_the_place_of_leaders() {
    // A daemon forked twice, and a job of its whose leader ended first.
    let daemon = [task(None, 1, 1, 1), task(Some(0), 3, 2, 2), task(Some(1), 5, 2, 4)];
    let births = planned(&daemon).unwrap();
    let group = Helper { pid: 4, ..Default::default() };
    let session = Helper { pid: 2, session: true, siblings: vec![1], helpers: vec![group.clone()] };
    assert_eq!(births[0].helpers, [session]);
    assert_eq!((&births[0].after, &births[1].after), (&vec![], &vec![2]));
    rebuilt_alike(&daemon).unwrap();

    let job = [task(None, 1, 1, 1), task(Some(0), 3, 1, 4)];
    assert_eq!(planned(&job).unwrap()[0].helpers, [group]);
    rebuilt_alike(&job).unwrap();
}

#[test]
fn a_living_leader_bears_its_orphans_for_its_parent() {
    let tree = [task(None, 1, 1, 1), task(Some(0), 2, 2, 2), task(Some(0), 4, 2, 2)];
    assert_eq!(planned(&tree).unwrap()[1].siblings, [2]);
    rebuilt_alike(&tree).unwrap();
    let deeper =
        [task(None, 1, 1, 1), task(Some(0), 2, 1, 1), task(Some(1), 3, 3, 3), task(Some(0), 5, 3, 3)];
    let text = rebuilt_alike(&deeper).unwrap_err();
    assert!(text.contains("task 5") && text.contains("session 3 is no child of its parent 1"), "{text}");
}

#[test]
fn groups_of_nobody_are_named() {
    let strange =
        [task(None, 1, 1, 1), task(Some(0), 3, 3, 3), task(Some(1), 4, 3, 9), task(Some(0), 5, 1, 9)];
    let text = planned(&strange).unwrap_err().to_string();
    assert!(text.contains("task 5") && text.contains("group 9 is in another session"), "{text}");
}

#[test]
fn jobs_of_a_shell_take_the_option() {
    let checked = |tasks: &[Task], shell_job| {
        let entries = entries(tasks);
        let parents: Vec<_> = tasks.iter().map(|task| task.parent).collect();
        let options = Options { shell_job, ..Options::default() };
        let checked = check(&entries.iter().collect::<Vec<_>>(), &parents, &options);
        checked.map(drop).map_err(|error| error.to_string())
    };
    let job = [task(None, 123, 100, 123), task(Some(0), 124, 100, 123)];
    let text = checked(&job, false).unwrap_err();
    assert!(text.starts_with("task 123 belongs to session 100,"), "{text}");
    assert!(text.contains("--shell-job") && text.contains("/etc/criu/default.conf"), "{text}");
    checked(&job, true).unwrap();
    checked(&[task(None, 123, 123, 123), task(Some(0), 124, 123, 123)], false).unwrap();
}
