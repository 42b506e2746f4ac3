//! Kinds of files that [`Files`] keeps: what they share.

use crate::{Files, alone, sys};
use criu_images::{RecordSet, proto};
use criu_resource::{
    BoxError, Descriptor, DumpContext, Fate, FileDump, FileKind, FileRestore, RestoreContext, Slot,
};
use criu_script::Script;
use nix::unistd::{Whence, lseek};
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// One such kind.
pub trait Named: Send + Sync + 'static {
    /// Name for messages.
    const NAME: &'static str;
    /// Its numbers in the images.
    const TYPES: &'static [proto::FdTypes];
    /// Whether the descriptor is of this kind.
    fn claims(descriptor: &Descriptor<'_>) -> bool;
    /// Has the entry made.
    fn entry(files: &Files, descriptor: &Descriptor<'_>) -> Result<proto::FileEntry, BoxError>;
    /// File position and owner in an entry of this kind.
    fn position(entry: &proto::FileEntry) -> Option<(u64, &proto::FownEntry)>;
}

/// It as a [`FileKind`].
pub struct NamedKind<K> {
    files: Arc<Files>,
    kind: PhantomData<fn() -> K>,
}

impl<K> NamedKind<K> {
    /// The kind, over the files that it shares with others.
    pub fn new(files: &Arc<Files>) -> Self {
        NamedKind { files: files.clone(), kind: PhantomData }
    }
}

impl<K: Named> FileKind for NamedKind<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn types(&self) -> &'static [proto::FdTypes] {
        K::TYPES
    }

    fn claims(&self, descriptor: &Descriptor<'_>) -> bool {
        K::claims(descriptor)
    }

    fn dump<'t>(&'t self, _: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(NamedDump::<K> { files: &self.files, kind: PhantomData })
    }

    fn restore<'t>(&'t self, context: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        Ok(Box::new(NamedRestore::<K> { files: &self.files, context, kind: PhantomData }))
    }
}

struct NamedDump<'t, K> {
    files: &'t Files,
    kind: PhantomData<fn() -> K>,
}

impl<K: Named> FileDump for NamedDump<'_, K> {
    fn lock(&mut self, _: &Descriptor<'_>) -> Result<(), BoxError> {
        Ok(())
    }

    fn entry(&mut self, d: &Descriptor<'_>, _: &mut RecordSet) -> Result<proto::FileEntry, BoxError> {
        K::entry(self.files, d)
    }

    fn finish(&mut self, _: &dyn Fn(i32, i32) -> Option<u32>, _: &mut RecordSet) -> Result<(), BoxError> {
        Ok(())
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        Ok(())
    }
}

struct NamedRestore<'t, K> {
    files: &'t Files,
    context: &'t RestoreContext<'t>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Named> FileRestore for NamedRestore<'_, K> {
    fn plan(&mut self, entry: &proto::FileEntry) -> Result<(), BoxError> {
        K::position(entry).map(drop).ok_or_else(|| alone::missing(entry))
    }

    fn open(&mut self, entry: &proto::FileEntry) -> Result<OwnedFd, BoxError> {
        let (position, owner) = K::position(entry).ok_or_else(|| alone::missing(entry))?;
        let external = entry.reg.as_ref().is_some_and(|regular| regular.ext());
        if !external && let Some(fd) = self.files.given(entry.id)? {
            return Ok(fd);
        }
        let fd = self.files.open(self.context.store, entry.id, None)?;
        // The largest number stands for a file that cannot be positioned; what is opened with O_PATH has neither.
        if position != u64::MAX && position != 0 {
            lseek(&fd, position as i64, Whence::SeekSet)
                .map_err(|errno| format!("lseek to {position}: {errno}"))?;
        }
        if owner.signum != 0 {
            sys::set_owner_signal(fd.as_fd(), owner.signum as i32)?;
        }
        Ok(fd)
    }

    fn connect(&mut self, _: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), BoxError> {
        Ok(())
    }

    fn steps(&mut self, _: &proto::FileEntry, _: Slot, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}
