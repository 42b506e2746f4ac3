//! Signals read from a descriptor: signalfd(2).

use crate::alone::Alone;
use crate::{fown, observed, sys};
use criu_images::proto;
use criu_resource::{Descriptor, Dump, Restore};
use nix::errno::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A signalfd: the set of signals that it reads. Those that wait belong to the tasks, not to it.
#[derive(Debug)]
pub struct Signalfd;

/// What can go wrong with a signalfd.
#[derive(Debug, thiserror::Error)]
pub enum SignalfdError {
    /// The descriptor's fdinfo lacks the signals.
    #[error("fdinfo has no valid sigmask line")]
    Mask,
    /// A system call failed on restore.
    #[error("{0} for the signals {1:#x}: {2}")]
    Call(&'static str, u64, Errno),
}

impl Dump for Signalfd {
    type Source<'a> = &'a Descriptor<'a>;
    type Entry = proto::SignalfdEntry;
    type Error = SignalfdError;

    fn dump(source: &Descriptor<'_>) -> Result<Self::Entry, SignalfdError> {
        let sigmask = observed::line(source.extra, "sigmask")
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .ok_or(SignalfdError::Mask)?;
        Ok(proto::SignalfdEntry { id: source.id, flags: source.flags, fown: source.fown, sigmask })
    }
}

impl Restore for Signalfd {
    type Entry = proto::SignalfdEntry;
    type Context<'a> = ();
    type Object = OwnedFd;
    type Error = SignalfdError;

    fn restore(entry: &Self::Entry, (): ()) -> Result<OwnedFd, SignalfdError> {
        let call = |call| move |errno| SignalfdError::Call(call, entry.sigmask, errno);
        let fd = sys::signalfd(entry.sigmask, libc::SFD_CLOEXEC).map_err(call("signalfd4"))?;
        fown::prepare(fd.as_fd(), &entry.fown, entry.flags).map_err(call("fcntl"))?;
        Ok(fd)
    }
}

impl Alone for Signalfd {
    const NAME: &'static str = "signalfd";
    const TYPE: proto::FdTypes = proto::FdTypes::Signalfd;

    fn claims(descriptor: &Descriptor<'_>) -> bool {
        descriptor.link == Path::new("anon_inode:[signalfd]")
    }

    fn wrap(entry: proto::SignalfdEntry, file: &mut proto::FileEntry) {
        file.sgfd = Some(entry);
    }

    fn unwrap(file: &proto::FileEntry) -> Option<&proto::SignalfdEntry> {
        file.sgfd.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Observed;

    #[test]
    fn real_time_signals_and_flags() {
        let mask = 1 << (libc::SIGUSR1 - 1) | 1 << 39;
        let fd = sys::signalfd(mask, libc::SFD_NONBLOCK).unwrap();
        let look = |fd: &OwnedFd| {
            let seen = Observed::own(fd.as_fd()).unwrap();
            let descriptor = seen.view(fd.as_fd(), 4);
            assert!(Signalfd::claims(&descriptor));
            Signalfd::dump(&descriptor).unwrap()
        };
        let entry = look(&fd);
        assert_eq!(entry.sigmask, mask);
        assert_eq!(look(&Signalfd::restore(&entry, ()).unwrap()), entry);
    }
}
