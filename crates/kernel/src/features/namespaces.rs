//! Probes about namespaces and mounts. Mounts are made in a thread's own mount namespace, and go with it.

use std::fs::{self, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getpgrp, pipe};

fn has(namespace: &str) -> bool {
    fs::symlink_metadata(format!("/proc/self/ns/{namespace}")).is_ok()
}

pub(super) fn user() -> bool {
    has("user")
}

pub(super) fn net() -> bool {
    has("net")
}

pub(super) fn cgroup() -> bool {
    has("cgroup")
}

pub(super) fn time() -> bool {
    has("time")
}

pub(super) fn move_mount_set_group() -> bool {
    const MOVE_MOUNT_SET_GROUP: u32 = 0x100;
    let name = c"none".as_ptr();
    // SAFETY: both paths are C strings, below a descriptor that is never open.
    let r = unsafe { libc::syscall(libc::SYS_move_mount, -1, name, -1, name, MOVE_MOUNT_SET_GROUP) };
    // Flags are looked at before the descriptors.
    Errno::result(r) == Err(Errno::EBADF)
}

/// Runs `look` in a mount namespace of its own, where `/tmp` is empty.
fn apart(look: impl FnOnce() -> std::io::Result<bool> + Send) -> bool {
    let work = || -> std::io::Result<bool> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        mount(Some("criu-rs"), "/tmp", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        look()
    };
    std::thread::scope(|scope| scope.spawn(work).join()).is_ok_and(|answer| answer.unwrap_or(false))
}

pub(super) fn overlayfs_maps() -> bool {
    apart(|| {
        for folder in ["low", "up", "work", "all"] {
            fs::create_dir(format!("/tmp/{folder}"))?;
        }
        let layers = "lowerdir=/tmp/low,upperdir=/tmp/up,workdir=/tmp/work";
        mount(Some("criu-rs"), "/tmp/all", Some("overlay"), MsFlags::empty(), Some(layers))?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open("/tmp/all/file")?;
        let (at, len, read) = (std::ptr::null_mut(), 4096, libc::PROT_READ);
        // SAFETY: a new mapping at an address of the kernel's choice; nobody touches it.
        let page = unsafe { libc::mmap(at, len, read, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        let maps = fs::read_to_string("/proc/thread-self/maps")?;
        // SAFETY: the mapping made above (or a refused address), to which nothing refers.
        unsafe { libc::munmap(page, len) };
        let start = format!("{:x}-", page as usize);
        let line = maps.lines().find(|line| line.starts_with(&start)).unwrap_or_default();
        let device = file.metadata()?.dev();
        let device = format!("{:02x}:{:02x}", libc::major(device), libc::minor(device));
        let inode = file.metadata()?.ino().to_string();
        let mut words = line.split_whitespace().skip(3);
        Ok(words.next() == Some(&device) && words.next() == Some(&inode))
    })
}

pub(super) fn autofs_pipe() -> bool {
    apart(|| {
        let (_reader, writer): (OwnedFd, OwnedFd) = pipe()?;
        let (fd, group) = (writer.as_raw_fd(), getpgrp());
        let options = format!("fd={fd},pgrp={group},minproto=5,maxproto=5,direct");
        fs::create_dir("/tmp/auto")?;
        mount(Some("criu-rs"), "/tmp/auto", Some("autofs"), MsFlags::empty(), Some(options.as_str()))?;
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
        Ok(mounts.lines().any(|line| line.contains(" /tmp/auto ") && line.contains("pipe_ino=")))
    })
}
