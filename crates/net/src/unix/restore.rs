//! The restore of all unix sockets of a tree.
//!
//! All sockets are made when the first one is asked for: only then every entry is known, and pairs are
//! made in one go. Queues, connections, options and shutdowns follow when all descriptions are open.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use criu_images::proto::{self, UnixSkEntry};
use criu_images::{Image, StoreExt};
use criu_resource::{BoxError, FileRestore, RestoreContext, Slot};
use criu_script::Script;

use super::queue::{self, Queues};
use super::wiring::Wiring;
use super::{EXTERNAL, SERVICE, name};
use crate::error::{About, Error, Result};
use crate::options;

/// The restore under way.
pub(super) struct UnixRestore<'t> {
    context: &'t RestoreContext<'t>,
    entries: Vec<UnixSkEntry>,
    queues: Queues,
    wiring: Option<Wiring>,
}

impl<'t> UnixRestore<'t> {
    pub fn new(context: &'t RestoreContext<'t>) -> Result<Self> {
        let queues = queue::read(context.store)?;
        Ok(Self { context, entries: Vec::new(), queues, wiring: None })
    }

    fn check(&self, entry: &UnixSkEntry) -> Result<()> {
        match entry.r#type as i32 {
            libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET => {}
            other => return Err(Error::Unsupported(format!("unix socket of type {other}"))),
        }
        // EXTERNAL never belongs to a descriptor; others stand for plugins.
        if entry.uflags & !SERVICE != 0 {
            return Err(Error::Unsupported(format!("unix socket with uflags {:#x}", entry.uflags)));
        }
        if entry.name.len() > 108 {
            return Err(Error::Corrupt(format!("name of {} bytes", entry.name.len())));
        }
        Ok(())
    }

    /// Sockets outside of the tree, by inode.
    fn outside(&self) -> Result<HashMap<u32, UnixSkEntry>> {
        let own = |inode| self.entries.iter().any(|entry| entry.ino == inode);
        if self.entries.iter().all(|entry| entry.peer == 0 || own(entry.peer)) {
            return Ok(HashMap::new());
        }
        let files: Vec<proto::FileEntry> =
            self.context.store.read_image_opt(Image::Files, 0)?.unwrap_or_default();
        let sockets = files.into_iter().filter_map(|file| file.usk);
        Ok(sockets.filter(|entry| entry.uflags & EXTERNAL != 0).map(|entry| (entry.ino, *entry)).collect())
    }

    fn wiring(&mut self) -> Result<&Wiring> {
        let wiring = match self.wiring.take() {
            Some(wiring) => wiring,
            None => Wiring::make(self.entries.clone(), self.outside()?, self.context.options)?,
        };
        Ok(self.wiring.insert(wiring))
    }
}

fn settle(fd: BorrowedFd<'_>, entry: &UnixSkEntry) -> Result<()> {
    options::restore(fd, &entry.opts)?;
    options::set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, entry.opts.reuseaddr().into())?;
    options::set_flags(fd, entry.flags, &entry.fown)?;
    options::restore_shutdown(fd, entry.shutdown())
}

fn own(entry: &proto::FileEntry) -> Result<&UnixSkEntry> {
    entry.usk.as_deref().ok_or_else(|| Error::Corrupt(format!("file {:#x} is no unix socket", entry.id)))
}

pub(super) fn describe(entry: &UnixSkEntry) -> String {
    format!("unix socket {} ({})", entry.ino, name::show(&entry.name))
}

impl FileRestore for UnixRestore<'_> {
    fn plan(&mut self, entry: &proto::FileEntry) -> Result<(), BoxError> {
        let entry = own(entry)?;
        self.check(entry).about(|| describe(entry))?;
        self.entries.push(entry.clone());
        Ok(())
    }

    fn in_flight(&self) -> Vec<(u32, u32)> {
        let packets = self.queues.iter().flat_map(|(to, packets)| packets.iter().map(move |p| (*to, p)));
        packets.flat_map(|(to, (_, rights))| rights.iter().map(move |id| (to, *id))).collect()
    }

    fn open(&mut self, entry: &proto::FileEntry) -> Result<OwnedFd, BoxError> {
        let entry = own(entry)?;
        let socket = self.wiring()?.socket(entry.id);
        let socket = socket.ok_or_else(|| Error::Corrupt(format!("{} was not made", describe(entry))))?;
        Ok(options::duplicate(socket).about(|| describe(entry))?)
    }

    fn connect(&mut self, fd_of: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), BoxError> {
        let Some(wiring) = self.wiring.take() else { return Ok(()) };
        for (entry, socket) in wiring.connect(&self.queues, self.context.options, fd_of)? {
            settle(socket.as_fd(), &entry).about(|| describe(&entry))?;
        }
        Ok(())
    }

    fn steps(&mut self, _: &proto::FileEntry, _: Slot, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}
