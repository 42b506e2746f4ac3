//! epoll descriptors of a tree.
//!
//! A target that the holder has closed has no number there. It stands in `eventpoll-tfd.img` with the id of its
//! description, which other tasks have, and criu-rs adds it before they exist.

use super::{Closed, EpollError, Eventpoll, look, number, steps};
use crate::alone::{file_entry, missing};
use criu_images::proto::{EventpollTfdEntry, FdTypes, FileEntry};
use criu_images::{Image, Record, RecordSet, StoreExt};
use criu_resource::{
    BoxError, Descriptor, DumpContext, Fate, FileDump, FileKind, FileRestore, Restore, RestoreContext, Slot,
};
use criu_script::Script;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

impl FileKind for Eventpoll {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn types(&self) -> &'static [FdTypes] {
        &[FdTypes::Eventpoll]
    }

    fn claims(&self, descriptor: &Descriptor<'_>) -> bool {
        descriptor.link == Path::new("anon_inode:[eventpoll]")
    }

    fn dump<'t>(&'t self, _: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(Lost::default())
    }

    fn restore<'t>(&'t self, context: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        let apart = context.store.read_image_opt(Image::EventpollTfd, 0)?.unwrap_or_default();
        Ok(Box::new(Found { apart }))
    }
}

/// What holders have closed: the pid of the holder, the target, and the epoll descriptor, still open.
#[derive(Default)]
struct Lost(Vec<(i32, Closed, OwnedFd)>);

impl FileDump for Lost {
    fn lock(&mut self, _: &Descriptor<'_>) -> Result<(), BoxError> {
        Ok(())
    }

    fn entry(&mut self, d: &Descriptor<'_>, _: &mut RecordSet) -> Result<FileEntry, BoxError> {
        let (entry, closed) = look(d)?;
        for mut closed in closed {
            let epoll = d.fd.try_clone_to_owned()?;
            closed.slot.efd = epoll.as_raw_fd() as u32;
            self.0.push((d.pid, closed, epoll));
        }
        let mut file = file_entry(FdTypes::Eventpoll, d.id);
        file.epfd = Some(entry);
        Ok(file)
    }

    fn finish(
        &mut self,
        id_of: &dyn Fn(i32, i32) -> Option<u32>,
        records: &mut RecordSet,
    ) -> Result<(), BoxError> {
        for (holder, Closed { mut entry, slot }, _epoll) in self.0.drain(..) {
            entry.file_id = find(&slot, entry.inode(), id_of)?;
            if entry.file_id.is_none() {
                return Err(EpollError::Closed { pid: holder, target: slot.tfd as i32 }.into());
            }
            records.push(Record::new(Image::EventpollTfd, 0, &entry));
        }
        Ok(())
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        Ok(())
    }
}

/// The id of a target that some task of the tree has open.
fn find(
    slot: &criu_kernel::kcmp::EpollSlot,
    inode: u64,
    id_of: &dyn Fn(i32, i32) -> Option<u32>,
) -> Result<Option<u32>, BoxError> {
    for process in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // Others than those of the tree have no ids, or are gone by now.
        if let Ok(Some(number)) = number(pid, slot, inode)
            && let Some(id) = id_of(pid, number)
        {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// The targets that stand apart.
struct Found {
    apart: Vec<EventpollTfdEntry>,
}

impl FileRestore for Found {
    fn plan(&mut self, entry: &FileEntry) -> Result<(), BoxError> {
        entry.epfd.as_ref().map(drop).ok_or_else(|| missing(entry))
    }

    fn open(&mut self, entry: &FileEntry) -> Result<OwnedFd, BoxError> {
        let entry = entry.epfd.as_ref().ok_or_else(|| missing(entry))?;
        Ok(<Eventpoll as Restore>::restore(entry, ())?)
    }

    fn connect(&mut self, fd_of: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), BoxError> {
        for entry in self.apart.drain(..) {
            let (epoll, target) = (fd_of(entry.id), entry.file_id.and_then(fd_of));
            let (Some(epoll), Some(target)) = (epoll, target) else {
                let id = entry.id;
                return Err(format!("eventpoll-tfd.img: {id:#x} watches a file that no task has open").into());
            };
            let event = EpollEvent::new(EpollFlags::from_bits_retain(entry.events as i32), entry.data);
            Epoll(epoll).add(&target, event).map_err(|errno| EpollError::Call("epoll_ctl", errno))?;
        }
        Ok(())
    }

    fn steps(&mut self, entry: &FileEntry, slot: Slot, script: &mut Script) -> Result<(), BoxError> {
        steps(entry.epfd.as_ref().ok_or_else(|| missing(entry))?, slot.number, script);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}
