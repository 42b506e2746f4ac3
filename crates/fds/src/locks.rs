//! File locks: flock(2), POSIX and open-file-description locks (fcntl(2)), leases.
//!
//! Whoever holds one is told in the fdinfo of its descriptors. The tasks take them again themselves, when
//! all else is done with their descriptors.

use crate::observed::{self, Observed};
use criu_images::proto::FileLockEntry;
use criu_kernel::kcmp::FileId;
use criu_resource::BoxError;
use criu_script::{Check, Script};
use nix::errno::Errno;
use std::collections::HashSet;
use std::os::fd::{AsRawFd, BorrowedFd};

const POSIX: u32 = 1;
const FLOCK: u32 = 2;
const OFD: u32 = 4;
const LEASE: u32 = 8;
/// Added to a lease's type while its holder is asked to give it back.
const BREAKING: u32 = 4;

/// A lock that cannot be stored or taken again.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The user did not allow it.
    #[error("it holds a file lock ({0}); use --file-locks to dump it")]
    Dump(String),
    /// The images hold locks, but restoring them was not allowed.
    #[error("the images hold {0} file locks; use --file-locks to restore them")]
    Restore(usize),
    /// The kernel's line has an unknown form.
    #[error("unknown kind of file lock: {0:?}")]
    Line(String),
    /// A lease's type cannot be asked.
    #[error("fcntl(F_GETLEASE): {0}")]
    Lease(Errno),
}

/// The locks of a tree.
#[derive(Debug)]
pub(crate) struct Locks {
    allowed: bool,
    entries: Vec<FileLockEntry>,
    /// Descriptions that a task was seen with.
    seen: HashSet<(i32, u32)>,
}

impl Locks {
    /// None yet; `allowed` as the user said.
    pub fn new(allowed: bool) -> Locks {
        Locks { allowed, entries: Vec::new(), seen: HashSet::new() }
    }

    /// Takes note of the locks that a descriptor's fdinfo tells.
    pub fn note(
        &mut self,
        ns_pid: i32,
        file: FileId,
        number: i32,
        observed: &Observed,
        fd: BorrowedFd<'_>,
    ) -> Result<(), LockError> {
        let mut lines = observed::lines(&observed.extra, "lock").peekable();
        if lines.peek().is_none() {
            return Ok(());
        }
        let first_of_task = self.seen.insert((ns_pid, file.id));
        for line in lines {
            let mut lock = parse(line)?;
            // A POSIX lock belongs to one process, all others to the description.
            let counts = if lock.flag == POSIX { first_of_task } else { file.first };
            if !counts {
                continue;
            }
            if !self.allowed {
                return Err(LockError::Dump(line.to_owned()));
            }
            if lock.flag == LEASE && lock.r#type & BREAKING != 0 {
                // What the holder is asked to come down to.
                // SAFETY: takes no argument.
                let target = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETLEASE) };
                lock.r#type = BREAKING | Errno::result(target).map_err(LockError::Lease)? as u32;
            }
            self.entries.push(FileLockEntry { pid: ns_pid, fd: number, ..lock });
        }
        Ok(())
    }

    /// All of them.
    pub fn entries(&self) -> impl Iterator<Item = &FileLockEntry> {
        self.entries.iter()
    }
}

/// `1: POSIX  ADVISORY  WRITE 4242 fe:00:1234 0 EOF`
fn parse(line: &str) -> Result<FileLockEntry, LockError> {
    let wrong = || LockError::Line(line.to_owned());
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[_, kind, state, access, _, _, start, end] = words.as_slice() else { return Err(wrong()) };
    let flag = match kind {
        "POSIX" => POSIX,
        "FLOCK" => FLOCK,
        "OFDLCK" => OFD,
        "LEASE" => LEASE,
        _ => return Err(wrong()),
    };
    let access = match access {
        "READ" => libc::F_RDLCK,
        "WRITE" => libc::F_WRLCK,
        "UNLCK" => libc::F_UNLCK,
        _ => return Err(wrong()),
    } as u32;
    let breaking = if flag == LEASE && state == "BREAKING" { BREAKING } else { 0 };
    let start: i64 = start.parse().map_err(|_| wrong())?;
    let len = match end {
        "EOF" => 0,
        end => end.parse::<i64>().map_err(|_| wrong())? + 1 - start,
    };
    Ok(FileLockEntry { flag, r#type: access | breaking, pid: 0, fd: 0, start, len })
}

/// Adds the steps that take a lock again, on a description with these flags, which signals `signal` (0 for
/// SIGIO).
pub(crate) fn steps(
    lock: &FileLockEntry,
    flags: u32,
    signal: u32,
    script: &mut Script,
) -> Result<(), BoxError> {
    let fd = lock.fd;
    let access = lock.r#type as i32;
    match lock.flag {
        FLOCK => {
            let operation = match access {
                libc::F_RDLCK => libc::LOCK_SH,
                libc::F_WRLCK => libc::LOCK_EX,
                libc::F_UNLCK => libc::LOCK_UN,
                _ => return Err(format!("filelocks.img: flock of unknown type {access:#x}").into()),
            };
            script.syscall(libc::SYS_flock, [fd.into(), (operation | libc::LOCK_NB).into()]);
        }
        POSIX | OFD => {
            let command = if lock.flag == POSIX { libc::F_SETLK } else { libc::F_OFD_SETLK };
            let range = script.bytes(&range(lock));
            script.syscall(libc::SYS_fcntl, [fd.into(), command.into(), range.into()]);
        }
        LEASE if lock.r#type & BREAKING == 0 => {
            script.syscall(libc::SYS_fcntl, [fd.into(), libc::F_SETLEASE.into(), access.into()]);
        }
        LEASE => {
            breaking_lease(fd, lock.r#type & !BREAKING, flags, script);
            swallow(signal, script);
        }
        flag => return Err(format!("filelocks.img: lock of unknown kind {flag}").into()),
    }
    Ok(())
}

/// `struct flock`: type, whence, start, length, pid.
fn range(lock: &FileLockEntry) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&(lock.r#type as i16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&(libc::SEEK_SET as i16).to_ne_bytes());
    bytes[8..16].copy_from_slice(&lock.start.to_ne_bytes());
    bytes[16..24].copy_from_slice(&lock.len.to_ne_bytes());
    bytes
}

/// A lease that somebody else's open(2) waits for: taken, then broken by an attempt to open the file.
fn breaking_lease(fd: i32, target: u32, flags: u32, script: &mut Script) {
    let read_only = flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32;
    let held = if read_only { libc::F_RDLCK } else { libc::F_WRLCK };
    let attempt = if target == libc::F_UNLCK as u32 { libc::O_WRONLY } else { libc::O_RDONLY };
    script.syscall(libc::SYS_fcntl, [fd.into(), libc::F_SETLEASE.into(), held.into()]);
    let path = script.c_string(format!("/proc/self/fd/{fd}").as_bytes());
    let flags = attempt | libc::O_NONBLOCK;
    script
        .syscall(libc::SYS_openat, [libc::AT_FDCWD.into(), path.into(), flags.into()])
        .check(Check::Eq(-i64::from(libc::EWOULDBLOCK)));
}

/// Takes away the signal that told the holder of the break: it was sent before the dump.
fn swallow(signal: u32, script: &mut Script) {
    let signal = if signal == 0 { libc::SIGIO as u32 } else { signal };
    let set = script.words(&[1 << (signal - 1)]);
    let now = script.words(&[0, 0]);
    let args = [set.into(), 0.into(), now.into(), 8.into()];
    script.syscall(libc::SYS_rt_sigtimedwait, args).check(Check::Any);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stopped, dump, keep, round_trip, table};
    use criu_resource::{Fate, Options};
    use std::fs::{self, File, OpenOptions};
    use std::os::fd::AsFd;

    #[test]
    fn lines() {
        let lock = parse("1: POSIX  ADVISORY  WRITE 42 fe:00:12 10 19").unwrap();
        assert_eq!((lock.flag, lock.r#type, lock.start, lock.len), (POSIX, 1, 10, 10));
        let lock = parse("2: LEASE  BREAKING  READ 42 fe:00:12 0 EOF").unwrap();
        assert_eq!((lock.flag, lock.r#type, lock.len), (LEASE, BREAKING, 0));
        assert!(matches!(parse("1: DELEG  ACTIVE  READ 1 0:0:0 0 EOF"), Err(LockError::Line(_))));
    }

    fn set(file: &File, command: i32, access: i32, start: i64, len: i64) {
        let lock = FileLockEntry { r#type: access as u32, start, len, ..Default::default() };
        let range = range(&lock);
        // SAFETY: the kernel reads a `struct flock`.
        Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), command, range.as_ptr()) }).unwrap();
    }

    fn locks_of(pid: i32) -> Vec<String> {
        let mut found = Vec::new();
        for number in 3..20 {
            let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
            for line in observed::lines(&text, "lock") {
                let lock = parse(line).unwrap();
                found.push(format!("{number}: {} {} {}+{}", lock.flag, lock.r#type, lock.start, lock.len));
            }
        }
        found
    }

    #[test]
    fn every_kind_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let owner = std::process::id();
        let task = Stopped::after(|| {
            let open = |name| {
                let path = directory.path().join(name);
                OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).unwrap()
            };
            let file = open("posix");
            set(&file, libc::F_SETLK, libc::F_WRLCK, 5, 10);
            set(&file, libc::F_SETLK, libc::F_RDLCK, 100, 0);
            keep(file, 3);
            let file = open("ofd");
            set(&file, libc::F_OFD_SETLK, libc::F_WRLCK, 7, 1);
            keep(file.try_clone().unwrap(), 5);
            keep(file, 4);
            let file = open("flock");
            // SAFETY: two integers.
            Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH) }).unwrap();
            keep(file, 6);
            drop(open("lease"));
            let file = File::open(directory.path().join("lease")).unwrap();
            // The task itself would be the owner, and is another one in this test after the restore.
            // SAFETY: two integers.
            Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETOWN, owner) }).unwrap();
            // SAFETY: two integers.
            Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) }).unwrap();
            keep(file, 7);
        });
        let before = locks_of(task.0);
        let expected =
            ["3: 1 1 5+10", "3: 1 0 100+0", "4: 4 1 7+1", "5: 4 1 7+1", "6: 2 0 0+0", "7: 8 0 0+0"];
        assert_eq!(before, expected);
        let error = dump(&table(), &[task.0], &Options::default(), Fate::Run).unwrap_err().to_string();
        assert!(error.contains("--file-locks") && error.contains("fd 3"), "{error}");
        let again = round_trip(task, &Options { file_locks: true, ..Options::default() });
        assert_eq!(locks_of(again.0), expected);
    }

    #[test]
    fn a_lease_being_broken_is_still_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lease");
        fs::write(&path, "x").unwrap();
        let task = Stopped::after(|| {
            let file = File::open(&path).unwrap();
            // SAFETY: two integers.
            Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) }).unwrap();
            // The signal that tells of the break must not end this test process.
            // SAFETY: ignores a signal.
            unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
            use std::os::unix::fs::OpenOptionsExt;
            let attempt = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
            assert_eq!(attempt.unwrap_err().raw_os_error(), Some(libc::EWOULDBLOCK));
            keep(file, 7);
        });
        let mut noted = Locks::new(true);
        let fd = task.fd(7);
        let seen = Observed {
            extra: fs::read_to_string(format!("/proc/{}/fdinfo/7", task.0)).unwrap(),
            ..Observed::own(fd.as_fd()).unwrap()
        };
        noted.note(1, FileId { id: 0, first: true }, 7, &seen, fd.as_fd()).unwrap();
        assert_eq!(noted.entries[0].r#type, BREAKING | libc::F_UNLCK as u32);
        let mut script = Script::new("test");
        steps(&noted.entries[0], 0, 0, &mut script).unwrap();
        let checks: Vec<Check> = script.steps().iter().map(|step| step.check).collect();
        assert_eq!(checks, [Check::Ok, Check::Eq(-11), Check::Any]);
    }
}
