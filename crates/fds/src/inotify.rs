//! Watches on files by inode: inotify(7).

use crate::alone::{file_entry, missing};
use crate::watch::{self, Finder, Target, Watch, WatchError, WatchKind};
use crate::{fown, sys};
use criu_images::proto::{FdTypes, FileEntry, InotifyFileEntry, InotifyWdEntry};
use criu_resource::{BoxError, Descriptor};
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// inotify descriptors with their watches. Events that wait are lost, as at an overflow.
pub type Inotify = WatchKind<InotifyWatches>;

/// What [`Inotify`] does.
#[derive(Debug)]
pub struct InotifyWatches;

impl Watch for InotifyWatches {
    const NAME: &'static str = "inotify";
    const TYPES: &'static [FdTypes] = &[FdTypes::Inotify];
    const LINK: &'static str = "anon_inode:inotify";

    fn dump(d: &Descriptor<'_>, finder: &Finder<'_>) -> Result<FileEntry, WatchError> {
        let mut wd = Vec::new();
        for line in d.extra.lines().filter(|line| line.starts_with("inotify ")) {
            let mut entry = parse(d.id, line)?;
            entry.f_handle.path = target(&entry).path(finder.mounts(), finder.switches())?;
            wd.push(entry);
        }
        let mut file = file_entry(FdTypes::Inotify, d.id);
        file.ify = Some(InotifyFileEntry { id: d.id, flags: d.flags, fown: d.fown, wd });
        Ok(file)
    }

    fn open(entry: &FileEntry) -> Result<OwnedFd, BoxError> {
        let inotify = entry.ify.as_ref().ok_or_else(|| missing(entry))?;
        let fd = sys::inotify_init(libc::IN_CLOEXEC).map_err(|errno| format!("inotify_init1: {errno}"))?;
        fown::prepare(fd.as_fd(), &inotify.fown, inotify.flags)?;
        Ok(fd)
    }

    fn set(entry: &FileEntry, fd: BorrowedFd<'_>, finder: &Finder<'_>) -> Result<(), WatchError> {
        let Some(inotify) = &entry.ify else { return Ok(()) };
        let mut watches: Vec<&InotifyWdEntry> = inotify.wd.iter().collect();
        watches.sort_by_key(|watch| watch.wd);
        for watch in watches {
            add(fd, watch, finder)?;
        }
        Ok(())
    }
}

fn target(entry: &InotifyWdEntry) -> Target<'_> {
    Target { sdev: entry.s_dev, ino: entry.i_ino, handle: &entry.f_handle }
}

/// `inotify wd:1 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e…`
fn parse(id: u32, line: &str) -> Result<InotifyWdEntry, WatchError> {
    Ok(InotifyWdEntry {
        id,
        wd: watch::hex(line, "wd")? as u32,
        i_ino: watch::hex(line, "ino")?,
        s_dev: watch::hex(line, "sdev")? as u32,
        mask: watch::hex(line, "mask")? as u32,
        ignored_mask: watch::hex(line, "ignored_mask")? as u32,
        f_handle: watch::handle(line)?,
    })
}

/// Adds a watch under its number.
fn add(fd: BorrowedFd<'_>, watch: &InotifyWdEntry, finder: &Finder<'_>) -> Result<(), WatchError> {
    let (_file, path) = finder.find(&target(watch))?;
    let what = || match &watch.f_handle.path {
        Some(path) => String::from_utf8_lossy(path).into_owned(),
        None => format!("inode {}", watch.i_ino),
    };
    let call = |call| move |errno: Errno| WatchError::Call { call, what: what(), errno };
    sys::inotify_set_next_watch(fd, watch.wd as i32).map_err(call("ioctl(INOTIFY_IOC_SETNEXTWD)"))?;
    let mask = watch.mask & (libc::IN_ALL_EVENTS | libc::IN_EXCL_UNLINK | libc::IN_ONESHOT);
    let number = sys::inotify_add_watch(fd, &path, mask).map_err(call("inotify_add_watch"))?;
    if number as u32 != watch.wd {
        // Two watches on what were two files and are one now.
        return Err(call("inotify_add_watch")(Errno::EEXIST));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stopped, keep, round_trip};
    use criu_resource::Options;
    use std::ffi::CString;
    use std::fs::{self, File};

    #[test]
    fn watches_keep_their_numbers_and_still_watch() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| CString::new(directory.path().join(name).to_str().unwrap()).unwrap();
        let gone = directory.path().join("gone");
        let task = Stopped::after(|| {
            fs::write(directory.path().join("file"), "x").unwrap();
            keep(File::create(&gone).unwrap(), 8);
            let fd = sys::inotify_init(libc::IN_NONBLOCK).unwrap();
            let first = sys::inotify_add_watch(fd.as_fd(), &path("file"), libc::IN_MODIFY).unwrap();
            let second = sys::inotify_add_watch(fd.as_fd(), &path(""), libc::IN_CREATE).unwrap();
            // The first number is free again.
            // SAFETY: two integers.
            unsafe { libc::inotify_rm_watch(std::os::fd::AsRawFd::as_raw_fd(&fd), first) };
            sys::inotify_add_watch(fd.as_fd(), &path("gone"), libc::IN_MODIFY).unwrap();
            fs::remove_file(&gone).unwrap();
            assert_eq!(second, 2);
            keep(fd, 5);
        });
        let again = round_trip(task, &Options::default());
        let text = fs::read_to_string(format!("/proc/{}/fdinfo/5", again.0)).unwrap();
        let watches: Vec<_> = text.lines().filter(|line| line.starts_with("inotify ")).collect();
        let numbers: Vec<_> = watches.iter().map(|line| watch::hex(line, "wd").unwrap()).collect();
        assert_eq!(numbers, [3, 2], "{text}");
        let mut events = [0; 256];
        // Making and unmaking the ghost may have been seen; what counts comes after.
        let _ = nix::unistd::read(again.fd(5), &mut events);
        assert_eq!(nix::unistd::read(again.fd(5), &mut events).unwrap_err(), Errno::EAGAIN);
        fs::write(directory.path().join("new"), "x").unwrap();
        assert!(nix::unistd::read(again.fd(5), &mut events).unwrap() > 0);
        assert_eq!(events[0], 2, "the watch's number");
    }

    #[test]
    fn unknown_lines() {
        assert!(matches!(parse(1, "inotify wd:x ino:1"), Err(WatchError::Line(_))));
    }
}
