//! Dump: what a descriptor of a terminal says about it.

use crate::device::{self, Device, Identity, Ids, key};
use crate::pty::{Modes, modes};
use crate::session::Session;
use crate::termios::Settings;
use crate::{Shared, TtyError, pty, queue, sys};
use criu_images::{Image, Record, RecordSet, proto};
use criu_resource::{BoxError, Descriptor, Dump, DumpContext, Fate, FileDump};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use proto::{
    FdTypes, FileEntry, RegFileEntry, TtyDataEntry, TtyFileEntry, TtyInfoEntry, TtyPtyEntry, TtyType,
};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Names of terminals are files with ids of their own, beside those of descriptions.
const NAME_ID: u32 = 1 << 30;

/// One end of a pty that something waits in.
struct Waiting {
    index: u32,
    id: u32,
    fd: OwnedFd,
    packet: bool,
}

pub(crate) struct TtyDump<'t> {
    shared: &'t Shared,
    context: &'t DumpContext<'t>,
    ids: Ids,
    /// Masters by number: one descriptor of each, to put back what was taken.
    masters: HashMap<u32, OwnedFd>,
    /// The slave that restore is to replace by criu-rs's own terminal.
    outside: Option<u32>,
    waiting: Vec<Waiting>,
    /// What was taken: number of the pty, whether from the master, data.
    taken: Vec<(u32, bool, Vec<u8>)>,
}

impl<'t> TtyDump<'t> {
    pub fn new(shared: &'t Shared, context: &'t DumpContext<'t>) -> Self {
        TtyDump {
            shared,
            context,
            ids: Ids::default(),
            masters: HashMap::new(),
            outside: None,
            waiting: Vec::new(),
            taken: Vec::new(),
        }
    }

    fn replaceable(&self) -> bool {
        self.context.options.shell_job || self.shared.orphans.is_some()
    }

    /// What in the images the description belongs to, and its session.
    fn identify(&mut self, d: &Descriptor<'_>) -> Result<(Identity, TtyType, Option<Session>), TtyError> {
        let key = key(d.rdev, d.dev);
        let device = Device::of(d.rdev).ok_or_else(|| TtyError::call(&key, "rdev")(Errno::ENODEV))?;
        if self.context.options.external.iter().any(|external| is_named(external, &key)) {
            let number = sys::get(d.fd, sys::TIOCGDEV).map_or(d.rdev as u32, |number| number as u32);
            return Ok((Identity::External { key }, TtyType::ExtTty, self.shared.session(number)));
        }
        let of_type = |identity, session| Ok((identity, device.image_type(), session));
        match device {
            Device::Master => {
                let index = pty::index_of(d.fd).map_err(TtyError::call("/dev/ptmx", "TIOCGPTN"))?;
                let session = self.session(device::slave_number(index))?;
                // The session of somebody outside is none that a restored pty will have.
                let session = session.filter(|session| session.leader.is_some());
                of_type(Identity::Pty { index, master: true }, session)
            }
            Device::Slave(index) if is_hung(d) => of_type(Identity::Pty { index, master: false }, None),
            Device::Slave(index) => {
                if !self.masters.contains_key(&index) {
                    self.replace(index, key)?;
                }
                let session = self.session(device::slave_number(index))?;
                of_type(Identity::Pty { index, master: false }, session)
            }
            Device::Controlling => {
                let number = sys::get(d.fd, sys::TIOCGDEV).map_err(TtyError::call("/dev/tty", "TIOCGDEV"))?;
                let number = number as u32;
                let session = self.session(number)?;
                let session = session.ok_or_else(|| TtyError::Stray { terminal: device::name(number) })?;
                of_type(Identity::Controlling { number }, Some(session))
            }
            Device::Console | Device::Virtual | Device::Serial => {
                let number = sys::get(d.fd, sys::TIOCGDEV).map_or(d.rdev as u32, |number| number as u32);
                of_type(Identity::Node { rdev: d.rdev }, self.session(number)?)
            }
        }
    }

    /// A slave whose master is not in the tree.
    fn replace(&mut self, index: u32, key: String) -> Result<(), TtyError> {
        let terminal = format!("/dev/pts/{index}");
        if !self.replaceable() {
            // A shell's terminal is named as such.
            self.session(device::slave_number(index))?;
            return Err(TtyError::Unpaired { terminal, key });
        }
        match *self.outside.get_or_insert(index) {
            known if known == index => Ok(()),
            first => Err(TtyError::Several { first: format!("/dev/pts/{first}"), second: terminal, key }),
        }
    }

    fn session(&self, number: u32) -> Result<Option<Session>, TtyError> {
        let session = self.shared.session(number);
        match session {
            Some(Session { leader: None, sid, .. }) if !self.replaceable() => {
                Err(TtyError::ShellJob { terminal: device::name(number), sid })
            }
            session => Ok(session),
        }
    }

    fn info(
        &mut self,
        d: &Descriptor<'_>,
        id: u32,
        (identity, kind, session): (&Identity, TtyType, Option<Session>),
    ) -> Result<(TtyInfoEntry, Modes), BoxError> {
        let name = d.link.display().to_string();
        let stat = fstat(d.fd)?;
        let session = session.unwrap_or_default();
        let mut info = TtyInfoEntry {
            id,
            r#type: kind as i32,
            sid: session.sid as u32,
            pgrp: session.pgrp as u32,
            rdev: d.rdev as u32,
            dev: Some(d.dev as u32),
            uid: Some(stat.st_uid),
            gid: Some(stat.st_gid),
            pty: match identity {
                Identity::Pty { index, .. } => Some(TtyPtyEntry { index: *index }),
                _ => None,
            },
            ..Default::default()
        };
        // Of a terminal that is hung up nothing more can be known.
        let settings = match Settings::dump(d.fd) {
            Err(error) if error.is_hung_up() && kind == TtyType::Pty => return Ok((info, Modes::default())),
            settings => settings?,
        };
        let modes = modes(d.fd, kind == TtyType::Pty).map_err(TtyError::call(&name, "ioctl"))?;
        (info.locked, info.exclusive, info.packet_mode) = (modes.locked, modes.exclusive, modes.packet);
        info.termios = Some(settings.termios);
        info.termios_locked = Some(settings.locked);
        info.winsize = Some(settings.winsize);
        Ok((info, modes))
    }

    /// Ends of ptys whose other end is in the tree too may have something to be read.
    fn note_waiting(
        &mut self,
        d: &Descriptor<'_>,
        id: u32,
        identity: &Identity,
        modes: Modes,
    ) -> nix::Result<()> {
        if let Identity::Pty { index, .. } = *identity
            && self.masters.contains_key(&index)
            && queue::any(d.fd)?
        {
            let fd = self.readable(d, index)?;
            self.waiting.push(Waiting { index, id, fd, packet: modes.packet });
        }
        Ok(())
    }

    /// A descriptor to read from. One for writing only knows how much waits, but not what.
    fn readable(&self, d: &Descriptor<'_>, index: u32) -> nix::Result<OwnedFd> {
        let write_only = d.flags & libc::O_ACCMODE as u32 == libc::O_WRONLY as u32;
        match self.masters.get(&index) {
            Some(master) if write_only && Device::of(d.rdev) != Some(Device::Master) => {
                sys::peer(master.as_fd(), OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
            }
            _ => sys::duplicate_from(d.fd, 0),
        }
    }

    /// Gives back what was taken.
    fn put_back(&mut self) {
        let mut ptys: BTreeMap<u32, Vec<(bool, Vec<u8>)>> = BTreeMap::new();
        for (index, from_master, data) in std::mem::take(&mut self.taken) {
            ptys.entry(index).or_default().push((from_master, data));
        }
        for (index, parts) in ptys {
            let Some(master) = self.masters.get(&index) else { continue };
            for (from_master, data) in parts {
                let done = put_back_one(master, from_master, &data);
                if !matches!(done, Ok(0)) {
                    tracing::warn!("terminal /dev/pts/{index}: what waited to be read is lost: {done:?}");
                }
            }
        }
    }
}

fn put_back_one(master: &OwnedFd, from_master: bool, data: &[u8]) -> nix::Result<usize> {
    let slave = sys::peer(master.as_fd(), OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    let (writer, reader) = if from_master { (&slave, master) } else { (master, &slave) };
    let wanted = sys::termios(master.as_fd())?;
    queue::put(writer.as_fd(), reader.as_fd(), &wanted, data)
}

fn is_hung(d: &Descriptor<'_>) -> bool {
    sys::termios(d.fd) == Err(Errno::EIO)
}

/// Whether an `--external` value names `key`.
fn is_named(external: &str, key: &str) -> bool {
    external.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// The entry of a terminal's name, as restore will open it.
fn name(d: &Descriptor<'_>) -> FileEntry {
    let link = d.link.as_os_str().as_bytes();
    let id = d.id | NAME_ID;
    let regular = RegFileEntry {
        id,
        flags: d.flags,
        pos: 0,
        fown: d.fown,
        name: link.strip_suffix(b" (deleted)").unwrap_or(link).to_vec(),
        mode: Some(d.mode),
        ..Default::default()
    };
    FileEntry { r#type: FdTypes::Reg as i32, id, reg: Some(regular), ..Default::default() }
}

impl FileDump for TtyDump<'_> {
    fn lock(&mut self, d: &Descriptor<'_>) -> Result<(), BoxError> {
        if Device::of(d.rdev) == Some(Device::Master) {
            self.masters.insert(pty::index_of(d.fd)?, d.fd.try_clone_to_owned()?);
        }
        Ok(())
    }

    fn entry(&mut self, d: &Descriptor<'_>, records: &mut RecordSet) -> Result<FileEntry, BoxError> {
        let (identity, kind, session) = self.identify(d)?;
        if kind != TtyType::Ctty
            && let Ok(number) = sys::get(d.fd, sys::TIOCGDEV)
        {
            self.shared.hold(number as u32);
        }
        let (id, new) = self.ids.id(identity.clone())?;
        let mut entry =
            TtyFileEntry { id: d.id, tty_info_id: id, flags: d.flags, fown: d.fown, regf_id: None };
        if kind != TtyType::ExtTty {
            let name = name(d);
            entry.regf_id = Some(name.id);
            records.push(Record::new(Image::Files, 0, &name));
        }
        if new {
            let (info, modes) = self.info(d, id, (&identity, kind, session))?;
            records.push(Record::new(Image::TtyInfo, 0, &info));
            self.note_waiting(d, id, &identity, modes)?;
        }
        Ok(FileEntry { r#type: FdTypes::Tty as i32, id: d.id, tty: Some(entry), ..Default::default() })
    }

    fn finish(
        &mut self,
        _: &dyn Fn(i32, i32) -> Option<u32>,
        records: &mut RecordSet,
    ) -> Result<(), BoxError> {
        for Waiting { index, id, fd, packet } in std::mem::take(&mut self.waiting) {
            let from_master = id & 1 == 1;
            let data = queue::take(fd.as_fd(), packet)
                .map_err(TtyError::call(format!("/dev/pts/{index}"), "read"))?;
            records.push(Record::new(Image::TtyData, 0, &TtyDataEntry { tty_id: id, data: data.clone() }));
            self.taken.push((index, from_master, data));
        }
        Ok(())
    }

    fn commit(mut self: Box<Self>, fate: Fate) -> Result<(), BoxError> {
        if fate == Fate::Kill {
            self.taken.clear();
        }
        Ok(())
    }
}

impl Drop for TtyDump<'_> {
    fn drop(&mut self) {
        self.put_back();
    }
}
