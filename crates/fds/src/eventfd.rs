//! Event counters: eventfd(2).

use crate::alone::Alone;
use crate::{fown, observed};
use criu_images::proto;
use criu_resource::{Descriptor, Dump, Restore};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// EFD_SEMAPHORE has no field of its own in the image. It is the lowest bit, which in the flags of a
/// description is part of an access mode that no eventfd has; other readers of the image ignore it.
const SEMAPHORE: u32 = libc::EFD_SEMAPHORE as u32;

/// An eventfd: its counter, its flags, and whether it is a semaphore (Linux 6.5 tells).
#[derive(Debug)]
pub struct Eventfd;

/// What can go wrong with an eventfd.
#[derive(Debug, thiserror::Error)]
pub enum EventfdError {
    /// The descriptor's fdinfo lacks its counter.
    #[error("fdinfo has no valid eventfd-count line")]
    Counter,
    /// A system call failed on restore.
    #[error("{call} for counter {counter}: {errno}")]
    Call {
        /// Which.
        call: &'static str,
        /// The counter to be set.
        counter: u64,
        /// Why.
        errno: Errno,
    },
}

impl Dump for Eventfd {
    type Source<'a> = &'a Descriptor<'a>;
    type Entry = proto::EventfdFileEntry;
    type Error = EventfdError;

    fn dump(source: &Descriptor<'_>) -> Result<Self::Entry, EventfdError> {
        let counter = observed::line(source.extra, "eventfd-count")
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .ok_or(EventfdError::Counter)?;
        let semaphore = observed::line(source.extra, "eventfd-semaphore") == Some("1");
        Ok(proto::EventfdFileEntry {
            id: source.id,
            flags: source.flags | if semaphore { SEMAPHORE } else { 0 },
            fown: source.fown,
            counter,
        })
    }
}

impl Restore for Eventfd {
    type Entry = proto::EventfdFileEntry;
    type Context<'a> = ();
    type Object = OwnedFd;
    type Error = EventfdError;

    fn restore(entry: &Self::Entry, (): ()) -> Result<OwnedFd, EventfdError> {
        let call = |call| move |errno| EventfdError::Call { call, counter: entry.counter, errno };
        let mut flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        flags.set(EfdFlags::EFD_SEMAPHORE, entry.flags & SEMAPHORE != 0);
        let event = EventFd::from_flags(flags).map_err(call("eventfd"))?;
        if entry.counter != 0 {
            event.write(entry.counter).map_err(call("write"))?;
        }
        fown::prepare(event.as_fd(), &entry.fown, entry.flags).map_err(call("fcntl"))?;
        Ok(event.into())
    }
}

impl Alone for Eventfd {
    const NAME: &'static str = "eventfd";
    const TYPE: proto::FdTypes = proto::FdTypes::Eventfd;

    fn claims(descriptor: &Descriptor<'_>) -> bool {
        descriptor.link == Path::new("anon_inode:[eventfd]")
    }

    fn wrap(entry: proto::EventfdFileEntry, file: &mut proto::FileEntry) {
        file.efd = Some(entry);
    }

    fn unwrap(file: &proto::FileEntry) -> Option<&proto::EventfdFileEntry> {
        file.efd.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Observed;
    use std::fs::File;
    use std::io::Read;

    fn round_trip(event: &EventFd) -> (proto::EventfdFileEntry, OwnedFd) {
        let seen = Observed::own(event.as_fd()).unwrap();
        let descriptor = seen.view(event.as_fd(), 3);
        assert!(Eventfd::claims(&descriptor));
        let entry = Eventfd::dump(&descriptor).unwrap();
        let fd = Eventfd::restore(&entry, ()).unwrap();
        (entry, fd)
    }

    #[test]
    fn counter_beyond_32_bits_and_flags() {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        event.write(0x1_2345_6789).unwrap();
        let (entry, fd) = round_trip(&event);
        assert_eq!(entry.counter, 0x1_2345_6789);
        let again = Eventfd::dump(&Observed::own(fd.as_fd()).unwrap().view(fd.as_fd(), 3)).unwrap();
        assert_eq!(again, entry);
        let mut word = [0; 8];
        let mut file = File::from(fd);
        file.read_exact(&mut word).unwrap();
        assert_eq!(u64::from_ne_bytes(word), 0x1_2345_6789);
        let error = file.read(&mut word).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn semaphore_stays_one() {
        let event = EventFd::from_value_and_flags(2, EfdFlags::EFD_SEMAPHORE).unwrap();
        let (entry, fd) = round_trip(&event);
        assert_eq!(entry.flags & libc::O_ACCMODE as u32, 3);
        let mut word = [0; 8];
        File::from(fd).read_exact(&mut word).unwrap();
        assert_eq!(u64::from_ne_bytes(word), 1);
    }

    #[test]
    fn fdinfo_of_something_else_is_refused() {
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        let seen = Observed::own(reader.as_fd()).unwrap();
        let descriptor = seen.view(reader.as_fd(), 1);
        assert!(!Eventfd::claims(&descriptor));
        assert!(matches!(Eventfd::dump(&descriptor), Err(EventfdError::Counter)));
    }
}
