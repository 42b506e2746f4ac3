//! `/proc/PID`: an open directory, and parsers for the files in it (proc(5)).
//!
//! The parsers take text, so that they work without a process; [`ProcDir`] joins both.

mod fdinfo;
mod lists;
mod mountinfo;
mod stat;
mod status;
mod timers;

pub use fdinfo::{FdInfo, parse_pairs};
pub use lists::{parse_auxv, parse_list, parse_number};
pub use mountinfo::{MountInfo, parse_mountinfo};
pub use stat::Stat;
pub use status::Status;
pub use timers::{TimerInfo, TimerNotify, parse_timers};

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::NixPath;
use nix::dir::Dir;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::procmap::{self, Vma};
use crate::{ProcError, ProcResult};

/// An open `/proc/PID` or `/proc/PID/task/TID`.
///
/// Being open, it can not become another process's directory when the pid is used again: all
/// access then fails with `ESRCH` or `ENOENT` ([`ProcError::is_gone`]).
#[derive(Debug)]
pub struct ProcDir {
    dir: OwnedFd,
    path: PathBuf,
}

impl ProcDir {
    /// Opens `/proc/PID`.
    pub fn open(pid: Pid) -> ProcResult<Self> {
        Self::open_path(format!("/proc/{pid}").into())
    }

    /// Opens `/proc/self`.
    pub fn current() -> ProcResult<Self> {
        Self::open_path("/proc/self".into())
    }

    /// Opens any such directory, for example in another mount of procfs.
    pub fn open_path(path: PathBuf) -> ProcResult<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match nix::fcntl::open(&path, flags, Mode::empty()) {
            Ok(dir) => Ok(Self { dir, path }),
            Err(errno) => Err(ProcError::Io { action: "open", path, source: errno.into() }),
        }
    }

    /// Opens `task/TID` below it.
    pub fn thread(&self, tid: Pid) -> ProcResult<Self> {
        let name = format!("task/{tid}");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let dir = self.open_file(name.as_str(), flags)?;
        Ok(Self { dir, path: self.path.join(name) })
    }

    /// Its path, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn error(&self, action: &'static str, name: &Path, source: impl Into<io::Error>) -> ProcError {
        ProcError::Io { action, path: self.path.join(name), source: source.into() }
    }

    /// Opens an entry with the given flags (close-on-exec is added).
    pub fn open_file<P: ?Sized + NixPath + AsRef<Path>>(
        &self,
        name: &P,
        flags: OFlag,
    ) -> ProcResult<OwnedFd> {
        openat(&self.dir, name, flags | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|errno| self.error("open", name.as_ref(), errno))
    }

    /// Opens an entry for reading.
    pub fn file(&self, name: &str) -> ProcResult<File> {
        self.open_file(name, OFlag::O_RDONLY).map(File::from)
    }

    /// Opens an entry for buffered reading.
    pub fn reader(&self, name: &str) -> ProcResult<BufReader<File>> {
        self.file(name).map(|file| BufReader::with_capacity(32 << 10, file))
    }

    /// Reads an entry.
    pub fn read(&self, name: &str) -> ProcResult<Vec<u8>> {
        // Most entries fit into one read; a size is not known beforehand.
        let mut bytes = Vec::with_capacity(4096);
        self.file(name)?
            .read_to_end(&mut bytes)
            .map_err(|error| self.error("read", Path::new(name), error))?;
        Ok(bytes)
    }

    /// Reads an entry as text; bytes that are not UTF-8 (names of threads) are replaced.
    pub fn read_string(&self, name: &str) -> ProcResult<String> {
        let bytes = self.read(name)?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// Writes a value into an entry (`oom_score_adj`, `clear_refs`, …).
    pub fn write(&self, name: &str, value: &str) -> ProcResult<()> {
        let file = self.open_file(name, OFlag::O_WRONLY)?;
        nix::unistd::write(file, value.as_bytes())
            .map(drop)
            .map_err(|errno| self.error("write", Path::new(name), errno))
    }

    /// Where a symbolic link (`exe`, `cwd`, `root`, `ns/…`, `fd/…`) points.
    pub fn read_link(&self, name: &str) -> ProcResult<PathBuf> {
        readlinkat(&self.dir, name)
            .map(PathBuf::from)
            .map_err(|errno| self.error("read link", Path::new(name), errno))
    }

    /// The numbers among the names in a directory, sorted.
    pub fn numbers(&self, name: &str) -> ProcResult<Vec<i32>> {
        let error = |errno| self.error("list", Path::new(name), errno);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(&self.dir, name, flags, Mode::empty()).map_err(error)?;
        let mut numbers = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(error)?;
            numbers.extend(entry.file_name().to_str().ok().and_then(|n| n.parse::<i32>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// All threads, the leader first where its id is lowest.
    pub fn threads(&self) -> ProcResult<Vec<Pid>> {
        Ok(self.numbers("task")?.into_iter().map(Pid::from_raw).collect())
    }

    /// All open descriptors.
    pub fn descriptors(&self) -> ProcResult<Vec<RawFd>> {
        self.numbers("fd")
    }

    /// The children of one thread of the process, in order of their start.
    /// `task/TID/children`, Linux 3.5; complete only while children do not end.
    pub fn children_of(&self, tid: Pid) -> ProcResult<Vec<Pid>> {
        let text = self.read_string(&format!("task/{tid}/children"))?;
        Ok(parse_list("children", &text)?.into_iter().map(Pid::from_raw).collect())
    }

    /// The children of all threads.
    pub fn children(&self) -> ProcResult<Vec<Pid>> {
        let mut all = Vec::new();
        for tid in self.threads()? {
            match self.children_of(tid) {
                Ok(children) => all.extend(children),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// `stat`
    pub fn stat(&self) -> ProcResult<Stat> {
        Stat::parse(&self.read("stat")?)
    }

    /// `status`
    pub fn status(&self) -> ProcResult<Status> {
        Status::parse(&self.read_string("status")?)
    }

    /// `fdinfo/FD`
    pub fn fdinfo(&self, fd: RawFd) -> ProcResult<FdInfo> {
        FdInfo::parse(&self.read_string(&format!("fdinfo/{fd}"))?)
    }

    /// `mountinfo`
    pub fn mountinfo(&self) -> ProcResult<Vec<MountInfo>> {
        parse_mountinfo(self.reader("mountinfo")?).collect()
    }

    /// `timers`: the POSIX timers of the process.
    pub fn timers(&self) -> ProcResult<Vec<TimerInfo>> {
        parse_timers(&self.read_string("timers")?)
    }

    /// `auxv`: pairs of type and value, up to and without `AT_NULL`.
    pub fn auxv(&self) -> ProcResult<Vec<(u64, u64)>> {
        parse_auxv(&self.read("auxv")?)
    }

    /// `maps`
    pub fn maps(&self) -> ProcResult<Vec<Vma>> {
        procmap::parse_maps(self.reader("maps")?).collect()
    }

    /// `smaps`: with flags, slower.
    pub fn smaps(&self) -> ProcResult<Vec<Vma>> {
        procmap::parse_smaps(self.reader("smaps")?).collect()
    }

    /// `comm`: the name, at most 15 bytes.
    pub fn comm(&self) -> ProcResult<Vec<u8>> {
        let mut name = self.read("comm")?;
        name.pop_if(|last| *last == b'\n');
        Ok(name)
    }

    /// `loginuid`; `u32::MAX` where none was set. Fails as [`ProcError::is_gone`] where the
    /// kernel has no audit support.
    pub fn loginuid(&self) -> ProcResult<u32> {
        parse_number("loginuid", &self.read_string("loginuid")?)
    }

    /// `oom_score_adj`, -1000 to 1000.
    pub fn oom_score_adj(&self) -> ProcResult<i32> {
        parse_number("oom_score_adj", &self.read_string("oom_score_adj")?)
    }

    /// `timerslack_ns` (Linux 4.6); needs `CAP_SYS_NICE`, except for the calling thread.
    pub fn timer_slack_ns(&self) -> ProcResult<u64> {
        parse_number("timerslack_ns", &self.read_string("timerslack_ns")?)
    }

    /// `personality`, needs ptrace access.
    pub fn personality(&self) -> ProcResult<u32> {
        let text = self.read_string("personality")?;
        u32::from_str_radix(text.trim_end(), 16).map_err(|_| ProcError::parse("personality", "number", &text))
    }
}

impl AsFd for ProcDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

#[cfg(test)]
mod tests;
