//! Descriptors of processes: pidfd_open(2).

use crate::alone::{file_entry, missing};
use crate::{fown, observed, sys};
use criu_images::{RecordSet, proto};
use criu_kernel::pidfd;
use criu_resource::{
    BoxError, Descriptor, Dump, DumpContext, Fate, FileDump, FileKind, FileRestore, Restore, RestoreContext,
    Slot,
};
use criu_script::Script;
use nix::errno::Errno;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, OwnedFd};

/// A pidfd of a task of the tree, or of a process that was waited for.
///
/// One of a task is opened by the tasks themselves, once all exist; [`Restore`] makes only the other kind.
#[derive(Debug)]
pub struct Pidfd;

/// What can go wrong with a pidfd.
#[derive(Debug, thiserror::Error)]
pub enum PidfdError {
    /// fdinfo has no pid.
    #[error("fdinfo has no valid {0} line")]
    Field(&'static str),
    /// The process does not belong to the tree.
    #[error("it refers to pid {0}, which is not part of the tree; close it before the dump")]
    Foreign(i32),
    /// A system call failed.
    #[error("{0}: {1}")]
    Call(&'static str, Errno),
}

impl Dump for Pidfd {
    type Source<'a> = &'a Descriptor<'a>;
    type Entry = proto::PidfdEntry;
    type Error = PidfdError;

    fn dump(source: &Descriptor<'_>) -> Result<Self::Entry, PidfdError> {
        let last = |key| {
            let line = observed::line(source.extra, key)?;
            line.split_whitespace().next_back()?.parse::<i32>().ok()
        };
        let pid = last("Pid").ok_or(PidfdError::Field("Pid"))?;
        // The innermost namespace's; a dead process has none.
        let nspid = if pid < 0 { pid } else { last("NSpid").ok_or(PidfdError::Field("NSpid"))? };
        let flags = source.flags & !(libc::O_RDWR as u32);
        Ok(proto::PidfdEntry { id: source.id, ino: source.ino as u32, flags, nspid, fown: source.fown })
    }
}

/// Processes that live until all descriptors of them are open, and are then the dead ones.
#[derive(Debug, Default)]
pub struct Doomed {
    /// By the inode number of the descriptors that mean the same process.
    helpers: HashMap<u32, sys::Helper>,
}

impl Restore for Pidfd {
    type Entry = proto::PidfdEntry;
    type Context<'a> = &'a mut Doomed;
    type Object = OwnedFd;
    type Error = PidfdError;

    fn restore(entry: &Self::Entry, doomed: &mut Doomed) -> Result<OwnedFd, PidfdError> {
        if entry.nspid >= 0 {
            return Err(PidfdError::Foreign(entry.nspid));
        }
        let helper = match doomed.helpers.entry(entry.ino) {
            Entry::Occupied(helper) => helper.into_mut(),
            Entry::Vacant(place) => {
                place.insert(sys::Helper::start().map_err(|errno| PidfdError::Call("fork", errno))?)
            }
        };
        let flags = pidfd::Flags::from_bits_truncate(entry.flags);
        let fd = pidfd::open(helper.pid(), flags).map_err(|errno| PidfdError::Call("pidfd_open", errno))?;
        fown::prepare(fd.as_fd(), &entry.fown, entry.flags)
            .map_err(|errno| PidfdError::Call("fcntl", errno))?;
        Ok(fd)
    }
}

impl FileKind for Pidfd {
    fn name(&self) -> &'static str {
        "pidfd"
    }

    fn types(&self) -> &'static [proto::FdTypes] {
        &[proto::FdTypes::Pidfd]
    }

    fn claims(&self, descriptor: &Descriptor<'_>) -> bool {
        let link = descriptor.link.to_string_lossy();
        // pidfs has names of its own since Linux 6.9.
        link == "anon_inode:[pidfd]" || link.starts_with("pidfd:")
    }

    fn dump<'t>(&'t self, _: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(Pidfd)
    }

    fn restore<'t>(&'t self, _: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        Ok(Box::new(Doomed::default()))
    }
}

impl FileDump for Pidfd {
    fn lock(&mut self, _: &Descriptor<'_>) -> Result<(), BoxError> {
        Ok(())
    }

    fn entry(&mut self, d: &Descriptor<'_>, _: &mut RecordSet) -> Result<proto::FileEntry, BoxError> {
        let mut file = file_entry(proto::FdTypes::Pidfd, d.id);
        file.pidfd = Some(<Pidfd as Dump>::dump(d)?);
        Ok(file)
    }

    fn finish(&mut self, _: &dyn Fn(i32, i32) -> Option<u32>, _: &mut RecordSet) -> Result<(), BoxError> {
        Ok(())
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        Ok(())
    }
}

impl FileRestore for Doomed {
    fn plan(&mut self, entry: &proto::FileEntry) -> Result<(), BoxError> {
        entry.pidfd.as_ref().map(drop).ok_or_else(|| missing(entry))
    }

    fn open(&mut self, entry: &proto::FileEntry) -> Result<OwnedFd, BoxError> {
        let entry = entry.pidfd.as_ref().ok_or_else(|| missing(entry))?;
        Ok(<Pidfd as Restore>::restore(entry, self)?)
    }

    fn connect(&mut self, _: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), BoxError> {
        self.helpers.clear();
        Ok(())
    }

    fn steps(&mut self, _: &proto::FileEntry, _: Slot, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::sys::Helper;
    use crate::testing::{Stopped, dump, keep, restore, table};
    use criu_kernel::{Pid, pidfd};
    use criu_resource::{Fate, Options};
    use std::fs;

    #[test]
    fn dead_ones_of_one_process_stay_equal_and_live_ones_are_found() {
        let task = Stopped::after(|| {
            let helper = Helper::start().unwrap();
            let open = || pidfd::open(helper.pid(), pidfd::Flags::empty()).unwrap();
            keep(open(), 10);
            keep(open(), 11);
            drop(helper);
            keep(pidfd::open(Pid::this(), pidfd::Flags::NONBLOCK).unwrap(), 12);
        });
        let (table, options) = (table(), Options::default());
        let store = dump(&table, &[task.0], &options, Fate::Run).unwrap();
        // The original lives on here, so that its own descriptor finds it.
        let again = restore(&table, &[task.0], &store, &options).unwrap();
        let line = |number, key: &str| {
            let text = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", again[0].0)).unwrap();
            crate::observed::line(&text, key).unwrap().to_owned()
        };
        assert_eq!([10, 11].map(|number| line(number, "Pid")), ["-1", "-1"]);
        assert_eq!(line(10, "ino"), line(11, "ino"));
        assert_eq!(line(12, "Pid"), task.0.to_string());
        assert!(line(12, "flags").ends_with("4002"), "O_NONBLOCK");
    }

    #[test]
    fn a_process_outside_of_the_tree_is_refused() {
        let parent = std::process::id() as i32;
        let task = Stopped::after(|| {
            keep(pidfd::open(Pid::from_raw(parent), pidfd::Flags::empty()).unwrap(), 3);
        });
        let error = dump(&table(), &[task.0], &Options::default(), Fate::Run).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {parent}, which is not part of the tree")), "{error}");
    }
}
