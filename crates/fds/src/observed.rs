//! What can be seen of one descriptor: from its fdinfo, its link, fstat(2) and fcntl(2).

use crate::fown;
use criu_images::proto;
use criu_resource::Descriptor;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstat};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;

/// Room for the text of most files of fdinfo.
const INFO_SIZE: usize = 4096;

/// A descriptor that could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// A system call failed.
    #[error("{call}: {errno}")]
    Call {
        /// Which.
        call: &'static str,
        /// Why.
        errno: Errno,
    },
    /// fdinfo does not say what proc(5) promises.
    #[error("fdinfo has no valid {0:?} line")]
    Field(&'static str),
}

/// The fields of [`Descriptor`] in a form that can be kept.
#[derive(Clone, Debug)]
pub struct Observed {
    /// A task that holds it.
    pub pid: i32,
    /// Its number there.
    pub number: i32,
    /// Where `/proc/PID/fd/N` points.
    pub link: PathBuf,
    /// fdinfo: position.
    pub pos: u64,
    /// fdinfo: flags, without O_CLOEXEC.
    pub flags: u32,
    /// Whether the descriptor (not the description) is close-on-exec.
    pub cloexec: bool,
    /// fdinfo: mount id.
    pub mnt_id: i32,
    /// fdinfo: the other lines.
    pub extra: String,
    /// fstat(2), but for times.
    pub stat: nix::libc::stat,
    /// Owner for signals.
    pub fown: proto::FownEntry,
}

impl Observed {
    /// Looks at one's own descriptor: what is needed to dump one's own objects without a tracer.
    ///
    /// # Errors
    /// [`ObserveError`].
    pub fn own(fd: BorrowedFd<'_>) -> Result<Observed, ObserveError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let proc = nix::fcntl::open("/proc/self", flags, Mode::empty())
            .map_err(|errno| ObserveError::Call { call: "open /proc/self", errno })?;
        let pid = nix::unistd::getpid().as_raw();
        Observed::of(std::os::fd::AsFd::as_fd(&proc), pid, fd.as_raw_fd(), fd, &|pid| pid, &mut Vec::new())
    }

    /// Looks at descriptor `number` of the task whose `/proc/PID` is `proc`. `fd` is a duplicate of it,
    /// `map` turns ids of criu-rs's pid namespace into the tree's, `buffer` is reused between calls.
    ///
    /// # Errors
    /// [`ObserveError`].
    pub fn of(
        proc: BorrowedFd<'_>,
        pid: i32,
        number: RawFd,
        fd: BorrowedFd<'_>,
        map: &dyn Fn(i32) -> i32,
        buffer: &mut Vec<u8>,
    ) -> Result<Observed, ObserveError> {
        let call = |call| move |errno| ObserveError::Call { call, errno };
        let link = readlinkat(proc, format!("fd/{number}").as_str()).map_err(call("readlink fd"))?;
        let path = format!("fdinfo/{number}");
        let info = openat(proc, path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(call("open fdinfo"))?;
        let common = Common::parse(read_info(&File::from(info), buffer).map_err(call("read fdinfo"))?)?;
        let flags = common.flags & !(libc::O_CLOEXEC as u32);
        let fown = if flags & libc::O_PATH as u32 != 0 {
            fown::none()
        } else {
            fown::read(fd, map).map_err(call("fcntl(F_GETOWN_EX)"))?
        };
        Ok(Observed {
            pid,
            number,
            link: link.into(),
            pos: common.pos,
            flags,
            cloexec: common.flags != flags,
            mnt_id: common.mnt_id,
            extra: common.extra.to_owned(),
            stat: fstat(fd).map_err(call("fstat"))?,
            fown,
        })
    }

    /// The same as a [`Descriptor`] with the image id `id`.
    pub fn view<'a>(&'a self, fd: BorrowedFd<'a>, id: u32) -> Descriptor<'a> {
        Descriptor {
            fd,
            id,
            pid: self.pid,
            number: self.number,
            link: &self.link,
            pos: self.pos,
            flags: self.flags,
            mnt_id: self.mnt_id,
            extra: &self.extra,
            dev: self.stat.st_dev,
            ino: self.stat.st_ino,
            rdev: self.stat.st_rdev,
            mode: self.stat.st_mode,
            size: self.stat.st_size as u64,
            nlink: self.stat.st_nlink,
            fown: self.fown,
        }
    }
}

/// Reads the text of a file of fdinfo. The kernel gives all of it to a read that has room for it.
fn read_info<'a>(mut info: &File, buffer: &'a mut Vec<u8>) -> nix::Result<&'a str> {
    let mut len = 0;
    loop {
        buffer.resize(buffer.len().max(len + INFO_SIZE), 0);
        let read = info
            .read(&mut buffer[len..])
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        len += read;
        if len < buffer.len() {
            return str::from_utf8(&buffer[..len]).map_err(|_| Errno::EILSEQ);
        }
    }
}

struct Common<'a> {
    pos: u64,
    flags: u32,
    mnt_id: i32,
    extra: &'a str,
}

impl Common<'_> {
    /// Splits the lines that every fdinfo starts with from those of the kind.
    fn parse(text: &str) -> Result<Common<'_>, ObserveError> {
        let mut common = Common { pos: 0, flags: u32::MAX, mnt_id: -1, extra: text };
        while let Some((line, rest)) = common.extra.split_once('\n') {
            let Some((key, value)) = line.split_once(':') else { break };
            let value = value.trim();
            match key {
                "pos" => common.pos = value.parse().map_err(|_| ObserveError::Field("pos"))?,
                "flags" => {
                    common.flags = u32::from_str_radix(value, 8).map_err(|_| ObserveError::Field("flags"))?;
                }
                "mnt_id" => common.mnt_id = value.parse().map_err(|_| ObserveError::Field("mnt_id"))?,
                "ino" => {}
                _ => break,
            }
            common.extra = rest;
        }
        if common.flags == u32::MAX { Err(ObserveError::Field("flags")) } else { Ok(common) }
    }
}

/// The value of the first line `key:` in fdinfo text.
pub fn line<'a>(extra: &'a str, key: &str) -> Option<&'a str> {
    lines(extra, key).next()
}

/// The values of all lines `key:` in fdinfo text.
pub fn lines<'a>(extra: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    extra.lines().filter_map(move |line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn common_lines_are_split_off() {
        let text = "pos:\t7\nflags:\t02000002\nmnt_id:\t16\nino:\t3\neventfd-count:  a\neventfd-id: 4\n";
        let common = Common::parse(text).unwrap();
        assert_eq!((common.pos, common.flags, common.mnt_id), (7, 0o2_000_002, 16));
        assert_eq!(line(common.extra, "eventfd-count"), Some("a"));
        assert_eq!(line(common.extra, "ino"), None);
        assert!(Common::parse("").is_err());
        assert!(Common::parse("pos:\tx\nflags:\t0\n").is_err());
    }

    #[test]
    fn own_descriptor() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"abc").unwrap();
        let seen = Observed::own(file.as_fd()).unwrap();
        let descriptor = seen.view(file.as_fd(), 5);
        assert_eq!((descriptor.id, descriptor.pos, descriptor.size, descriptor.nlink), (5, 3, 3, 0));
        assert!(seen.cloexec);
        assert_eq!(descriptor.flags & libc::O_ACCMODE as u32, libc::O_RDWR as u32);
        assert!(descriptor.link.to_string_lossy().ends_with(" (deleted)"));
    }
}
