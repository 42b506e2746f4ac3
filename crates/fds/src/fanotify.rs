//! Marks on files and mounts: fanotify(7).

use crate::alone::{file_entry, missing};
use crate::watch::{self, Finder, Target, Watch, WatchError, WatchKind, proc_path};
use crate::{fown, sys};
use criu_images::proto::{
    FanotifyFileEntry, FanotifyInodeMarkEntry, FanotifyMarkEntry, FanotifyMountMarkEntry, FdTypes, FileEntry,
    MarkType,
};
use criu_kernel::proc::MountInfo;
use criu_resource::{BoxError, Descriptor};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::ffi::CStr;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Counts for a mark as a whole; other flags only for what it ignores.
const EVICTABLE: u32 = 0x200;

/// fanotify descriptors with their marks. Events that wait are lost.
pub type Fanotify = WatchKind<FanotifyMarks>;

/// What [`Fanotify`] does.
#[derive(Debug)]
pub struct FanotifyMarks;

impl Watch for FanotifyMarks {
    const NAME: &'static str = "fanotify";
    const TYPES: &'static [FdTypes] = &[FdTypes::Fanotify];
    const LINK: &'static str = "anon_inode:[fanotify]";

    fn dump(d: &Descriptor<'_>, finder: &Finder<'_>) -> Result<FileEntry, WatchError> {
        let mut fanotify = FanotifyFileEntry { id: d.id, flags: d.flags, fown: d.fown, ..Default::default() };
        for line in d.extra.lines() {
            let Some(rest) = line.strip_prefix("fanotify ") else { continue };
            if rest.starts_with("flags:") {
                fanotify.faflags = watch::hex(rest, "flags")? as u32;
                fanotify.evflags = watch::hex(rest, "event-flags")? as u32;
                continue;
            }
            fanotify.mark.push(mark(d.id, rest, finder)?);
        }
        let mut file = file_entry(FdTypes::Fanotify, d.id);
        file.ffy = Some(fanotify);
        Ok(file)
    }

    fn open(entry: &FileEntry) -> Result<OwnedFd, BoxError> {
        let fanotify = entry.ffy.as_ref().ok_or_else(|| missing(entry))?;
        // The flags are seen again, close-on-exec among them.
        let (flags, events) = (fanotify.faflags, fanotify.evflags);
        let fd = sys::fanotify_init(flags, events)
            .map_err(|errno| format!("fanotify_init({flags:#x}, {events:#x}): {errno}"))?;
        fown::prepare(fd.as_fd(), &fanotify.fown, fanotify.flags)?;
        Ok(fd)
    }

    fn set(entry: &FileEntry, fd: BorrowedFd<'_>, finder: &Finder<'_>) -> Result<(), WatchError> {
        let Some(fanotify) = &entry.ffy else { return Ok(()) };
        for mark in &fanotify.mark {
            let file = match (&mark.ie, &mark.me) {
                (Some(inode), _) => finder.find(&target(mark, inode))?.0,
                (_, Some(mount)) => mount_point(mount, finder.mounts())?,
                _ => return Err(WatchError::Unsupported("neither a file nor a mount")),
            };
            add(fd, mark, &proc_path(&file))?;
        }
        Ok(())
    }
}

fn target<'a>(mark: &FanotifyMarkEntry, inode: &'a FanotifyInodeMarkEntry) -> Target<'a> {
    Target { sdev: mark.s_dev, ino: inode.i_ino, handle: &inode.f_handle }
}

/// `ino:9e7e sdev:800013 mflags:0 mask:3b ignored_mask:0 fhandle-bytes:8 …` or `mnt_id:12 mflags:0 …`
fn mark(id: u32, line: &str, finder: &Finder<'_>) -> Result<FanotifyMarkEntry, WatchError> {
    let mut mark = FanotifyMarkEntry {
        id,
        mflags: watch::hex(line, "mflags")? as u32,
        mask: watch::hex(line, "mask")? as u32,
        ignored_mask: watch::hex(line, "ignored_mask")? as u32,
        ..Default::default()
    };
    if line.starts_with("ino:") {
        mark.set_type(MarkType::Inode);
        mark.s_dev = watch::hex(line, "sdev")? as u32;
        let mut inode =
            FanotifyInodeMarkEntry { i_ino: watch::hex(line, "ino")?, f_handle: watch::handle(line)? };
        inode.f_handle.path = target(&mark, &inode).path(finder.mounts(), finder.switches())?;
        mark.ie = Some(inode);
    } else if line.starts_with("mnt_id:") {
        let mnt_id = watch::hex(line, "mnt_id")? as u32;
        let mount = finder.mounts().iter().find(|mount| mount.id == mnt_id as i32);
        let mount = mount.ok_or(WatchError::Unsupported("a mount that criu-rs cannot see"))?;
        mark.set_type(MarkType::Mount);
        mark.s_dev = mount.device.0 << 20 | mount.device.1;
        // From the root directory, without its slash.
        let path = mount.mount_point.as_os_str().as_bytes();
        let path = path.strip_prefix(b"/").filter(|rest| !rest.is_empty()).unwrap_or(b".");
        mark.me = Some(FanotifyMountMarkEntry { mnt_id, path: Some(path.to_vec()) });
    } else {
        return Err(WatchError::Unsupported("a whole file system"));
    }
    Ok(mark)
}

fn mount_point(entry: &FanotifyMountMarkEntry, mounts: &[MountInfo]) -> Result<OwnedFd, WatchError> {
    let path = match &entry.path {
        Some(path) => std::path::Path::new("/").join(OsStr::from_bytes(path)),
        None => mounts
            .iter()
            .find(|mount| mount.id == entry.mnt_id as i32)
            .map(|mount| mount.mount_point.clone())
            .ok_or(WatchError::Unsupported("a mount that is not there"))?,
    };
    nix::fcntl::open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| WatchError::Call { call: "open", what: path.display().to_string(), errno })
}

fn add(fd: BorrowedFd<'_>, mark: &FanotifyMarkEntry, path: &CStr) -> Result<(), WatchError> {
    let call = |errno: Errno| {
        let what = format!("mask {:#x}, ignored {:#x}", mark.mask, mark.ignored_mask);
        WatchError::Call { call: "fanotify_mark", what, errno }
    };
    let kind = if mark.r#type() == MarkType::Mount { libc::FAN_MARK_MOUNT } else { 0 };
    let flags = libc::FAN_MARK_ADD | kind;
    if mark.mask != 0 {
        sys::fanotify_mark(fd, flags | mark.mflags & EVICTABLE, mark.mask.into(), path).map_err(call)?;
    }
    if mark.ignored_mask != 0 {
        let flags = flags | mark.mflags | libc::FAN_MARK_IGNORED_MASK;
        sys::fanotify_mark(fd, flags, mark.ignored_mask.into(), path).map_err(call)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stopped, keep, round_trip};
    use criu_resource::Options;
    use std::ffi::CString;
    use std::fs;

    #[test]
    fn marks_on_files_and_mounts() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "x").unwrap();
        let path = CString::new(file.to_str().unwrap()).unwrap();
        let task = Stopped::after(|| {
            let fd = sys::fanotify_init(libc::FAN_NONBLOCK, libc::O_RDONLY as u32).unwrap();
            let mark = |flags, mask, path: &CStr| sys::fanotify_mark(fd.as_fd(), flags, mask, path).unwrap();
            mark(libc::FAN_MARK_ADD, libc::FAN_OPEN, &path);
            let ignored = libc::FAN_MARK_IGNORED_MASK | libc::FAN_MARK_IGNORED_SURV_MODIFY;
            mark(libc::FAN_MARK_ADD | ignored, libc::FAN_CLOSE_WRITE, &path);
            mark(libc::FAN_MARK_ADD | libc::FAN_MARK_MOUNT, libc::FAN_CLOSE_WRITE, c"/proc");
            keep(fd, 5);
        });
        let lines = |pid: i32| {
            let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/5")).unwrap();
            let mut lines: Vec<_> =
                text.lines().filter(|l| l.starts_with("fanotify ")).map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let before = lines(task.0);
        assert_eq!(before.len(), 3);
        let again = round_trip(task, &Options::default());
        assert_eq!(lines(again.0), before);
        let mut events = [0; 256];
        let _ = fs::read(&file);
        assert!(nix::unistd::read(again.fd(5), &mut events).unwrap() > 0);
    }
}
