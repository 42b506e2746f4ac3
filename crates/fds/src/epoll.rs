//! Readiness of many files: epoll(7).
//!
//! The images tell a target by its number in the holder's table. One that the holder closed and others have open
//! is still watched; such targets stand apart, see [`kind`].

mod kind;

use crate::{fown, observed};
use criu_images::proto::{EventpollFileEntry, EventpollTfdEntry};
use criu_kernel::kcmp::{self, EpollSlot};
use criu_kernel::proc::ProcDir;
use criu_kernel::{Pid, ProcError};
use criu_resource::{Descriptor, Dump, Restore};
use criu_script::Script;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};

/// Size of the kernel's packed `struct epoll_event` on x86-64.
const EVENT_SIZE: usize = 12;

/// An epoll descriptor and what it watches. A target is told by its number in the holder's table.
#[derive(Debug)]
pub struct Eventpoll;

/// What can go wrong with an epoll descriptor.
#[derive(Debug, thiserror::Error)]
pub enum EpollError {
    /// fdinfo has an unknown form.
    #[error("fdinfo has no valid tfd line: {0:?}")]
    Line(String),
    /// The target is open in no descriptor of the tree.
    #[error("it watches descriptor {target}, which pid {pid} closed and no task of the tree has open")]
    Closed {
        /// The holder.
        pid: i32,
        /// The number it was added with.
        target: i32,
    },
    /// The holder's table cannot be read.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// A system call failed.
    #[error("{0}: {1}")]
    Call(&'static str, Errno),
}

impl Dump for Eventpoll {
    type Source<'a> = &'a Descriptor<'a>;
    type Entry = EventpollFileEntry;
    type Error = EpollError;

    fn dump(source: &Descriptor<'_>) -> Result<Self::Entry, EpollError> {
        let (entry, closed) = look(source)?;
        match closed.first() {
            Some(closed) => Err(EpollError::Closed { pid: source.pid, target: closed.slot.tfd as i32 }),
            None => Ok(entry),
        }
    }
}

/// A target that the holder has closed.
#[derive(Debug)]
struct Closed {
    /// It as fdinfo shows it.
    entry: EventpollTfdEntry,
    slot: EpollSlot,
}

/// The entry of a descriptor, and what it lacks.
fn look(source: &Descriptor<'_>) -> Result<(EventpollFileEntry, Vec<Closed>), EpollError> {
    let mut seen: HashMap<u32, u32> = HashMap::new();
    let (mut tfd, mut closed) = (Vec::new(), Vec::new());
    for line in observed::lines(source.extra, "tfd") {
        let mut entry = parse(source.id, line)?;
        // The same number may stand for several files, one after the other.
        let nth = seen.entry(entry.tfd).or_default();
        let slot = EpollSlot { efd: source.fd.as_raw_fd() as u32, tfd: entry.tfd, toff: *nth };
        *nth += 1;
        match number(source.pid, &slot, entry.inode())? {
            Some(number) => {
                entry.tfd = number as u32;
                tfd.push(entry);
            }
            None => closed.push(Closed { entry, slot }),
        }
    }
    Ok((EventpollFileEntry { id: source.id, flags: source.flags, fown: source.fown, tfd }, closed))
}

/// `5 events:       19 data:  5  pos:0 ino:61 sdev:9`
fn parse(id: u32, line: &str) -> Result<EventpollTfdEntry, EpollError> {
    let wrong = || EpollError::Line(line.to_owned());
    let mut words = line.split([' ', ':']).filter(|word| !word.is_empty());
    let tfd = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
    let mut field = |key: &str, radix| -> Result<u64, EpollError> {
        let value = (words.next() == Some(key)).then(|| words.next()).flatten();
        value.and_then(|value| u64::from_str_radix(value, radix).ok()).ok_or_else(wrong)
    };
    Ok(EventpollTfdEntry {
        id,
        tfd,
        events: field("events", 16)? as u32,
        data: field("data", 16)?,
        // Linux 4.13.
        pos: Some(field("pos", 10)?),
        inode: Some(field("ino", 16)?),
        dev: Some(field("sdev", 16)? as u32),
        file_id: None,
    })
}

/// A descriptor of `pid` that is the target: the one it was added with, or another if that was closed. The
/// epoll descriptor of `slot` is one of criu-rs.
fn number(pid: i32, slot: &EpollSlot, inode: u64) -> Result<Option<i32>, EpollError> {
    let (task, own) = (Pid::from_raw(pid), nix::unistd::getpid());
    let is_target = |fd: i32| match kcmp::epoll_target((task, fd), own, slot) {
        Ok(order) => Ok(order.is_eq()),
        Err(Errno::EBADF) => Ok(false),
        Err(errno) => Err(EpollError::Call("kcmp(KCMP_EPOLL_TFD)", errno)),
    };
    if is_target(slot.tfd as i32)? {
        return Ok(Some(slot.tfd as i32));
    }
    let proc = ProcDir::open(task)?;
    for fd in proc.descriptors()? {
        let path = format!("fd/{fd}");
        let stat = nix::sys::stat::fstatat(&proc, path.as_str(), nix::fcntl::AtFlags::empty());
        if stat.is_ok_and(|stat| stat.st_ino == inode) && is_target(fd)? {
            return Ok(Some(fd));
        }
    }
    Ok(None)
}

impl Restore for Eventpoll {
    type Entry = EventpollFileEntry;
    type Context<'a> = ();
    type Object = OwnedFd;
    type Error = EpollError;

    /// The descriptor without its targets: those are added by the holder, or by the caller.
    fn restore(entry: &Self::Entry, (): ()) -> Result<OwnedFd, EpollError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| EpollError::Call("epoll_create1", errno))?;
        let fd = epoll.0;
        fown::prepare(std::os::fd::AsFd::as_fd(&fd), &entry.fown, entry.flags)
            .map_err(|errno| EpollError::Call("fcntl", errno))?;
        Ok(fd)
    }
}

/// Adds steps for the holder, which has all its descriptors: they add the targets.
fn steps(entry: &EventpollFileEntry, number: i32, script: &mut Script) {
    let mut events = Vec::with_capacity(entry.tfd.len() * EVENT_SIZE);
    for target in &entry.tfd {
        events.extend(target.events.to_ne_bytes());
        events.extend(target.data.to_ne_bytes());
    }
    let events = script.bytes(&events);
    for (index, target) in entry.tfd.iter().enumerate() {
        let event = events.part(index * EVENT_SIZE, EVENT_SIZE);
        let args = [number.into(), libc::EPOLL_CTL_ADD.into(), target.tfd.into(), event.into()];
        script.syscall(libc::SYS_epoll_ctl, args);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stopped, keep, round_trip};
    use criu_resource::Options;
    use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
    use nix::sys::eventfd::EventFd;
    use std::os::fd::FromRawFd;

    #[test]
    fn lines_of_fdinfo() {
        let target = parse(1, "     5 events:       19 data: ffffffffffffffff  pos:3 ino:1f sdev:9").unwrap();
        assert_eq!((target.tfd, target.events, target.data), (5, 0x19, u64::MAX));
        assert_eq!((target.pos(), target.inode(), target.dev()), (3, 0x1f, 9));
        assert!(matches!(parse(1, "5 events: x"), Err(EpollError::Line(_))));
    }

    #[test]
    fn nested_renumbered_and_reused_targets() {
        let task = Stopped::after(|| {
            let inner = Epoll::new(EpollCreateFlags::empty()).unwrap();
            let outer = Epoll::new(EpollCreateFlags::empty()).unwrap();
            let (first, second) = (EventFd::from_value(1).unwrap(), EventFd::from_value(0).unwrap());
            let event = |flags, data| EpollEvent::new(flags, data);
            // Added as one number, then known under another, while the first is reused.
            let number = first.as_raw_fd();
            inner.add(&first, event(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 11)).unwrap();
            keep(first, 30);
            // SAFETY: closes the number that `first` had, which `keep` has duplicated.
            unsafe { libc::close(number) };
            // SAFETY: the number is free.
            let reused = unsafe {
                assert_eq!(libc::dup2(second.as_raw_fd(), number), number);
                OwnedFd::from_raw_fd(number)
            };
            inner.add(&reused, event(EpollFlags::EPOLLIN, 22)).unwrap();
            outer.add(&inner.0, event(EpollFlags::EPOLLIN, 33)).unwrap();
            std::mem::forget((reused, second));
            keep(inner.0, 40);
            keep(outer.0, 41);
        });
        let again = round_trip(task, &Options::default());
        let wait = |number| {
            let epoll = Epoll(again.fd(number));
            let mut events = [EpollEvent::empty(); 4];
            let count = epoll.wait(&mut events, EpollTimeout::ZERO).unwrap();
            events[..count].iter().map(EpollEvent::data).collect::<Vec<_>>()
        };
        assert_eq!(wait(41), [33]);
        assert_eq!(wait(40), [11]);
        assert_eq!(wait(40), [0u64; 0], "edge-triggered");
    }
}
