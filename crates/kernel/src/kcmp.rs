//! Whether two tasks share a kernel object: kcmp(2), Linux 3.5, `CONFIG_KCMP`.
//!
//! The kernel answers with an order, not just with equal or not, so objects can be kept in a
//! search tree: [`FileIds`] gives every open file description a number in `n log n` comparisons.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::Hash;
use std::os::fd::RawFd;

use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

/// What two tasks may have in common as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Kind {
    /// The address space (`CLONE_VM`).
    Vm = 1,
    /// The descriptor table (`CLONE_FILES`).
    Files = 2,
    /// Working directory, root and umask (`CLONE_FS`).
    Fs = 3,
    /// Signal actions (`CLONE_SIGHAND`).
    SigHand = 4,
    /// The I/O context (`CLONE_IO`).
    Io = 5,
    /// The list of System V semaphore undo operations (`CLONE_SYSVSEM`).
    SysVSem = 6,
}

const KCMP_FILE: i32 = 0;
const KCMP_EPOLL_TFD: i32 = 7;

/// Names one target of an epoll descriptor of the second task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct EpollSlot {
    /// The epoll descriptor.
    pub efd: u32,
    /// The target's descriptor number, as `fdinfo` shows it.
    pub tfd: u32,
    /// Which of several targets of that number, from 0.
    pub toff: u32,
}

fn kcmp(first: Pid, second: Pid, kind: i32, a: u64, b: u64) -> Result<Ordering> {
    // SAFETY: only KCMP_EPOLL_TFD follows a pointer (`b`), and `epoll_target` passes a valid one.
    let answer = unsafe { libc::syscall(libc::SYS_kcmp, first.as_raw(), second.as_raw(), kind, a, b) };
    match Errno::result(answer)? {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        // "Not equal, and no order": the kernel documents it but has never returned it.
        _ => Err(Errno::ENOTSUP),
    }
}

/// Compares a whole-task object. Needs ptrace access to both tasks.
pub fn compare(kind: Kind, first: Pid, second: Pid) -> Result<Ordering> {
    kcmp(first, second, kind as i32, 0, 0)
}

/// Whether both tasks share the object.
pub fn same(kind: Kind, first: Pid, second: Pid) -> Result<bool> {
    compare(kind, first, second).map(Ordering::is_eq)
}

/// Compares two open file descriptions. Fails with `EBADF` where a descriptor is not open.
pub fn file(first: (Pid, RawFd), second: (Pid, RawFd)) -> Result<Ordering> {
    kcmp(first.0, second.0, KCMP_FILE, first.1 as u64, second.1 as u64)
}

/// Compares an open file description with the target of an epoll descriptor (Linux 4.13).
pub fn epoll_target(first: (Pid, RawFd), second: Pid, slot: &EpollSlot) -> Result<Ordering> {
    let slot = std::ptr::from_ref(slot) as u64;
    kcmp(first.0, second, KCMP_EPOLL_TFD, first.1 as u64, slot)
}

/// A descriptor's number in a [`FileIds`] set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// The number of the open file description, from 0 in order of appearance.
    pub id: u32,
    /// Whether this description was seen for the first time.
    pub first: bool,
}

/// Gives each open file description a number, however many descriptors of however many tasks
/// refer to it.
///
/// `hint` is anything cheap that equal descriptions have in common (device, inode, flags,
/// position); only descriptions of equal hint are compared.
#[derive(Debug)]
pub struct FileIds<H> {
    /// Per hint, sorted by the kernel's order: where a description was first seen, and its number.
    buckets: HashMap<H, Vec<(Pid, RawFd, u32)>>,
    next: u32,
}

impl<H> Default for FileIds<H> {
    fn default() -> Self {
        Self { buckets: HashMap::new(), next: 0 }
    }
}

impl<H: Hash + Eq> FileIds<H> {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many distinct descriptions there are.
    pub fn len(&self) -> usize {
        self.next as usize
    }

    /// Whether none was inserted yet.
    pub fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// Finds or adds the description behind a descriptor. The tasks must not close the
    /// descriptors inserted before (so: be stopped).
    pub fn insert(&mut self, hint: H, pid: Pid, fd: RawFd) -> Result<FileId> {
        let bucket = self.buckets.entry(hint).or_default();
        let (mut low, mut high) = (0, bucket.len());
        while low < high {
            let middle = low.midpoint(high);
            let (p, f, id) = bucket[middle];
            match file((pid, fd), (p, f))? {
                Ordering::Equal => return Ok(FileId { id, first: false }),
                Ordering::Less => high = middle,
                Ordering::Greater => low = middle + 1,
            }
        }
        let id = self.next;
        self.next += 1;
        bucket.insert(low, (pid, fd, id));
        Ok(FileId { id, first: true })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

    use super::*;

    #[test]
    fn a_task_shares_all_with_itself() {
        let me = Pid::this();
        for kind in [Kind::Vm, Kind::Files, Kind::Fs, Kind::SigHand, Kind::Io, Kind::SysVSem] {
            assert!(same(kind, me, me).unwrap(), "{kind:?}");
        }
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let shared = same(Kind::Vm, me, Pid::from_raw(child.id() as i32));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!shared.unwrap());
    }

    #[test]
    fn descriptions_are_numbered_once() {
        let me = Pid::this();
        let files: Vec<File> = (0..50).map(|_| File::open("/dev/null").unwrap()).collect();
        let copies: Vec<File> = files.iter().map(|f| f.try_clone().unwrap()).collect();
        let mut ids = FileIds::new();
        for (n, file) in files.iter().enumerate() {
            let id = ids.insert("null", me, file.as_raw_fd()).unwrap();
            assert_eq!(id, FileId { id: n as u32, first: true });
        }
        for (n, copy) in copies.iter().enumerate() {
            let id = ids.insert("null", me, copy.as_raw_fd()).unwrap();
            assert_eq!(id, FileId { id: n as u32, first: false });
        }
        assert_eq!(ids.len(), 50);
        assert_eq!(ids.insert("null", me, 1_000_000).unwrap_err(), Errno::EBADF);
    }

    #[test]
    fn epoll_knows_its_target() {
        let me = Pid::this();
        let (target, _writer) = nix::unistd::pipe().unwrap();
        let other = File::open("/dev/null").unwrap();
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        epoll.add(&target, EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
        let slot = EpollSlot { efd: epoll.0.as_raw_fd() as u32, tfd: target.as_raw_fd() as u32, toff: 0 };
        assert!(epoll_target((me, target.as_raw_fd()), me, &slot).unwrap().is_eq());
        assert!(epoll_target((me, other.as_raw_fd()), me, &slot).unwrap().is_ne());
    }
}
