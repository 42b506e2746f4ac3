//! Kinds of files whose state stands alone: one entry, no bulk data, no peers.
//!
//! Such a kind only implements [`Dump`] and [`Restore`], and [`Alone`] for its place in the images;
//! [`Kind`] makes a [`FileKind`] of it.

use criu_images::{RecordSet, proto};
use criu_resource::{
    BoxError, Descriptor, Dump, DumpContext, Fate, FileDump, FileKind, FileRestore, Restore, RestoreContext,
    Slot,
};
use criu_script::Script;
use std::error::Error;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;

/// The bounds that a stand-alone kind meets.
pub trait Alone: Send + Sync + 'static
where
    Self: for<'a> Dump<Source<'a> = &'a Descriptor<'a>, Error: Error + Send + Sync + 'static>,
    Self: for<'a> Restore<
            Entry = <Self as Dump>::Entry,
            Context<'a> = (),
            Object = OwnedFd,
            Error: Error + Send + Sync + 'static,
        >,
{
    /// Name for messages.
    const NAME: &'static str;
    /// Its number in the images.
    const TYPE: proto::FdTypes;
    /// Whether the descriptor is of this kind.
    fn claims(descriptor: &Descriptor<'_>) -> bool;
    /// Puts the entry into its field of `file_entry`.
    fn wrap(entry: <Self as Dump>::Entry, file: &mut proto::FileEntry);
    /// Takes it from there.
    fn unwrap(file: &proto::FileEntry) -> Option<&<Self as Dump>::Entry>;
    /// Adds what only its holder can do, where the kind needs it: all descriptors of the task are in place.
    fn steps(entry: &<Self as Dump>::Entry, number: i32, script: &mut Script) {
        let _ = (entry, number, script);
    }
}

/// A `file_entry` with none of its kinds filled in.
pub fn file_entry(kind: proto::FdTypes, id: u32) -> proto::FileEntry {
    proto::FileEntry { r#type: kind as i32, id, ..Default::default() }
}

/// A stand-alone kind as a [`FileKind`].
pub struct Kind<K>(PhantomData<fn() -> K>);

impl<K> Kind<K> {
    /// The kind.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Kind(PhantomData)
    }
}

impl<K: Alone> FileKind for Kind<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn types(&self) -> &'static [proto::FdTypes] {
        &[K::TYPE]
    }

    fn claims(&self, descriptor: &Descriptor<'_>) -> bool {
        K::claims(descriptor)
    }

    fn dump<'t>(&'t self, _: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(Kind::<K>::new())
    }

    fn restore<'t>(&'t self, _: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        Ok(Box::new(Kind::<K>::new()))
    }
}

impl<K: Alone> FileDump for Kind<K> {
    fn lock(&mut self, _: &Descriptor<'_>) -> Result<(), BoxError> {
        Ok(())
    }

    fn entry(
        &mut self,
        descriptor: &Descriptor<'_>,
        _: &mut RecordSet,
    ) -> Result<proto::FileEntry, BoxError> {
        let mut file = file_entry(K::TYPE, descriptor.id);
        K::wrap(K::dump(descriptor)?, &mut file);
        Ok(file)
    }

    fn finish(&mut self, _: &dyn Fn(i32, i32) -> Option<u32>, _: &mut RecordSet) -> Result<(), BoxError> {
        Ok(())
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<K: Alone> FileRestore for Kind<K> {
    fn plan(&mut self, entry: &proto::FileEntry) -> Result<(), BoxError> {
        K::unwrap(entry).map(drop).ok_or_else(|| missing(entry))
    }

    fn open(&mut self, entry: &proto::FileEntry) -> Result<OwnedFd, BoxError> {
        let entry = K::unwrap(entry).ok_or_else(|| missing(entry))?;
        Ok(<K as Restore>::restore(entry, ())?)
    }

    fn connect(&mut self, _: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), BoxError> {
        Ok(())
    }

    fn steps(&mut self, entry: &proto::FileEntry, slot: Slot, script: &mut Script) -> Result<(), BoxError> {
        K::steps(K::unwrap(entry).ok_or_else(|| missing(entry))?, slot.number, script);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// The error for a `file_entry` whose type and contents contradict each other.
pub fn missing(entry: &proto::FileEntry) -> BoxError {
    format!("files.img: the entry with id {:#x} says type {} but has no such part", entry.id, entry.r#type)
        .into()
}
