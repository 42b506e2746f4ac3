//! Kinds whose sockets stand alone: no peers, no queues, nothing to be locked.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use criu_images::{RecordSet, proto};
use criu_kernel::sockdiag::SockDiag;
use criu_resource::{BoxError, Descriptor, Fate, FileDump, FileRestore, Slot};
use criu_script::Script;

use crate::error::{About, Called, Error, Result};
use crate::tree::Home;

/// One such kind.
pub(crate) trait Lone {
    /// Name for messages.
    const NAME: &'static str;
    /// What sock_diag(7) says of a socket.
    type Seen;
    /// Asks for all sockets of the kind: each with its inode.
    fn ask(diag: &SockDiag) -> nix::Result<Vec<(u64, Self::Seen)>>;
    /// The entry of a socket; `seen` is missing where sock_diag(7) does not show it.
    fn dump(descriptor: &Descriptor<'_>, seen: Option<&Self::Seen>) -> Result<proto::FileEntry>;
    /// Checks an entry.
    fn check(entry: &proto::FileEntry) -> Result<()>;
    /// Makes the socket.
    fn open(entry: &proto::FileEntry) -> Result<OwnedFd>;
}

/// A dump of all sockets of a kind.
pub(crate) struct LoneDump<K: Lone> {
    home: Home,
    /// Asked once.
    seen: Option<HashMap<u64, K::Seen>>,
}

impl<K: Lone> LoneDump<K> {
    pub fn new() -> Self {
        Self { home: Home::default(), seen: None }
    }

    fn seen(&mut self) -> Result<&HashMap<u64, K::Seen>> {
        let seen = match self.seen.take() {
            Some(seen) => seen,
            None => {
                let found = SockDiag::open().and_then(|diag| K::ask(&diag)).called("sock_diag")?;
                found.into_iter().collect()
            }
        };
        Ok(self.seen.insert(seen))
    }
}

impl<K: Lone> FileDump for LoneDump<K> {
    fn lock(&mut self, descriptor: &Descriptor<'_>) -> Result<(), BoxError> {
        let checked = self.home.check(descriptor.fd);
        Ok(checked.about(|| format!("{} socket {}", K::NAME, descriptor.ino))?)
    }

    fn entry(
        &mut self,
        descriptor: &Descriptor<'_>,
        _: &mut RecordSet,
    ) -> Result<proto::FileEntry, BoxError> {
        let entry = self.seen().and_then(|seen| K::dump(descriptor, seen.get(&descriptor.ino)));
        Ok(entry.about(|| format!("{} socket {}", K::NAME, descriptor.ino))?)
    }

    fn finish(&mut self, _: &dyn Fn(i32, i32) -> Option<u32>, _: &mut RecordSet) -> Result<(), BoxError> {
        Ok(())
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        Ok(())
    }
}

/// A restore of all sockets of a kind.
pub(crate) struct LoneRestore<K: Lone>(std::marker::PhantomData<K>);

impl<K: Lone> LoneRestore<K> {
    pub fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<K: Lone> FileRestore for LoneRestore<K> {
    fn plan(&mut self, entry: &proto::FileEntry) -> Result<(), BoxError> {
        Ok(K::check(entry).about(|| format!("{} socket {:#x}", K::NAME, entry.id))?)
    }

    fn open(&mut self, entry: &proto::FileEntry) -> Result<OwnedFd, BoxError> {
        Ok(K::open(entry).about(|| format!("{} socket {:#x}", K::NAME, entry.id))?)
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

/// The error of an entry of another kind.
pub(crate) fn foreign(entry: &proto::FileEntry, kind: &str) -> Error {
    Error::Corrupt(format!("file {:#x} is no {kind} socket", entry.id))
}
