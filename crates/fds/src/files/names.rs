//! On dump: whether a file can be found again by its name, and what to do where not.

use super::{State, build_id};
use crate::alone::file_entry;
use crate::{fown, late, sys};
use criu_images::proto::{self, RemapFilePathEntry, RemapType};
use criu_resource::{BoxError, Descriptor};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FileStat, SFlag, fstatat};
use nix::sys::statfs::{FsType, fstatfs};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What the kernel appends to the name of a file that has none any more.
const DELETED: &[u8] = b" (deleted)";
/// Set in `remap_id` of very old images.
const OLD_GHOST: u32 = 1 << 31;
const DEVPTS_SUPER_MAGIC: FsType = FsType(0x1cd1);
const PROC_SUPER_MAGIC: FsType = FsType(0x9fa0);

/// A name that restore could not use.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// procfs gives no absolute path: the file lies in another mount namespace or on a lazily
    /// unmounted file system.
    #[error("{} has no path from here: it lies on a mount that criu-rs cannot see", .0.display())]
    Unreachable(PathBuf),
    /// Another file has the name now.
    #[error(
        "{} is another file now ({found_dev:x}:{found_ino}, {dev:x}:{ino} is open): it was replaced or mounted \
         over; close it or put the old one back", path.display()
    )]
    Replaced {
        /// The name.
        path: PathBuf,
        /// Device of the open file.
        dev: u64,
        /// Inode of the open file.
        ino: u64,
        /// Device of the file that has the name.
        found_dev: u64,
        /// Inode of the file that has the name.
        found_ino: u64,
    },
    /// The name is gone but the file has others.
    #[error("{} was deleted or renamed but has other names; use --link-remap to keep it under a name of its own", .0.display())]
    Renamed(PathBuf),
    /// A file of procfs that is gone and is not about a process.
    #[error("{} is not there any more; close it before the dump", .0.display())]
    Gone(PathBuf),
    /// A system call failed.
    #[error("{}: {call}: {errno}", path.display())]
    Call {
        /// The name.
        path: PathBuf,
        /// Which call.
        call: &'static str,
        /// Why.
        errno: Errno,
    },
}

/// Names that were given to files which had lost the one they were opened by.
#[derive(Debug, Default)]
pub struct LinkRemaps {
    made: Vec<PathBuf>,
    entries: Vec<proto::FileEntry>,
    remaps: Vec<RemapFilePathEntry>,
}

impl LinkRemaps {
    /// The tree is gone: only the new names keep its files.
    pub fn keep(&mut self) {
        self.made.clear();
    }

    pub(super) fn take_entries(&mut self) -> Vec<proto::FileEntry> {
        std::mem::take(&mut self.entries)
    }

    pub(super) fn take_remaps(&mut self) -> Vec<RemapFilePathEntry> {
        std::mem::take(&mut self.remaps)
    }
}

impl Drop for LinkRemaps {
    fn drop(&mut self) {
        for path in &self.made {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }
}

/// Brings an entry of very old images into the present form.
pub(super) fn modernise(remap: &mut RemapFilePathEntry) {
    if remap.remap_type.is_none() {
        let ghost = remap.remap_id & OLD_GHOST != 0;
        remap.remap_id &= !OLD_GHOST;
        remap.set_remap_type(if ghost { RemapType::Ghost } else { RemapType::Linked });
    }
}

/// The name without the kernel's mark.
pub(super) fn strip(link: &Path) -> &Path {
    let bytes = link.as_os_str().as_bytes();
    Path::new(OsStr::from_bytes(bytes.strip_suffix(DELETED).unwrap_or(bytes)))
}

impl State {
    /// The entry of a file, whose id is the descriptor's. Where the name does not lead to the file any
    /// more, a ghost or a link remap is noted beside it.
    pub(super) fn name(&mut self, d: &Descriptor<'_>) -> Result<proto::RegFileEntry, BoxError> {
        let external = format!("file[{:x}:{:x}]", d.mnt_id, d.ino);
        let given = |key: &String| {
            key.strip_prefix(&external).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        if self.options.external.iter().any(given) {
            return Ok(proto::RegFileEntry { ext: Some(true), ..entry(d, external.into_bytes()) });
        }
        if !d.link.is_absolute() {
            return Err(NameError::Unreachable(d.link.to_owned()).into());
        }
        let path = self.reachable(d)?;
        let mut entry = entry(d, path.as_os_str().as_bytes().to_vec());
        let is_log =
            d.flags & (libc::O_ACCMODE | libc::O_APPEND) as u32 == (libc::O_WRONLY | libc::O_APPEND) as u32;
        if d.mode & libc::S_IFMT == libc::S_IFREG && !is_log {
            entry.size = Some(d.size);
            // procfs has no ELF files, and reading some of it has effects.
            if self.options.file_validation_buildid
                && d.size > 4
                && let Ok(fd) = sys::reopen(d.fd, libc::O_RDONLY as u32)
            {
                entry.build_id = build_id::words(&File::from(fd));
            }
        }
        Ok(entry)
    }

    /// The name under which restore finds the file, real or promised.
    fn reachable<'a>(&mut self, d: &Descriptor<'a>) -> Result<&'a Path, BoxError> {
        let path = d.link;
        let key = (d.dev, d.ino, path.to_owned());
        if self.found.contains(&key) {
            return Ok(path);
        }
        let call = |call| move |errno| NameError::Call { path: path.to_owned(), call, errno };
        // An O_PATH descriptor of a symbolic link would be followed by nothing but its own path.
        let fs = fstatfs(d.fd).map_err(call("fstatfs"))?.filesystem_type();
        if fs == DEVPTS_SUPER_MAGIC {
            return Ok(strip(path));
        }
        let found = fstatat(AT_FDCWD, path, AtFlags::AT_SYMLINK_NOFOLLOW);
        if fs == PROC_SUPER_MAGIC {
            return match found {
                Ok(_) => Ok(path),
                Err(_) => self.dead_process(d, strip(path)),
            };
        }
        if d.nlink == 0 {
            self.ghosts.note(d, strip(path), self.options.ghost_limit)?;
            return Ok(strip(path));
        }
        match found {
            Ok(stat) if same(&stat, d) => {
                self.found.insert(key);
                Ok(path)
            }
            Ok(stat) if self.evades(&stat, d) => Ok(path),
            Ok(stat) => Err(NameError::Replaced {
                path: path.to_owned(),
                dev: d.dev,
                ino: d.ino,
                found_dev: stat.st_dev,
                found_ino: stat.st_ino,
            }
            .into()),
            Err(Errno::ENOENT | Errno::ENOTDIR) if self.options.link_remap => self.remap(d, strip(path)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Err(NameError::Renamed(strip(path).to_owned()).into()),
            Err(errno) => Err(call("stat")(errno).into()),
        }
    }

    /// Any path to the same device is accepted under --evasive-devices.
    fn evades(&self, stat: &FileStat, d: &Descriptor<'_>) -> bool {
        let kind = SFlag::from_bits_truncate(d.mode & libc::S_IFMT);
        self.options.evasive_devices
            && (kind == SFlag::S_IFCHR || kind == SFlag::S_IFBLK)
            && stat.st_rdev == d.rdev
    }

    /// What procfs tells about a process that ended: restore lets a process of that pid live for a while.
    fn dead_process<'a>(&mut self, d: &Descriptor<'_>, path: &'a Path) -> Result<&'a Path, BoxError> {
        let pid = late::process_of(path.as_os_str().as_bytes());
        let pid = pid.ok_or_else(|| NameError::Gone(path.to_owned()))?;
        let mut remap = RemapFilePathEntry { orig_id: d.id, remap_id: pid, remap_type: None };
        remap.set_remap_type(RemapType::Procfs);
        self.links.remaps.push(remap);
        Ok(path)
    }

    /// Gives the file a name of its own beside the one it lost.
    fn remap<'a>(&mut self, d: &Descriptor<'_>, path: &'a Path) -> Result<&'a Path, BoxError> {
        self.last_id += 1;
        let id = self.last_id;
        let source = format!("/proc/self/fd/{}", d.fd.as_raw_fd());
        let mut parent = path.parent();
        let link = loop {
            let Some(directory) = parent else {
                return Err(NameError::Renamed(path.to_owned()).into());
            };
            let link = directory.join(format!("link_remap.{id}"));
            match nix::unistd::linkat(AT_FDCWD, source.as_str(), AT_FDCWD, &link, AtFlags::AT_SYMLINK_FOLLOW)
            {
                Ok(()) => break link,
                // The directory is gone as well: the next one above.
                Err(Errno::ENOENT) => parent = directory.parent(),
                Err(errno) => {
                    return Err(NameError::Call { path: link, call: "link", errno }.into());
                }
            }
        };
        let name = link.as_os_str().as_bytes().to_vec();
        self.links.made.push(link);
        let mut file = file_entry(proto::FdTypes::Reg, id);
        file.reg = Some(proto::RegFileEntry { id, fown: fown::none(), name, ..Default::default() });
        self.links.entries.push(file);
        let mut remap = RemapFilePathEntry { orig_id: d.id, remap_id: id, remap_type: None };
        remap.set_remap_type(RemapType::Linked);
        self.links.remaps.push(remap);
        Ok(path)
    }
}

fn same(stat: &FileStat, d: &Descriptor<'_>) -> bool {
    (stat.st_dev, stat.st_ino) == (d.dev, d.ino)
}

fn entry(d: &Descriptor<'_>, name: Vec<u8>) -> proto::RegFileEntry {
    // A kernel log that is only written to has no position to be restored.
    let kmsg = d.mode & libc::S_IFMT == libc::S_IFCHR
        && d.rdev == libc::makedev(1, 11)
        && d.flags & libc::O_ACCMODE as u32 == libc::O_WRONLY as u32;
    proto::RegFileEntry {
        id: d.id,
        flags: d.flags,
        pos: if kmsg { u64::MAX } else { d.pos },
        fown: d.fown,
        name,
        mode: Some(d.mode),
        ..Default::default()
    }
}
