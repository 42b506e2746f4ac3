//! What the images say about terminals, and the terminals opened so far.

use crate::device::{self, Device, key_of};
use crate::own::Own;
use crate::termios::{self, Settings};
use crate::{Pty, Shared, TtyError, ctty, queue, sys};
use criu_images::{Image, Store, StoreExt, proto};
use criu_resource::{BoxError, Options, Restore};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown};
use proto::{RegFileEntry, TtyFileEntry, TtyInfoEntry, TtyType};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One restore.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub options: Options,
    pub infos: BTreeMap<u32, TtyInfoEntry>,
    data: HashMap<u32, Vec<u8>>,
    names: HashMap<u32, RegFileEntry>,
    pub files: Vec<TtyFileEntry>,
    /// Ptys of the tree by number, also those that lost their master.
    ptys: HashMap<u32, Pty>,
    /// Ids of entries whose settings are in force.
    set: Vec<u32>,
}

/// Where a terminal of the images comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A descriptor of criu-rs that the user named.
    Given(i32),
    /// The master of a pty of the tree.
    Master(u32),
    /// Its slave.
    Slave(u32),
    /// A slave that is hung up: its master is closed when the restore ends.
    Hung(u32),
    /// A slave whose master somebody else is given.
    Orphan(u32),
    /// The slave of a shell's terminal: that of criu-rs takes its place.
    Own,
    /// A device that is opened by its name.
    Node,
    /// `/dev/tty`.
    Controlling,
}

impl Plan {
    /// Reads and checks the images.
    pub fn read(options: &Options, store: &dyn Store) -> Result<Plan, BoxError> {
        let mut plan = Plan { options: options.clone(), ..Plan::default() };
        let infos: Vec<TtyInfoEntry> = store.read_image_opt(Image::TtyInfo, 0)?.unwrap_or_default();
        for info in infos {
            check(&info)?;
            plan.infos.insert(info.id, info);
        }
        if plan.infos.is_empty() {
            return Ok(plan);
        }
        let data: Vec<proto::TtyDataEntry> = store.read_image_opt(Image::TtyData, 0)?.unwrap_or_default();
        plan.data = data.into_iter().map(|data| (data.tty_id, data.data)).collect();
        let files: Vec<proto::FileEntry> = store.read_image_opt(Image::Files, 0)?.unwrap_or_default();
        plan.files = files.iter().filter_map(|file| file.tty).collect();
        plan.names = files.into_iter().filter_map(|file| file.reg).map(|name| (name.id, name)).collect();
        Ok(plan)
    }

    /// The entry behind a description.
    pub fn info(&self, file: &TtyFileEntry) -> Result<&TtyInfoEntry, TtyError> {
        self.infos.get(&file.tty_info_id).ok_or_else(|| {
            TtyError::Image(format!("no terminal {:#x}, which files.img refers to", file.tty_info_id))
        })
    }

    fn is_master(info: &TtyInfoEntry) -> bool {
        Device::of(info.rdev.into()) == Some(Device::Master)
    }

    fn has_master(&self, index: u32) -> bool {
        self.infos.values().any(|info| {
            Plan::is_master(info) && info.pty.is_some_and(|pty| pty.index == index) && !self.is_given(info)
        })
    }

    fn is_given(&self, info: &TtyInfoEntry) -> bool {
        self.options.inherit_fd.contains_key(&key_of(info))
    }

    /// Where a terminal comes from. `orphans`: somebody takes masters.
    pub fn origin(&self, info: &TtyInfoEntry, orphans: bool) -> Result<Origin, TtyError> {
        if let Some(&number) = self.options.inherit_fd.get(&key_of(info)) {
            return Ok(Origin::Given(number));
        }
        let index = info.pty.map_or(0, |pty| pty.index);
        match info.r#type() {
            TtyType::ExtTty => Err(TtyError::External { key: key_of(info) }),
            TtyType::Ctty => Ok(Origin::Controlling),
            TtyType::Pty if Plan::is_master(info) => Ok(Origin::Master(index)),
            TtyType::Pty if info.termios.is_none() => Ok(Origin::Hung(index)),
            TtyType::Pty if self.has_master(index) => Ok(Origin::Slave(index)),
            TtyType::Pty if orphans => Ok(Origin::Orphan(index)),
            TtyType::Pty if self.options.shell_job => Ok(Origin::Own),
            TtyType::Pty => {
                Err(TtyError::Unpaired { terminal: format!("/dev/pts/{index}"), key: key_of(info) })
            }
            _ => Ok(Origin::Node),
        }
    }

    /// The name of the file that a terminal was opened by.
    fn name(&self, info: &TtyInfoEntry) -> Option<&RegFileEntry> {
        let mut files = self.files.iter().filter(|file| file.tty_info_id == info.id);
        files.find_map(|file| self.names.get(&file.regf_id.unwrap_or(file.id)))
    }

    /// Opens a description.
    pub fn open(&mut self, shared: &Shared, file: &TtyFileEntry) -> Result<OwnedFd, BoxError> {
        let info = self.info(file)?.clone();
        let fd = self.open_with(shared, &info, file.flags)?;
        let flags = OFlag::from_bits_truncate(file.flags as i32);
        if file.fown.signum != 0 {
            sys::set_owner_signal(fd.as_fd(), file.fown.signum as i32)?;
        }
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(flags - OFlag::O_ACCMODE))?;
        Ok(fd)
    }

    /// Opens a terminal for a description with `flags`.
    pub fn open_with(
        &mut self,
        shared: &Shared,
        info: &TtyInfoEntry,
        flags: u32,
    ) -> Result<OwnedFd, BoxError> {
        let access = OFlag::from_bits_truncate(flags as i32 & libc::O_ACCMODE);
        let origin = self.origin(info, shared.orphans.is_some())?;
        let fd = match origin {
            Origin::Given(number) => sys::duplicate_number(number, 3)
                .map_err(TtyError::call(key_of(info), "fcntl(F_DUPFD) of the --inherit-fd number"))?,
            Origin::Master(index) => self.pty(index, info)?.master().try_clone_to_owned()?,
            Origin::Slave(index) | Origin::Hung(index) => self.slave(index, info, access)?,
            Origin::Orphan(index) => {
                let new = !self.ptys.contains_key(&index);
                let slave = self.slave(index, info, access)?;
                if new {
                    self.hand_over(shared, index)?;
                }
                slave
            }
            Origin::Own => Own::find()?.open(access)?,
            Origin::Node => {
                let path = self
                    .name(info)
                    .map_or_else(|| device::name(info.rdev), |name| path_of(name).display().to_string());
                let flags = access | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
                open(path.as_str(), flags, Mode::empty()).map_err(TtyError::call(path, "open"))?
            }
            Origin::Controlling => self.controlling(shared, info, access)?,
        };
        if !matches!(origin, Origin::Master(_) | Origin::Hung(_)) {
            self.settle(info, fd.as_fd(), origin)?;
        }
        Ok(fd)
    }

    /// Brings the settings of a terminal in force, once.
    fn settle(&mut self, info: &TtyInfoEntry, fd: BorrowedFd<'_>, origin: Origin) -> Result<(), BoxError> {
        if self.set.contains(&info.id) {
            return Ok(());
        }
        self.set.push(info.id);
        if let (Origin::Slave(_) | Origin::Orphan(_), Some(uid), Some(gid)) = (origin, info.uid, info.gid) {
            self.own_node(info, fd, uid, gid)?;
        }
        if let Some(settings) = settings(info) {
            Settings::restore(&settings, fd)?;
        }
        Ok(())
    }

    /// Owner and permissions of a node in devpts.
    fn own_node(&self, info: &TtyInfoEntry, fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), TtyError> {
        let call = |call| TtyError::call(device::name(info.rdev), call);
        let FileStat { st_uid, st_gid, st_mode, .. } = fstat(fd).map_err(call("fstat"))?;
        if (st_uid, st_gid) != (uid, gid) {
            fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(call("fchown"))?;
        }
        match self.name(info).and_then(|name| name.mode) {
            Some(mode) if mode != st_mode => {
                fchmod(fd, Mode::from_bits_truncate(mode)).map_err(call("fchmod"))
            }
            _ => Ok(()),
        }
    }

    /// The pty of a number; made when first asked for, with settings and what waits in it.
    fn pty(&mut self, index: u32, info: &TtyInfoEntry) -> Result<&Pty, BoxError> {
        if !self.ptys.contains_key(&index) {
            let pty = Pty::open(&self.ptmx(index, info), Some(index))?;
            self.fill(&pty)?;
            self.ptys.insert(index, pty);
        }
        Ok(&self.ptys[&index])
    }

    fn slave(&mut self, index: u32, info: &TtyInfoEntry, access: OFlag) -> Result<OwnedFd, BoxError> {
        let path = self.name(info).map(|name| path_of(name).to_owned());
        Ok(self.pty(index, info)?.slave(access, path.as_deref())?)
    }

    /// The file that makes the ptys of the devpts that number `index` is in.
    fn ptmx(&self, index: u32, info: &TtyInfoEntry) -> PathBuf {
        let of_pty = |info: &&TtyInfoEntry| info.pty.is_some_and(|pty| pty.index == index);
        let master = self.infos.values().filter(of_pty).find(|info| Plan::is_master(info));
        if let Some(name) = master.and_then(|master| self.name(master)) {
            return path_of(name).to_owned();
        }
        let beside = self.name(info).and_then(|name| Some(path_of(name).parent()?.join("ptmx")));
        beside.filter(|path| path.exists()).unwrap_or_else(|| "/dev/ptmx".into())
    }

    /// Settings and what waits at both ends, then packet mode, which would report the former.
    fn fill(&self, pty: &Pty) -> Result<(), BoxError> {
        let (slave_id, master_id) = (pty.index() << 1, pty.index() << 1 | 1);
        let infos = || [master_id, slave_id].into_iter().filter_map(|id| self.infos.get(&id));
        let Some(settings) = infos().find_map(settings) else { return Ok(()) };
        let wanted = termios::native(&settings.termios)?;
        let waits = |id| self.data.get(&id).filter(|data| !data.is_empty());
        if waits(slave_id).is_some() || waits(master_id).is_some() {
            let slave = pty.slave(OFlag::O_RDWR, None)?;
            let (master, slave) = (pty.master(), slave.as_fd());
            for (id, writer, reader) in [(slave_id, master, slave), (master_id, slave, master)] {
                let Some(data) = waits(id) else { continue };
                let left = queue::put(writer, reader, &wanted, data)?;
                if left > 0 {
                    tracing::warn!("terminal /dev/pts/{}: {left} waiting bytes found no room", pty.index());
                }
            }
        }
        Settings::restore(&settings, pty.master())?;
        if self.infos.get(&master_id).is_some_and(|info| info.packet_mode) {
            pty.set_packet_mode(true)?;
        }
        Ok(())
    }

    fn hand_over(&self, shared: &Shared, index: u32) -> Result<(), BoxError> {
        match (&shared.orphans, self.ptys.get(&index)) {
            (Some(orphans), Some(pty)) => orphans.take(index, pty.master().try_clone_to_owned()?),
            _ => Ok(()),
        }
    }

    /// `/dev/tty` of the session in `info`.
    fn controlling(
        &mut self,
        shared: &Shared,
        info: &TtyInfoEntry,
        access: OFlag,
    ) -> Result<OwnedFd, BoxError> {
        let terminal = self.terminal_of(info.sid).cloned();
        let outside = match &terminal {
            Some(terminal) => self.origin(terminal, shared.orphans.is_some())? == Origin::Own,
            None => self.options.shell_job,
        };
        match terminal {
            _ if outside => {
                let flags = access | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
                Ok(open("/dev/tty", flags, Mode::empty()).map_err(TtyError::call("/dev/tty", "open"))?)
            }
            Some(terminal) => {
                let name = device::name(terminal.rdev);
                let fd = self.open_control(shared, &terminal)?;
                Ok(ctty::open_for(fd.as_fd(), &name, access)?)
            }
            None => {
                let text = format!("no terminal of session {}, which has /dev/tty open", info.sid);
                Err(TtyError::Image(text).into())
            }
        }
    }

    /// The terminal that controls a session.
    pub fn terminal_of(&self, sid: u32) -> Option<&TtyInfoEntry> {
        self.infos.values().find(|info| {
            info.sid == sid && sid != 0 && info.r#type() != TtyType::Ctty && info.termios.is_some()
        })
    }

    /// A descriptor with which a session leader can take the terminal.
    pub fn open_control(&mut self, shared: &Shared, info: &TtyInfoEntry) -> Result<OwnedFd, BoxError> {
        match self.origin(info, shared.orphans.is_some())? {
            Origin::Master(index) => self.slave(index, info, OFlag::O_RDWR),
            _ => self.open_with(shared, info, libc::O_RDWR as u32),
        }
    }

    /// Everybody has opened what he needs: modes that would have been in the way.
    pub fn close_up(&self, fd_of: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), TtyError> {
        for file in &self.files {
            let Some(info) = self.infos.get(&file.tty_info_id) else { continue };
            if info.exclusive
                && let Some(fd) = fd_of(file.id)
            {
                sys::tell(fd.as_fd(), libc::TIOCEXCL, 0)
                    .map_err(TtyError::call(device::name(info.rdev), "TIOCEXCL"))?;
            }
            if info.locked
                && let Some(pty) = info.pty.and_then(|pty| self.ptys.get(&pty.index))
            {
                pty.set_locked(true)?;
            }
        }
        Ok(())
    }
}

/// The settings of an entry; `None` for a terminal that is hung up.
fn path_of(name: &RegFileEntry) -> &Path {
    Path::new(OsStr::from_bytes(&name.name))
}

fn settings(info: &TtyInfoEntry) -> Option<Settings> {
    Some(Settings {
        termios: info.termios.clone()?,
        locked: info.termios_locked.clone()?,
        winsize: info.winsize?,
    })
}

/// Refuses an entry that contradicts itself.
fn check(info: &TtyInfoEntry) -> Result<(), TtyError> {
    let bad = |what: &str| Err(TtyError::Image(format!("terminal {:#x} {what}", info.id)));
    let is_pty = info.r#type() == TtyType::Pty;
    if info.r#type() == TtyType::Unknown {
        return bad(&format!("has the unknown type {}", info.r#type));
    }
    if is_pty != info.pty.is_some() {
        return bad("has a pty number without being a pty, or the other way round");
    }
    let present = [info.termios.is_some(), info.termios_locked.is_some(), info.winsize.is_some()];
    let hung = is_pty && !Plan::is_master(info) && present == [false; 3];
    if present != [true; 3] && !hung {
        return bad("lacks some of its settings");
    }
    for termios in info.termios.iter().chain(&info.termios_locked) {
        if let Err(error) = termios::native(termios) {
            return bad(&format!("has {error}"));
        }
    }
    Ok(())
}
