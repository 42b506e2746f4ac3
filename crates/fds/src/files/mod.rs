//! Files that have a name, or had one: shared between descriptors, mappings, working directories.
//!
//! The descriptor table, the memory and the executable of a task refer to the same files, and the images
//! list them once, in `files.img`. [`Files`] is that list: it hands out ids on dump and opened files on
//! restore. One value is shared by everybody who needs it, for one dump or restore after the other.

mod build_id;
mod ghost;
mod names;
mod open;

pub use ghost::GhostError;
pub use names::NameError;
pub use open::OpenError;
pub(crate) use open::path;

use crate::alone::file_entry;
use crate::memfd::{self, MemfdInodes};
use crate::observed::Observed;
use crate::seats::{SeatError, Seats};
use crate::{fown, sys};
use criu_images::{Image, Record, RecordSet, Store, StoreExt, proto};
use criu_resource::{BoxError, Descriptor, Fate, Numbers, Options, Place};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::fstat;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// The files of one dump or restore.
#[derive(Debug, Default)]
pub struct Files {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    options: Options,
    last_id: u32,
    /// Entries beside those of descriptors: mappings, working directories, fifos' names.
    entries: Vec<proto::FileEntry>,
    known: HashMap<(u64, u64, PathBuf), u32>,
    /// Packet sockets, whose rings can be mapped: inode → id.
    rings: HashMap<u64, u32>,
    /// Files, by device and inode, that were found under their names.
    found: HashSet<(u64, u64, PathBuf)>,
    pending: Vec<(u32, Observed, OwnedFd)>,
    ghosts: ghost::Ghosts,
    links: names::LinkRemaps,
    memfds: MemfdInodes,
    planned: Planned,
}

/// What a restore knows.
#[derive(Debug, Default)]
struct Planned {
    regular: HashMap<u32, proto::RegFileEntry>,
    memfd: HashMap<u32, proto::MemfdFileEntry>,
    remaps: HashMap<u32, proto::RemapFilePathEntry>,
    graves: ghost::Graves,
    dead: HashMap<u32, sys::Helper>,
    inodes: memfd::Inodes,
    /// (id, flags) → number of criu-rs.
    numbers: BTreeMap<(u32, u32), i32>,
    seats: Option<Seats>,
}

impl Planned {
    /// Whether it is the id of a file that can be opened once more.
    fn is_file(&self, id: u32) -> bool {
        self.regular.contains_key(&id) || self.memfd.contains_key(&id)
    }
}

impl Files {
    /// No files yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Forgets everything. A finished dump or restore does so itself; after one that failed before the
    /// descriptor table had its turn, the caller does.
    pub fn reset(&self) {
        *self.state() = State::default();
    }

    /// Takes note of the options that count for this run.
    pub(crate) fn begin(&self, options: &Options) {
        self.state().options = options.clone();
    }

    /// A new id for `files.img`.
    pub fn next_id(&self) -> u32 {
        let mut state = self.state();
        state.last_id += 1;
        state.last_id
    }

    /// Dump: the id of the file behind a mapping, an executable or a directory of task `pid`. `file` is
    /// any descriptor of it (O_PATH will do), `link` what procfs says its name is. What the file is and
    /// whether its name still leads to it is looked at when the table's dump finishes.
    ///
    /// # Errors
    /// Those of fstat(2) and dup(2); a socket that is no packet socket of the tree.
    pub fn mapped(&self, pid: i32, file: BorrowedFd<'_>, link: &Path) -> Result<u32, BoxError> {
        let stat = fstat(file)?;
        let key = (stat.st_dev, stat.st_ino, link.to_owned());
        let mut state = self.state();
        if stat.st_mode & libc::S_IFMT == libc::S_IFSOCK {
            let text = || {
                format!("pid {pid} maps {}, which is no packet socket that the tree has open", link.display())
            };
            return Ok(*state.rings.get(&stat.st_ino).ok_or_else(text)?);
        }
        if let Some(&id) = state.known.get(&key) {
            return Ok(id);
        }
        let flags = fcntl(file, FcntlArg::F_GETFL)? as u32;
        state.last_id += 1;
        let id = state.last_id;
        let seen = Observed {
            pid,
            number: -1,
            link: link.to_owned(),
            pos: 0,
            flags: flags & !(libc::O_CLOEXEC | libc::O_PATH) as u32,
            cloexec: true,
            mnt_id: -1,
            extra: String::new(),
            stat,
            fown: fown::none(),
        };
        state.pending.push((id, seen, file.try_clone_to_owned()?));
        state.known.insert(key, id);
        Ok(id)
    }

    /// Dump: takes note of a packet socket.
    pub(crate) fn has_rings(&self, inode: u64, id: u32) {
        self.state().rings.insert(inode, id);
    }

    /// Dump: the entries of what [`Files::mapped`] took note of.
    fn resolve(&self) -> Result<(), BoxError> {
        let pending = std::mem::take(&mut self.state().pending);
        for (id, seen, file) in pending {
            let descriptor = seen.view(file.as_fd(), id);
            let entry = match memfd::is_memfd(&descriptor) {
                true => self.memfd_entry(&descriptor),
                false => self.regular_entry(&descriptor),
            };
            let entry = entry
                .map_err(|error| format!("pid {} (mapping, program or directory): {error}", seen.pid))?;
            self.add(entry);
        }
        Ok(())
    }

    /// Dump: the entry of a description of a named file; what its name needs (a ghost) is noted too.
    pub(crate) fn regular_entry(&self, descriptor: &Descriptor<'_>) -> Result<proto::FileEntry, BoxError> {
        let mut file = file_entry(proto::FdTypes::Reg, descriptor.id);
        file.reg = Some(self.state().name(descriptor)?);
        Ok(file)
    }

    /// Dump: an entry that only another entry refers to (a fifo's name).
    pub(crate) fn add(&self, entry: proto::FileEntry) {
        self.state().entries.push(entry);
    }

    /// Dump: the entry of a description of an anonymous memory file.
    pub(crate) fn memfd_entry(&self, descriptor: &Descriptor<'_>) -> Result<proto::FileEntry, BoxError> {
        let mut file = file_entry(proto::FdTypes::Memfd, descriptor.id);
        file.memfd = Some(self.state().memfds.entry(descriptor)?);
        Ok(file)
    }

    /// Dump: everything collected, as records.
    pub(crate) fn drain(&self, records: &mut RecordSet, store: &dyn Store) -> Result<(), BoxError> {
        self.resolve()?;
        let mut state = self.state();
        let state = &mut *state;
        let mut all = std::mem::take(&mut state.entries);
        all.extend(state.links.take_entries());
        records.extend(all.iter().map(|entry| Record::new(Image::Files, 0, entry)));
        records.extend(state.ghosts.take_records());
        let remaps = state.ghosts.take_remaps().into_iter().chain(state.links.take_remaps());
        records.extend(remaps.map(|entry| Record::new(Image::RemapFpath, 0, &entry)));
        state.memfds.write(records, store)?;
        Ok(())
    }

    /// Dump: the images are complete.
    pub(crate) fn commit(&self, fate: Fate) {
        if fate == Fate::Kill {
            self.state().links.keep();
        }
    }

    /// Restore: takes note of all named files of the images.
    pub(crate) fn load(&self, entries: &[proto::FileEntry], store: &dyn Store) -> Result<(), BoxError> {
        let mut state = self.state();
        let planned = &mut state.planned;
        for entry in entries {
            if let Some(regular) = &entry.reg {
                planned.regular.insert(entry.id, regular.clone());
            }
            if let Some(memfd) = &entry.memfd {
                planned.memfd.insert(entry.id, *memfd);
            }
        }
        for mut remap in
            store.read_image_opt::<proto::RemapFilePathEntry>(Image::RemapFpath, 0)?.unwrap_or_default()
        {
            names::modernise(&mut remap);
            planned.remaps.insert(remap.orig_id, remap);
        }
        planned.inodes.load(store)?;
        Ok(())
    }

    /// Restore: where the memory finds the file `id` opened with `flags`, when its steps run: a
    /// descriptor number of criu-rs. Whether there is such a file is seen when the table prepares.
    ///
    /// # Errors
    /// No number left.
    pub fn number_of(&self, numbers: &Mutex<Numbers>, id: u32, flags: u32) -> Result<i32, SeatError> {
        let mut state = self.state();
        let planned = &mut state.planned;
        if let Some(&number) = planned.numbers.get(&(id, flags)) {
            return Ok(number);
        }
        let seats = match &mut planned.seats {
            Some(seats) => seats,
            empty => empty.insert(Seats::new()?),
        };
        let number = seats.reserve(numbers, None)?;
        planned.numbers.insert((id, flags), number);
        Ok(number)
    }

    /// Restore: opens what [`Files::number_of`] was asked for. `fd_of` finds descriptions that are open already,
    /// for which sockets are taken.
    pub(crate) fn place(
        &self,
        store: &dyn Store,
        fd_of: &dyn Fn(u32) -> Option<OwnedFd>,
        place: &mut dyn Place,
    ) -> Result<(), BoxError> {
        let numbers = std::mem::take(&mut self.state().planned.numbers);
        for ((id, flags), number) in numbers {
            let socket = fd_of(id).filter(|_| !self.state().planned.is_file(id));
            let fd = socket.map_or_else(|| self.open(store, id, Some(flags)), Ok)?;
            let mut state = self.state();
            let seats = state.planned.seats.as_mut().ok_or("no number was reserved")?;
            seats.place(place, number, fd, true)?;
        }
        Ok(())
    }

    /// Restore: the descriptor of criu-rs that the user named to take the place of file `id`, position and
    /// all.
    pub(crate) fn given(&self, id: u32) -> Result<Option<OwnedFd>, BoxError> {
        let state = self.state();
        if state.options.inherit_fd.is_empty() {
            return Ok(None);
        }
        let planned = &state.planned;
        let key = match (planned.regular.get(&id), planned.memfd.get(&id)) {
            (Some(regular), _) => shown(regular).trim_start_matches('/').to_owned(),
            (_, Some(memfd)) => format!("/memfd:{}", planned.inodes.name(memfd)),
            _ => return Err(no_file(id).into()),
        };
        Ok(inherited(&state.options, &key)?)
    }

    /// Restore: opens file `id`, with its own flags or others. The position stays at the begin.
    pub(crate) fn open(&self, store: &dyn Store, id: u32, flags: Option<u32>) -> Result<OwnedFd, BoxError> {
        let given = self.given(id)?;
        let mut state = self.state();
        let state = &mut *state;
        let external = state.planned.regular.get(&id).filter(|entry| entry.ext());
        match (given, external) {
            (Some(fd), Some(entry)) => return Ok(sys::reopen(fd.as_fd(), flags.unwrap_or(entry.flags))?),
            (Some(fd), None) => return Ok(fd),
            (None, Some(entry)) => {
                let key = shown(entry);
                return Err(format!("{key} was dumped as external; use --inherit-fd fd[N]:{key}").into());
            }
            (None, None) => {}
        }
        if let Some(entry) = state.planned.memfd.get(&id) {
            return Ok(state.planned.inodes.open(entry, flags, store)?);
        }
        let entry = state.planned.regular.get(&id).ok_or_else(|| no_file(id))?;
        let remap = state.planned.remaps.get(&id);
        open::Opener {
            options: &state.options,
            store,
            graves: &mut state.planned.graves,
            dead: &mut state.planned.dead,
            linked: remap.and_then(|remap| state.planned.regular.get(&remap.remap_id)),
            remap,
        }
        .open(entry, flags)
    }

    /// Restore: the entry of a named file, where `id` is one.
    pub(crate) fn regular(&self, id: u32) -> Option<proto::RegFileEntry> {
        self.state().planned.regular.get(&id).cloned()
    }

    /// Restore: the name that a deleted file, by its old device and inode, has for the moment.
    pub(crate) fn ghost_at(&self, dev: u64, ino: u64) -> Option<PathBuf> {
        self.state().planned.graves.at(dev, ino)
    }

    /// Restore: everything is open. Takes the names away that were made for it, and seals memfds.
    pub(crate) fn opened(&self) -> Result<(), BoxError> {
        self.state().planned.graves.close()
    }

    /// Restore: all tasks are complete. Seals anonymous memory files and forgets all.
    pub(crate) fn end(&self) -> Result<(), BoxError> {
        let state = std::mem::take(&mut *self.state());
        state.planned.inodes.seal()?;
        for remap in state.planned.remaps.values() {
            if remap.remap_type() == proto::RemapType::Linked
                && let Some(link) = state.planned.regular.get(&remap.remap_id)
            {
                let _ = std::fs::remove_file(open::path(&state.options, &link.name));
            }
        }
        Ok(())
    }
}

/// A name as people and options have it.
fn shown(entry: &proto::RegFileEntry) -> Cow<'_, str> {
    String::from_utf8_lossy(&entry.name)
}

fn no_file(id: u32) -> String {
    format!("files.img has no regular file with id {id:#x}")
}

/// The descriptor of criu-rs that the user named to take the place of the file `key`.
pub(crate) fn inherited(options: &Options, key: &str) -> nix::Result<Option<OwnedFd>> {
    options.inherit_fd.get(key).map(|&number| sys::duplicate_number(number)).transpose()
}
