//! Terminals as a kind of open file: the restore.

use crate::termios::Settings;
use crate::{Error, ioctl, pty};
use criu_images::proto::{FileEntry, RegFileEntry, TtyDataEntry, TtyFileEntry, TtyInfoEntry, TtyType};
use criu_images::{Image, StoreExt};
use criu_resource::{BoxError, FileRestore, RestoreContext, Slot};
use criu_script::Script;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Gid, Uid, fchown, isatty};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What the images say about terminals, indexed.
pub(crate) struct Restorer<'t> {
    context: &'t RestoreContext<'t>,
    infos: BTreeMap<u32, TtyInfoEntry>,
    paths: BTreeMap<u32, RegFileEntry>,
    /// Pairs whose master side some task holds.
    paired: BTreeSet<u32>,
    /// Masters that are open, by the number of the pair.
    masters: BTreeMap<u32, OwnedFd>,
    /// Pairs whose master nobody holds any more: it is closed when all are open.
    hung_up: BTreeSet<u32>,
    /// Input that waits to be read, by terminal.
    waiting: BTreeMap<u32, Vec<u8>>,
    /// Terminals whose settings are in place.
    done: BTreeSet<u32>,
}

/// Reads `tty-info.img`; a tree without terminals has none.
pub(crate) fn infos(context: &RestoreContext<'_>) -> Result<BTreeMap<u32, TtyInfoEntry>, BoxError> {
    let infos = context.store.read_image_opt::<TtyInfoEntry>(Image::TtyInfo, 0)?;
    Ok(infos.unwrap_or_default().into_iter().map(|info| (info.id, info)).collect())
}

/// Number of a pair.
pub(crate) fn pair(info: &TtyInfoEntry) -> Option<u32> {
    info.pty.as_ref().map(|pty| pty.index)
}

fn is_master(info: &TtyInfoEntry) -> bool {
    info.id & 1 == 1
}

/// The pairs whose master is among these terminals.
pub(crate) fn paired(infos: &BTreeMap<u32, TtyInfoEntry>) -> BTreeSet<u32> {
    infos.values().filter(|info| is_master(info)).filter_map(pair).collect()
}

impl<'t> Restorer<'t> {
    pub(crate) fn read(context: &'t RestoreContext<'t>) -> Result<Restorer<'t>, BoxError> {
        let infos = infos(context)?;
        let mut paths = BTreeMap::new();
        if !infos.is_empty() {
            let files = context.store.read_image_opt::<FileEntry>(Image::Files, 0)?.unwrap_or_default();
            paths.extend(files.into_iter().filter_map(|file| file.reg).map(|reg| (reg.id, reg)));
        }
        let paired = paired(&infos);
        let waiting = context.store.read_image_opt::<TtyDataEntry>(Image::TtyData, 0)?.unwrap_or_default();
        let waiting = waiting.into_iter().map(|entry| (entry.tty_id, entry.data)).collect();
        Ok(Restorer {
            context,
            waiting,
            infos,
            paths,
            paired,
            masters: BTreeMap::new(),
            hung_up: BTreeSet::new(),
            done: BTreeSet::new(),
        })
    }

    fn info(&self, entry: &TtyFileEntry) -> Result<&TtyInfoEntry, Error> {
        let id = entry.tty_info_id;
        self.infos.get(&id).ok_or_else(|| Error::Corrupt(format!("terminal {id:#x} is missing")))
    }

    fn path(&self, entry: &TtyFileEntry) -> Result<&str, Error> {
        let reg = entry.regf_id.and_then(|id| self.paths.get(&id));
        let missing = || Error::Corrupt(format!("the path of terminal {:#x} is missing", entry.tty_info_id));
        Ok(&reg.ok_or_else(missing)?.name)
    }

    /// Opens a pair's master unless it is open.
    fn open_pair(&mut self, index: u32, flags: i32) -> Result<BorrowedFd<'_>, Error> {
        if !self.masters.contains_key(&index) {
            let master = pty::open_master(index, flags)?;
            ioctl::lock(master.as_fd(), false).map_err(Error::system("/dev/ptmx", "TIOCSPTLCK"))?;
            self.masters.insert(index, master);
        }
        Ok(self.masters[&index].as_fd())
    }

    fn open_master(&mut self, info: &TtyInfoEntry, flags: i32) -> Result<OwnedFd, BoxError> {
        let index = pair(info).ok_or_else(|| Error::Corrupt("a master without number".into()))?;
        let master = self.open_pair(index, flags)?.try_clone_to_owned()?;
        let failed = |call| Error::system("/dev/ptmx", call);
        nix::fcntl::fcntl(&master, nix::fcntl::F_SETFL(OFlag::from_bits_retain(flags)))
            .map_err(failed("F_SETFL"))?;
        if info.packet_mode {
            ioctl::set_packet_mode(master.as_fd(), true).map_err(failed("TIOCPKT"))?;
        }
        // The slave's own entry has the same settings, but there may be none.
        self.settle(info, master.as_fd())?;
        Ok(master)
    }

    fn open_slave(&mut self, info: &TtyInfoEntry, flags: i32) -> Result<OwnedFd, BoxError> {
        let index = pair(info).ok_or_else(|| Error::Corrupt("a slave without number".into()))?;
        if info.termios.is_none() {
            self.open_pair(index, libc::O_RDWR)?;
            self.hung_up.insert(index);
            return Ok(pty::open_slave(index, flags)?);
        }
        if !self.paired.contains(&index) {
            return self.take_over(info, flags);
        }
        self.open_pair(index, libc::O_RDWR)?;
        let slave = pty::open_slave(index, flags)?;
        if let (Some(uid), Some(gid)) = (info.uid, info.gid) {
            let owner = fstat(&slave)?;
            if (owner.st_uid, owner.st_gid) != (uid, gid) {
                fchown(&slave, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                    .map_err(Error::system(&pty::slave_path(index), "fchown"))?;
            }
        }
        self.settle(info, slave.as_fd())?;
        Ok(slave)
    }

    /// criu-rs's own terminal in place of one from outside of the tree.
    fn take_over(&mut self, info: &TtyInfoEntry, flags: i32) -> Result<OwnedFd, BoxError> {
        let own = own_terminal().ok_or(Error::NoTerminal)?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let tty = open(own.as_str(), flags, Mode::empty()).map_err(Error::system(&own, "open"))?;
        if let Some(settings) = settings(info)
            && self.done.insert(info.id)
        {
            // The size is the new terminal's own.
            let termios = crate::termios::termios(&settings.termios);
            ioctl::set_settings(tty.as_fd(), &termios).map_err(Error::system(&own, "TCSETS"))?;
        }
        Ok(tty)
    }

    /// Settings, once for each terminal.
    fn settle(&mut self, info: &TtyInfoEntry, tty: BorrowedFd<'_>) -> Result<(), BoxError> {
        let Some(settings) = settings(info) else { return Ok(()) };
        if self.done.insert(info.id) {
            use criu_resource::Restore;
            Settings::restore(&settings, tty)?;
        }
        Ok(())
    }

    fn open_simple(&mut self, entry: &TtyFileEntry, info: &TtyInfoEntry) -> Result<OwnedFd, BoxError> {
        let path = self.path(entry)?.to_owned();
        if self.context.options.shell_job && info.r#type() != TtyType::Console {
            return self.take_over(info, entry.flags as i32);
        }
        let flags = OFlag::from_bits_retain(entry.flags as i32) | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let tty = open(path.as_str(), flags, Mode::empty()).map_err(Error::system(&path, "open"))?;
        self.settle(info, tty.as_fd())?;
        Ok(tty)
    }

    fn open_external(&self, info: &TtyInfoEntry) -> Result<OwnedFd, BoxError> {
        let key = external_key(info);
        let fd = self.context.options.inherit_fd.get(&key).ok_or(Error::NotInherited { key })?;
        // SAFETY: the user passed this descriptor for this purpose; it stays open as long as criu-rs runs.
        Ok(unsafe { BorrowedFd::borrow_raw(*fd) }.try_clone_to_owned()?)
    }
}

fn external_key(info: &TtyInfoEntry) -> String {
    format!("tty[{:x}:{:x}]", info.rdev, info.dev.unwrap_or(0))
}

fn settings(info: &TtyInfoEntry) -> Option<Settings> {
    Some(Settings {
        termios: info.termios.clone()?,
        locked: info.termios_locked.clone()?,
        window: info.winsize.clone()?,
    })
}

/// Path of the terminal that criu-rs itself sits on.
fn own_terminal() -> Option<String> {
    let stdio =
        [std::io::stdin().as_fd().try_clone_to_owned(), std::io::stderr().as_fd().try_clone_to_owned()];
    let tty = stdio.into_iter().flatten().find(|fd| isatty(fd).unwrap_or(false));
    let path = tty.and_then(|tty| nix::unistd::ttyname(&tty).ok()).map(|path| path.display().to_string());
    path.or_else(|| {
        open("/dev/tty", OFlag::O_RDWR | OFlag::O_NOCTTY, Mode::empty()).ok().map(|_| "/dev/tty".into())
    })
}

/// The entry's terminal part.
fn tty(entry: &FileEntry) -> Result<&TtyFileEntry, Error> {
    entry
        .tty
        .as_ref()
        .ok_or_else(|| Error::Corrupt(format!("files.img: entry {:#x} is no terminal", entry.id)))
}

impl FileRestore for Restorer<'_> {
    fn plan(&mut self, entry: &FileEntry) -> Result<(), BoxError> {
        let entry = tty(entry)?;
        let info = self.info(entry)?;
        let outside = match info.r#type() {
            TtyType::Pty => {
                !is_master(info)
                    && info.termios.is_some()
                    && !pair(info).is_some_and(|index| self.paired.contains(&index))
            }
            TtyType::ExtTty => {
                let key = external_key(info);
                return match self.context.options.inherit_fd.contains_key(&key) {
                    true => Ok(()),
                    false => Err(Error::NotInherited { key }.into()),
                };
            }
            _ => false,
        };
        if outside && !self.context.options.shell_job {
            return Err(Error::ShellJob { path: self.path(entry)?.to_owned() }.into());
        }
        Ok(())
    }

    fn open(&mut self, entry: &FileEntry) -> Result<OwnedFd, BoxError> {
        let entry = tty(entry)?;
        let info = self.info(entry)?.clone();
        match info.r#type() {
            TtyType::Pty if is_master(&info) => self.open_master(&info, entry.flags as i32),
            TtyType::Pty => self.open_slave(&info, entry.flags as i32),
            TtyType::ExtTty => self.open_external(&info),
            _ => self.open_simple(entry, &info),
        }
    }

    fn connect(&mut self, _: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), BoxError> {
        for index in &self.hung_up {
            self.masters.remove(index);
        }
        for info in self.infos.values() {
            let Some(index) = pair(info) else { continue };
            let Some(master) = self.masters.get(&index).map(AsFd::as_fd) else { continue };
            let failed = |call: &'static str| move |errno: Errno| Error::system("/dev/ptmx", call)(errno);
            if let Some(data) = self.waiting.get(&info.id) {
                let slave = pty::open_slave(index, libc::O_RDWR)?;
                let peer = if is_master(info) { slave.as_fd() } else { master };
                crate::buffer::put(data, peer, slave.as_fd())?;
            }
            if info.exclusive {
                ioctl::set_exclusive(master).map_err(failed("TIOCEXCL"))?;
            }
        }
        for info in self.infos.values().filter(|info| info.locked) {
            if let Some(master) = pair(info).and_then(|index| self.masters.get(&index)) {
                ioctl::lock(master.as_fd(), true).map_err(Error::system("/dev/ptmx", "TIOCSPTLCK"))?;
            }
        }
        Ok(())
    }

    fn steps(&mut self, _: &FileEntry, _: Slot, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        self.masters.clear();
        Ok(())
    }
}
