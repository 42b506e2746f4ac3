//! Terminals as a kind of open file: the dump.

use crate::restore::Restorer;
use crate::termios::Settings;
use crate::{Error, buffer, classify, info_id, ioctl};
use criu_images::proto::{
    FdTypes, FileEntry, RegFileEntry, TtyDataEntry, TtyFileEntry, TtyInfoEntry, TtyPtyEntry, TtyType,
};
use criu_images::{Image, Record, RecordSet};
use criu_kernel::{Pid, proc::ProcDir};
use criu_resource::{
    BoxError, Descriptor, Dump, DumpContext, Fate, FileDump, FileKind, FileRestore, RestoreContext,
};
use nix::errno::Errno;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

/// Terminals. Also says how to get a new id for `files.img`: each terminal comes with an entry for its path.
pub struct Terminals {
    ids: Box<dyn Fn() -> u32 + Send + Sync>,
}

impl Terminals {
    /// With a source of ids.
    pub fn new(ids: impl Fn() -> u32 + Send + Sync + 'static) -> Terminals {
        Terminals { ids: Box::new(ids) }
    }
}

impl FileKind for Terminals {
    fn name(&self) -> &'static str {
        "tty"
    }

    fn types(&self) -> &'static [FdTypes] {
        &[FdTypes::Tty]
    }

    fn claims(&self, descriptor: &Descriptor<'_>) -> bool {
        let character = descriptor.mode & libc::S_IFMT == libc::S_IFCHR;
        let path_only = descriptor.flags & libc::O_PATH as u32 != 0;
        character && !path_only && classify(descriptor.rdev).is_some()
    }

    fn dump<'t>(&'t self, context: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(Dumper {
            kind: self,
            context,
            seen: BTreeMap::new(),
            pairs: Pairs::default(),
            ends: BTreeMap::new(),
        })
    }

    fn restore<'t>(&'t self, context: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        Ok(Box::new(Restorer::read(context)?))
    }
}

/// Which sides of which ptys the tree holds.
#[derive(Default)]
struct Pairs {
    masters: BTreeSet<u32>,
    slaves: BTreeMap<u32, String>,
}

struct Dumper<'t> {
    kind: &'t Terminals,
    context: &'t DumpContext<'t>,
    /// Entries of `tty-info.img` by id.
    seen: BTreeMap<u32, TtyInfoEntry>,
    pairs: Pairs,
    /// One descriptor of each side of each pair: (number, whether it is the master).
    ends: BTreeMap<(u32, bool), OwnedFd>,
}

/// One descriptor's terminal.
struct Terminal {
    kind: TtyType,
    index: u32,
    master: bool,
    path: String,
}

impl Dumper<'_> {
    fn identify(&self, descriptor: &Descriptor<'_>) -> Result<Terminal, Error> {
        let path = descriptor.link.display().to_string();
        let external = self.context.options.external.iter().position(|key| *key == external_key(descriptor));
        if let Some(position) = external {
            return Ok(Terminal {
                kind: TtyType::ExtTty,
                index: 1012 + position as u32,
                master: false,
                path,
            });
        }
        let (kind, index) = classify(descriptor.rdev).unwrap_or((TtyType::Unknown, 0));
        if kind == TtyType::Pty && index == u32::MAX {
            let index = ioctl::pty_number(descriptor.fd).map_err(Error::system(&path, "TIOCGPTN"))?;
            return Ok(Terminal { kind, index, master: true, path });
        }
        Ok(Terminal { kind, index, master: false, path })
    }

    fn info(&self, descriptor: &Descriptor<'_>, terminal: &Terminal) -> Result<TtyInfoEntry, BoxError> {
        let fd = descriptor.fd;
        let failed = |call| Error::system(&terminal.path, call);
        let settings = match Settings::dump(fd) {
            Ok(settings) => Some(settings),
            // Hung up: there is nothing more to ask.
            Err(Error::System { errno: Errno::EIO, .. }) => None,
            Err(Error::System { call, errno, .. }) => return Err(failed(call)(errno).into()),
            Err(error) => return Err(error.into()),
        };
        let (sid, pgrp) = match terminal.master {
            true => (ioctl::session(fd).unwrap_or(0), ioctl::foreground(fd).unwrap_or(0)),
            false => controlled_by(descriptor)?,
        };
        let (locked, packet_mode) = match terminal.master {
            true => (
                ioctl::is_locked(fd).map_err(failed("TIOCGPTLCK"))?,
                ioctl::is_packet_mode(fd).map_err(failed("TIOCGPKT"))?,
            ),
            false => (false, false),
        };
        let owner = nix::sys::stat::fstat(fd).map_err(failed("fstat"))?;
        let (termios, termios_locked, winsize) = match settings {
            Some(settings) => (Some(settings.termios), Some(settings.locked), Some(settings.window)),
            None => (None, None, None),
        };
        Ok(TtyInfoEntry {
            id: info_id(terminal.index, terminal.master),
            r#type: terminal.kind as i32,
            locked,
            exclusive: termios.is_some() && ioctl::is_exclusive(fd).map_err(failed("TIOCGEXCL"))?,
            packet_mode,
            sid: sid as u32,
            pgrp: pgrp as u32,
            rdev: descriptor.rdev as u32,
            termios,
            termios_locked,
            winsize,
            pty: (terminal.kind == TtyType::Pty).then_some(TtyPtyEntry { index: terminal.index }),
            dev: Some(descriptor.dev as u32),
            uid: Some(owner.st_uid),
            gid: Some(owner.st_gid),
        })
    }

    /// The terminal must be wholly inside of the tree, or allowed to come from outside.
    fn check_outside(&self, terminal: &Terminal) -> Result<(), Error> {
        if self.context.options.shell_job {
            let outside: Vec<_> =
                self.pairs.slaves.iter().filter(|(index, _)| !self.pairs.masters.contains(index)).collect();
            return match outside[..] {
                [(_, first), (_, second), ..] => {
                    Err(Error::SecondOutside { first: first.clone(), second: second.clone() })
                }
                _ => Ok(()),
            };
        }
        let path = terminal.path.clone();
        match terminal.kind {
            TtyType::Pty if !terminal.master && !self.pairs.masters.contains(&terminal.index) => {
                Err(Error::ShellJob { path })
            }
            TtyType::Ctty => Err(Error::DevTty { path }),
            _ => Ok(()),
        }
    }
}

/// Session and foreground group of a terminal, if it is the controlling one of the descriptor's holder.
fn controlled_by(descriptor: &Descriptor<'_>) -> Result<(i32, i32), BoxError> {
    let stat = ProcDir::open(Pid::from_raw(descriptor.pid))?.stat()?;
    // The old encoding of device numbers: minor in bits 0-7 and 20-31, major in 8-19.
    let number = stat.tty_nr as u64;
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    if libc::makedev(major as u32, minor as u32) == descriptor.rdev {
        return Ok((stat.session, stat.tpgid.max(0)));
    }
    Ok((0, 0))
}

/// How the command line names a terminal.
pub(crate) fn external_key(descriptor: &Descriptor<'_>) -> String {
    format!("tty[{:x}:{:x}]", descriptor.rdev, descriptor.dev)
}

impl FileDump for Dumper<'_> {
    fn lock(&mut self, descriptor: &Descriptor<'_>) -> Result<(), BoxError> {
        let terminal = self.identify(descriptor)?;
        match (terminal.kind, terminal.master) {
            (TtyType::Pty, true) => drop(self.pairs.masters.insert(terminal.index)),
            // A terminal that was hung up has lost its master for good.
            (TtyType::Pty, false) if ioctl::settings(descriptor.fd) != Err(Errno::EIO) => {
                self.pairs.slaves.insert(terminal.index, terminal.path);
            }
            _ => {}
        }
        Ok(())
    }

    fn entry(&mut self, descriptor: &Descriptor<'_>, records: &mut RecordSet) -> Result<FileEntry, BoxError> {
        let terminal = self.identify(descriptor)?;
        let hung_up = terminal.kind == TtyType::Pty && ioctl::settings(descriptor.fd) == Err(Errno::EIO);
        if !hung_up {
            self.check_outside(&terminal)?;
        }
        if terminal.kind == TtyType::Pty && !hung_up {
            let end = (terminal.index, terminal.master);
            if let Entry::Vacant(vacant) = self.ends.entry(end) {
                vacant.insert(descriptor.fd.try_clone_to_owned()?);
            }
        }
        let id = info_id(terminal.index, terminal.master);
        if !self.seen.contains_key(&id) {
            let info = self.info(descriptor, &terminal)?;
            records.push(Record::new(Image::TtyInfo, 0, &info));
            self.seen.insert(id, info);
        }
        let path_entry = (terminal.kind != TtyType::ExtTty).then(|| {
            let id = (self.kind.ids)();
            let reg = RegFileEntry {
                id,
                flags: descriptor.flags,
                pos: 0,
                fown: descriptor.fown.clone(),
                name: terminal.path.clone(),
                mode: Some(descriptor.mode),
                ..Default::default()
            };
            let entry = FileEntry { r#type: FdTypes::Reg as i32, id, reg: Some(reg), ..Default::default() };
            records.push(Record::new(Image::Files, 0, &entry));
            id
        });
        let tty = TtyFileEntry {
            id: descriptor.id,
            tty_info_id: id,
            flags: descriptor.flags,
            fown: descriptor.fown.clone(),
            regf_id: path_entry,
        };
        Ok(FileEntry { r#type: FdTypes::Tty as i32, id: descriptor.id, tty: Some(tty), ..Default::default() })
    }

    fn finish(
        &mut self,
        _: &dyn Fn(i32, i32) -> Option<u32>,
        records: &mut RecordSet,
    ) -> Result<(), BoxError> {
        for (&(index, is_master), end) in &self.ends {
            let Some(peer) = self.ends.get(&(index, !is_master)) else { continue };
            let slave = if is_master { peer } else { end };
            let data = buffer::peek(end.as_fd(), peer.as_fd(), slave.as_fd())?;
            if !data.is_empty() {
                let entry = TtyDataEntry { tty_id: info_id(index, is_master), data };
                records.push(Record::new(Image::TtyData, 0, &entry));
            }
        }
        Ok(())
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        Ok(())
    }
}
