//! Sessions and their controlling terminals, foreground groups.
//!
//! On dump, procfs tells which terminal a session has. On restore, the session's leader takes the terminal
//! and puts a group into the foreground; its children inherit the terminal.

use crate::device;
use crate::own::Own;
use crate::plan::Origin;
use crate::{Shared, Terminals, TtyError, sys};
use criu_images::{RecordSet, proto};
use criu_kernel::proc::Stat;
use criu_resource::{
    Answer, BoxError, BuiltTask, BuiltTree, BulkData, DumpContext, Fate, FrozenTask, FrozenTree, Life, Place,
    Portion, RestoreContext, Stage, TreeDump, TreeRestore, TreeState,
};
use criu_script::Script;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use proto::{TtyInfoEntry, TtyType};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// When a leader takes its terminal. Only children that are cloned later inherit it.
const TAKE: Stage = Stage::Session;

/// The session that a terminal controls, by ids of the tree's pid namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    pub sid: i32,
    /// The foreground group.
    pub pgrp: i32,
    /// The leader's pid in criu-rs's namespace, where it belongs to the tree.
    pub leader: Option<i32>,
}

fn stat(proc: BorrowedFd<'_>) -> Result<Stat, BoxError> {
    let file = openat(proc, "stat", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    File::from(file).read_to_end(&mut text)?;
    Ok(Stat::parse(&text)?)
}

/// The terminals of all sessions of a tree: device number → session. One task of each session is asked,
/// its leader where that is in the tree.
pub(crate) fn sessions(tree: &FrozenTree<'_>) -> Result<HashMap<u32, Session>, BoxError> {
    let mut asked: HashMap<i32, &FrozenTask<'_>> = HashMap::new();
    for task in tree.tasks.iter().filter(|task| !task.threads.is_empty()) {
        let first = asked.entry(task.ns_sid).or_insert(task);
        if task.ns_pid == task.ns_sid {
            *first = task;
        }
    }
    let same_namespace = tree.tasks.iter().all(|task| task.pid == task.ns_pid);
    let mut sessions = HashMap::new();
    for (sid, task) in asked {
        let stat = stat(task.proc)?;
        if stat.tty_nr == 0 {
            continue;
        }
        let group = match tree.tasks.iter().find(|task| task.pid == stat.tpgid) {
            Some(leader) => leader.ns_pid,
            None if same_namespace => stat.tpgid.max(0),
            None => 0,
        };
        let leader = (task.ns_pid == sid).then_some(task.pid);
        sessions.insert(stat.tty_nr, Session { sid, pgrp: group, leader });
    }
    Ok(sessions)
}

impl TreeState for Terminals {
    fn name(&self) -> &'static str {
        "controlling terminal"
    }

    fn dump<'t>(
        &'t self,
        tree: &'t FrozenTree<'t>,
        context: &'t DumpContext<'t>,
    ) -> Result<Box<dyn TreeDump + 't>, BoxError> {
        self.0.begin_dump(sessions(tree)?);
        Ok(Box::new(SessionDump { shared: &self.0, shell_job: context.options.shell_job }))
    }

    fn restore<'t>(
        &'t self,
        tree: &'t BuiltTree,
        context: &'t RestoreContext<'t>,
    ) -> Result<Box<dyn TreeRestore + 't>, BoxError> {
        self.0.begin_restore(context, true)?;
        let controls = controls(&self.0, tree)?;
        Ok(Box::new(SessionRestore { shared: &self.0, context, controls }))
    }
}

struct SessionDump<'t> {
    shared: &'t Shared,
    shell_job: bool,
}

impl TreeDump for SessionDump<'_> {
    fn ask<'a>(&'a self, _: &'a FrozenTask<'a>, _: &mut Script) -> Result<Answer<'a>, BoxError> {
        Ok(Box::new(|_, _| Ok(())))
    }

    fn bulk<'a>(&'a self, _: Portion<'a>) -> Option<BulkData<'a>> {
        None
    }

    fn copyable(&self) -> Vec<i32> {
        Vec::new()
    }

    fn finish(&mut self, _: &mut RecordSet) -> Result<(), BoxError> {
        for (number, pid) in self.shared.unheld() {
            let error = TtyError::Unheld { terminal: device::name(number), pid };
            if !self.shell_job {
                return Err(error.into());
            }
            tracing::warn!("{error}");
        }
        Ok(())
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        Ok(())
    }
}

/// A task that does something with a terminal.
struct Control {
    task: usize,
    info: TtyInfoEntry,
    /// Takes the terminal (TIOCSCTTY), with this argument.
    take: Option<i32>,
    /// Puts this group into the foreground.
    group: Option<u32>,
    /// Number of criu-rs, once reserved, and what keeps it free.
    number: Option<(i32, OwnedFd)>,
}

/// Who has to do what.
fn controls(shared: &Shared, tree: &BuiltTree) -> Result<Vec<Control>, BoxError> {
    let plan = shared.plan();
    let Some(plan) = plan.as_ref() else { return Ok(Vec::new()) };
    let living = |task: &&BuiltTask| !matches!(task.life, Life::Zombie(_));
    let mut controls: Vec<Control> = Vec::new();
    for info in plan.infos.values() {
        if info.sid == 0 || info.r#type() == TtyType::Ctty || info.termios.is_none() {
            continue;
        }
        let origin = plan.origin(info, shared.orphans.is_some())?;
        let leads = |task: &&BuiltTask| task.pid() == info.sid && task.pstree.sid == info.sid;
        let leader = tree.tasks.iter().filter(living).find(leads);
        match (leader, origin) {
            (_, Origin::Own) => controls.extend(job(tree, info)),
            (Some(leader), _) => {
                // Both ends of a pty name the session.
                if controls.iter().any(|known| known.task == leader.index) {
                    continue;
                }
                let in_session = |group: u32| {
                    tree.tasks.iter().any(|task| task.pstree.pgid == group && task.pstree.sid == info.sid)
                };
                let group = Some(info.pgrp).filter(|&group| group != info.sid && in_session(group));
                let take = Some(i32::from(matches!(origin, Origin::Given(_) | Origin::Node)));
                controls.push(Control { task: leader.index, info: info.clone(), take, group, number: None });
            }
            (None, Origin::Slave(_)) => {} // its master has a say
            (None, _) if plan.options.shell_job || shared.orphans.is_some() => {}
            (None, _) => {
                return Err(TtyError::NoLeader { terminal: device::name(info.rdev), sid: info.sid }.into());
            }
        }
    }
    Ok(controls)
}

/// A job of a shell that was in the foreground is so again, on criu-rs's own terminal.
fn job(tree: &BuiltTree, info: &TtyInfoEntry) -> Option<Control> {
    let root = tree.tasks.first()?;
    let inherits = |task: &&BuiltTask| {
        !matches!(task.life, Life::Zombie(_))
            && task.pstree.sid == root.pstree.sid
            && task.pid() != root.pstree.sid
    };
    let member = tree.tasks.iter().filter(inherits).find(|task| task.pstree.pgid == info.pgrp)?;
    if tree.tasks.iter().any(|task| task.pid() == root.pstree.sid) {
        return None; // not a session that it inherits
    }
    if !Own::find().is_ok_and(|own| own.is_controlling()) {
        return None;
    }
    let group = Some(info.pgrp);
    Some(Control { task: member.index, info: info.clone(), take: None, group, number: None })
}

struct SessionRestore<'t> {
    shared: &'t Shared,
    context: &'t RestoreContext<'t>,
    controls: Vec<Control>,
}

/// Reserves a number and keeps it free until the terminal goes there.
fn seat(context: &RestoreContext<'_>) -> Result<(i32, OwnedFd), BoxError> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let holder = nix::fcntl::open("/", flags, Mode::empty())?;
    loop {
        let number = context.numbers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).reserve(None);
        let keeper = sys::duplicate_from(std::os::fd::AsFd::as_fd(&holder), number)
            .map_err(TtyError::call(format!("descriptor number {number}"), "fcntl(F_DUPFD)"))?;
        // Another number: criu-rs has something open there.
        if keeper.as_raw_fd() == number {
            return Ok((number, keeper));
        }
    }
}

impl TreeRestore for SessionRestore<'_> {
    fn emit(&mut self, stage: Stage, task: &BuiltTask, script: &mut Script) -> Result<(), BoxError> {
        if stage != TAKE && stage != Stage::Files {
            return Ok(());
        }
        for control in self.controls.iter_mut().filter(|control| control.task == task.index) {
            if control.number.is_none() {
                control.number = Some(seat(self.context)?);
            }
            let Some((number, _)) = control.number else { continue };
            if stage == TAKE
                && let Some(steal) = control.take
            {
                let request = libc::TIOCSCTTY;
                script.syscall(libc::SYS_ioctl, [number.into(), request.into(), steal.into()]);
            }
            if stage == Stage::Files
                && let Some(group) = control.group
            {
                let group = script.bytes(&group.to_ne_bytes());
                let request = libc::TIOCSPGRP;
                script.syscall(libc::SYS_ioctl, [number.into(), request.into(), group.into()]);
            }
        }
        Ok(())
    }

    fn emit_thread(&mut self, _: &BuiltTask, _: usize, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn aside(&mut self, _: &BuiltTask, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn restrains(&self, _: &BuiltTask) -> bool {
        false
    }

    fn occupied(&self) -> Vec<(u64, u64)> {
        Vec::new()
    }

    fn prepare(&mut self, place: &mut dyn Place) -> Result<(), BoxError> {
        for control in &mut self.controls {
            let Some((number, keeper)) = control.number.take() else { continue };
            let fd = self.shared.with_plan(|plan| plan.open_control(self.shared, &control.info))?;
            drop(keeper);
            place.place(number, fd, true)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl Drop for SessionRestore<'_> {
    fn drop(&mut self) {
        self.shared.end_restore();
    }
}
