//! Restore: opens every description once and gives it to all who have it.

use super::layout::{self, Place};
use super::shared::{self, Role};
use super::{Table, TableError, fs};
use crate::locks::{self, LockError};
use crate::seats::Seats;
use crate::{fown, late};
use criu_images::{Image, Store, StoreExt, proto};
use criu_resource::{
    BoxError, BuiltTask, BuiltTree, FileRestore, Life, RestoreContext, Slot, Stage, TreeRestore,
};
use criu_script::{Check, Script};
use std::collections::HashMap;
use std::os::fd::OwnedFd;

/// One open file description.
struct File {
    entry: proto::FileEntry,
    kind: usize,
    /// Where it belongs, in order of task and number; nowhere when it only lies in a queue.
    places: Vec<Place>,
    /// A task that has it, or has the socket in whose queue it lies.
    home: usize,
    /// Where criu-rs keeps it.
    number: i32,
    /// Only a task of the tree can open it.
    late: bool,
}

impl File {
    /// Its first descriptor, or the number that criu-rs has it at.
    fn first(&self) -> Place {
        let slot = Slot { task: self.home, number: self.number };
        self.places.first().copied().unwrap_or(Place { slot, cloexec: true })
    }
}

/// A restore of all tables.
pub(super) struct Restore<'t> {
    table: &'t Table,
    tree: &'t BuiltTree,
    context: &'t RestoreContext<'t>,
    kinds: Vec<Box<dyn FileRestore + 't>>,
    files: Vec<File>,
    /// For each task: number → (description, place).
    tasks: Vec<Vec<(i32, usize, bool)>>,
    /// For each task the descriptions that lie in queues of its sockets, and nowhere else.
    flights: Vec<Vec<usize>>,
    fs: Vec<Option<proto::FsEntry>>,
    locks: Vec<proto::FileLockEntry>,
    roles: Vec<Role>,
    seats: Option<Seats>,
}

impl<'t> Restore<'t> {
    pub fn read(
        table: &'t Table,
        tree: &'t BuiltTree,
        context: &'t RestoreContext<'t>,
    ) -> Result<Self, BoxError> {
        table.files.begin(context.options);
        let store = context.store;
        let entries: Vec<proto::FileEntry> = store.read_image_opt(Image::Files, 0)?.unwrap_or_default();
        table.files.load(&entries, store)?;
        let kinds = table.kinds.iter().map(|kind| kind.restore(context)).collect::<Result<Vec<_>, _>>()?;
        let mut restore = Restore {
            table,
            tree,
            context,
            kinds,
            files: Vec::new(),
            tasks: vec![Vec::new(); tree.tasks.len()],
            flights: vec![Vec::new(); tree.tasks.len()],
            fs: vec![None; tree.tasks.len()],
            roles: shared::roles(tree)?,
            locks: store.read_image_opt(Image::FileLocks, 0)?.unwrap_or_default(),
            seats: None,
        };
        if !restore.locks.is_empty() && !context.options.file_locks {
            return Err(LockError::Restore(restore.locks.len()).into());
        }
        let mut places = restore.slots(store)?;
        let homes = restore.homes(&places);
        for entry in entries {
            if let Some(&home) = homes.get(&entry.id) {
                let places = places.remove(&entry.id).unwrap_or_default();
                restore.plan(entry, home, places)?;
            }
        }
        if let Some((id, places)) = places.into_iter().next() {
            let Slot { task, number } = places[0].slot;
            let pid = tree.tasks[task].pid();
            let text = format!("files.img has no file with id {id:#x} for fd {number} of pid {pid}");
            return Err(TableError::Inconsistent(text).into());
        }
        Ok(restore)
    }

    /// Reads all tables and claims their numbers.
    fn slots(&mut self, store: &dyn Store) -> Result<HashMap<u32, Vec<Place>>, BoxError> {
        let mut places: HashMap<u32, Vec<Place>> = HashMap::new();
        let mut numbers = self.context.numbers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for task in self.tree.tasks.iter().filter(|task| !matches!(task.life, Life::Zombie(_))) {
            let pid = task.pid();
            let Some(ids) = &task.ids else {
                let text = format!("neither core-{pid}.img nor ids-{pid}.img says which table pid {pid} has");
                return Err(TableError::Inconsistent(text).into());
            };
            self.fs[task.index] = store.read_one_opt(Image::Fs, pid.into())?;
            if self.roles[task.index] == Role::Member {
                continue;
            }
            let entries: Vec<proto::FdinfoEntry> = store.read_image(Image::Fdinfo, ids.files_id.into())?;
            for entry in entries {
                let slot = Slot { task: task.index, number: entry.fd as i32 };
                numbers.claim(slot.number);
                let cloexec = entry.flags & libc::FD_CLOEXEC as u32 != 0;
                places.entry(entry.id).or_default().push(Place { slot, cloexec });
            }
        }
        for places in places.values_mut() {
            places.sort_by_key(|place| place.slot);
        }
        Ok(places)
    }

    /// For each description that has a place, or lies in the queue of one that has a home, a task.
    fn homes(&self, places: &HashMap<u32, Vec<Place>>) -> HashMap<u32, usize> {
        let mut homes: HashMap<u32, usize> =
            places.iter().map(|(&id, places)| (id, places[0].slot.task)).collect();
        let mut queues: HashMap<u32, Vec<u32>> = HashMap::new();
        for (receiver, id) in self.kinds.iter().flat_map(|kind| kind.in_flight()) {
            queues.entry(receiver).or_default().push(id);
        }
        let mut next: Vec<u32> = queues.keys().copied().filter(|id| homes.contains_key(id)).collect();
        next.sort_unstable();
        while let Some(receiver) = next.pop() {
            let home = homes[&receiver];
            for id in queues.remove(&receiver).into_iter().flatten() {
                homes.entry(id).or_insert(home);
                next.push(id);
            }
        }
        homes
    }

    fn plan(&mut self, entry: proto::FileEntry, home: usize, places: Vec<Place>) -> Result<(), BoxError> {
        let number = places.first().map_or(-1, |place| place.slot.number);
        let (id, pid) = (entry.id, self.tree.tasks[home].pid());
        let kind = self.table.kinds.iter().position(|kind| kind.types().contains(&entry.r#type()));
        let Some(kind) = kind else {
            let kind = match proto::FdTypes::try_from(entry.r#type) {
                Ok(kind) => kind.as_str_name().to_owned(),
                Err(_) => entry.r#type.to_string(),
            };
            return Err(TableError::UnknownType { id, pid, number, kind }.into());
        };
        let name = self.table.kinds[kind].name();
        self.kinds[kind].plan(&entry).map_err(|source| TableError::Restore {
            id,
            pid,
            number,
            kind: name,
            source,
        })?;
        let file = self.files.len();
        for place in &places {
            self.tasks[place.slot.task].push((place.slot.number, file, place.cloexec));
        }
        let late = late::is_late(&entry, self.tree);
        if places.is_empty() {
            if late {
                let source = "a file about a task of the tree, in flight, is not supported yet".into();
                return Err(TableError::Restore { id, pid, number, kind: name, source }.into());
            }
            self.flights[home].push(file);
        }
        self.files.push(File { entry, kind, places, home, number: -1, late });
        Ok(())
    }

    /// Finds a number of criu-rs for every description. All numbers of the tree are claimed by now.
    fn lay_out(&mut self) -> Result<(), BoxError> {
        crate::sys::raise_descriptor_limit()?;
        let places: Vec<Vec<Place>> = self.files.iter().map(|file| file.places.clone()).collect();
        let mut seats = Seats::new()?;
        for (file, preferred) in self.files.iter_mut().zip(layout::preferred(&places)) {
            if !file.late {
                file.number = seats.reserve(self.context.numbers, preferred)?;
            }
        }
        for slots in &mut self.tasks {
            slots.sort_unstable();
        }
        self.seats = Some(seats);
        Ok(())
    }

    fn error(&self, file: &File) -> impl FnOnce(BoxError) -> TableError + use<> {
        let number = file.places.first().map_or(-1, |place| place.slot.number);
        let (id, pid, kind) =
            (file.entry.id, self.tree.tasks[file.home].pid(), self.table.kinds[file.kind].name());
        move |source| TableError::Restore { id, pid, number, kind, source }
    }

    /// Puts the descriptors of a task in place.
    fn emit_files(&mut self, task: &BuiltTask, script: &mut Script) -> Result<(), BoxError> {
        for &(number, file, cloexec) in &self.tasks[task.index] {
            let file = &self.files[file];
            script.set_what(self.table.kinds[file.kind].name());
            let kept = file.number;
            if file.late {
                if late::stage(&file.entry) == Stage::Files {
                    late::steps(&file.entry, number, cloexec, script)?;
                }
            } else if kept != number {
                let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
                let args = [kept.into(), number.into(), flags.into()];
                script.syscall(libc::SYS_dup3, args).check(Check::Eq(number.into()));
            } else if cloexec != file.first().cloexec {
                let flags = if cloexec { libc::FD_CLOEXEC } else { 0 };
                script.syscall(libc::SYS_fcntl, [number.into(), libc::F_SETFD.into(), flags.into()]);
            }
        }
        let Some(fs) = &self.fs[task.index] else { return Ok(()) };
        let files = &self.table.files;
        let directory = (libc::O_PATH | libc::O_DIRECTORY) as u32;
        let number_of = |id| files.number_of(self.context.numbers, id, directory);
        let root = files.regular(fs.root_id).is_some_and(|root| root.name != b"/");
        let root = root.then(|| number_of(fs.root_id)).transpose()?;
        fs::steps(fs.umask, root, number_of(fs.cwd_id)?, script);
        Ok(())
    }

    /// Everything is in place: what only its holder can do, and then nothing foreign stays open.
    fn emit_state(&mut self, task: &BuiltTask, script: &mut Script) -> Result<(), BoxError> {
        for &(number, file, cloexec) in &self.tasks[task.index] {
            let file = &self.files[file];
            if file.late && late::stage(&file.entry) == Stage::State {
                script.set_what(self.table.kinds[file.kind].name());
                late::steps(&file.entry, number, cloexec, script)?;
            }
        }
        let here = |&(number, file, _): &(i32, usize, bool)| {
            let slot = Slot { task: task.index, number };
            (self.files[file].first().slot == slot).then_some(file)
        };
        let firsts: Vec<usize> = self.tasks[task.index].iter().filter_map(here).collect();
        for file in firsts.into_iter().chain(self.flights[task.index].clone()) {
            let file = &self.files[file];
            let slot = file.first().slot;
            script.set_what(self.table.kinds[file.kind].name());
            if let Some(owner) = fown::of(&file.entry) {
                fown::steps(owner, slot.number, script);
            }
            let error = self.error(file);
            self.kinds[file.kind].steps(&file.entry, slot, script).map_err(error)?;
        }
        Ok(())
    }

    /// Nothing foreign stays open; then come the locks, since closing any descriptor of a file ends a task's
    /// POSIX locks on it.
    fn emit_close(&self, task: &BuiltTask, script: &mut Script) -> Result<(), BoxError> {
        for (first, last) in layout::gaps(self.tasks[task.index].iter().map(|slot| slot.0)) {
            script.syscall(libc::SYS_close_range, [first.into(), last.into(), 0.into()]);
        }
        script.set_what("file locks");
        for lock in self.locks.iter().filter(|lock| lock.pid as u32 == task.pid()) {
            let file = self.tasks[task.index].iter().find(|slot| slot.0 == lock.fd).map(|slot| slot.1);
            let entry = file.map(|file| &self.files[file].entry);
            let flags = entry.and_then(|entry| entry.reg.as_ref()).map_or(0, |regular| regular.flags);
            let signal = entry.and_then(fown::of).map_or(0, |owner| owner.signum);
            locks::steps(lock, flags, signal, script)?;
        }
        Ok(())
    }
}

impl TreeRestore for Restore<'_> {
    fn emit(&mut self, stage: Stage, task: &BuiltTask, script: &mut Script) -> Result<(), BoxError> {
        if self.seats.is_none() {
            self.lay_out()?;
        }
        if matches!(task.life, Life::Zombie(_)) {
            return Ok(());
        }
        match (stage, self.roles[task.index]) {
            (Stage::Files, _) => self.emit_files(task, script),
            (Stage::State, Role::Alone) => {
                self.emit_state(task, script)?;
                self.emit_close(task, script)
            }
            (Stage::State, Role::Leader) => self.emit_state(task, script),
            // Only now no member needs the numbers of criu-rs any more.
            (Stage::Last, Role::Leader) => self.emit_close(task, script),
            _ => Ok(()),
        }
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

    fn prepare(&mut self, place: &mut dyn criu_resource::Place) -> Result<(), BoxError> {
        let mut open: HashMap<u32, OwnedFd> = HashMap::new();
        let mut seats = self.seats.take().ok_or("no numbers were reserved")?;
        for index in 0..self.files.len() {
            let file = &self.files[index];
            if file.late {
                continue;
            }
            let error = self.error(file);
            let fd = self.kinds[file.kind].open(&file.entry).map_err(error)?;
            open.insert(file.entry.id, seats.sit(file.number, fd)?);
        }
        let fd_of = |id: u32| open.get(&id).and_then(|fd| fd.try_clone().ok());
        for (kind, restore) in self.table.kinds.iter().zip(&mut self.kinds) {
            restore
                .connect(&fd_of)
                .map_err(|error| -> BoxError { format!("{}: {error}", kind.name()).into() })?;
        }
        let files = &self.table.files;
        files.place(self.context.store, &fd_of, place)?;
        files.opened()?;
        for file in self.files.iter().filter(|file| !file.late) {
            if let Some(fd) = open.remove(&file.entry.id) {
                seats.place(place, file.number, fd, file.first().cloexec)?;
            }
        }
        self.seats = Some(seats);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        for (kind, restore) in self.table.kinds.iter().zip(&mut self.kinds) {
            restore.finish().map_err(|error| -> BoxError { format!("{}: {error}", kind.name()).into() })?;
        }
        self.table.files.end()
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        self.table.files.reset();
    }
}
