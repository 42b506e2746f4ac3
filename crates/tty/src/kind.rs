//! Terminals as a kind of open file.

use crate::device::Device;
use crate::dump::TtyDump;
use crate::plan::Plan;
use crate::session::Session;
use crate::{OrphanMaster, TtyError};
use criu_images::proto;
use criu_resource::{
    BoxError, Descriptor, DumpContext, FileDump, FileKind, FileRestore, RestoreContext, Slot,
};
use criu_script::Script;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All terminals of a dump or restore: a [`FileKind`] for their descriptors, and a
/// [`TreeState`](criu_resource::TreeState) for the sessions they control. Clones share their state; one goes
/// into each list.
#[derive(Clone, Default)]
pub struct Terminals(pub(crate) Arc<Shared>);

#[derive(Default)]
pub(crate) struct Shared {
    pub orphans: Option<Arc<dyn OrphanMaster>>,
    sessions: Mutex<HashMap<u32, Session>>,
    held: Mutex<HashSet<u32>>,
    plan: Mutex<Option<Plan>>,
}

impl Terminals {
    /// None yet.
    pub fn new() -> Terminals {
        Terminals::default()
    }

    /// A slave may have its master outside of the tree: on restore, `orphans` gets a new one.
    pub fn with_orphans(orphans: Arc<dyn OrphanMaster>) -> Terminals {
        Terminals(Arc::new(Shared { orphans: Some(orphans), ..Shared::default() }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn begin_dump(&self, sessions: HashMap<u32, Session>) {
        *lock(&self.sessions) = sessions;
        lock(&self.held).clear();
    }

    /// The session that a terminal controls.
    pub fn session(&self, number: u32) -> Option<Session> {
        lock(&self.sessions).get(&number).copied()
    }

    /// Somebody in the tree has the terminal open.
    pub fn hold(&self, number: u32) {
        lock(&self.held).insert(number);
    }

    /// Controlling terminals that nobody has open, with the leaders.
    pub fn unheld(&self) -> Vec<(u32, i32)> {
        let held = lock(&self.held);
        let sessions = lock(&self.sessions);
        let unheld = sessions.iter().filter(|(number, _)| !held.contains(number));
        unheld.filter_map(|(&number, session)| Some((number, session.leader?))).collect()
    }

    /// Reads the images, unless that was done; `anew` forgets what an earlier restore left.
    pub fn begin_restore(&self, context: &RestoreContext<'_>, anew: bool) -> Result<(), BoxError> {
        let mut plan = lock(&self.plan);
        if anew || plan.is_none() {
            *plan = Some(Plan::read(context.options, context.store)?);
        }
        Ok(())
    }

    pub fn plan(&self) -> MutexGuard<'_, Option<Plan>> {
        lock(&self.plan)
    }

    pub fn with_plan<T>(&self, work: impl FnOnce(&mut Plan) -> Result<T, BoxError>) -> Result<T, BoxError> {
        match lock(&self.plan).as_mut() {
            Some(plan) => work(plan),
            None => Err("the restore of terminals has ended".into()),
        }
    }

    /// Closes all that criu-rs still holds: masters that the tree has not.
    pub fn end_restore(&self) {
        *lock(&self.plan) = None;
    }
}

impl FileKind for Terminals {
    fn name(&self) -> &'static str {
        "terminal"
    }

    fn types(&self) -> &'static [proto::FdTypes] {
        &[proto::FdTypes::Tty]
    }

    fn claims(&self, d: &Descriptor<'_>) -> bool {
        d.mode & libc::S_IFMT == libc::S_IFCHR
            && d.flags & libc::O_PATH as u32 == 0
            && Device::of(d.rdev).is_some()
    }

    fn dump<'t>(&'t self, context: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(TtyDump::new(&self.0, context))
    }

    fn restore<'t>(&'t self, context: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        self.0.begin_restore(context, false)?;
        Ok(Box::new(TtyRestore { shared: &self.0 }))
    }
}

struct TtyRestore<'t> {
    shared: &'t Shared,
}

fn part(entry: &proto::FileEntry) -> Result<&proto::TtyFileEntry, TtyError> {
    entry.tty.as_ref().ok_or_else(|| {
        TtyError::Image(format!("the entry with id {:#x} in files.img has no terminal part", entry.id))
    })
}

impl FileRestore for TtyRestore<'_> {
    fn plan(&mut self, entry: &proto::FileEntry) -> Result<(), BoxError> {
        let file = part(entry)?;
        self.shared.with_plan(|plan| {
            let info = plan.info(file)?;
            plan.origin(info, self.shared.orphans.is_some())?;
            Ok(())
        })
    }

    fn open(&mut self, entry: &proto::FileEntry) -> Result<OwnedFd, BoxError> {
        let file = part(entry)?;
        self.shared.with_plan(|plan| plan.open(self.shared, file))
    }

    fn connect(&mut self, fd_of: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), BoxError> {
        self.shared.with_plan(|plan| Ok(plan.close_up(fd_of)?))
    }

    fn steps(&mut self, _: &proto::FileEntry, _: Slot, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        self.shared.end_restore();
        Ok(())
    }
}

impl Drop for TtyRestore<'_> {
    fn drop(&mut self) {
        self.shared.end_restore();
    }
}
