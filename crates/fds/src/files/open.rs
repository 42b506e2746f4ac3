//! On restore: opens a file by its name and checks that it is still the same.

use super::build_id;
use super::ghost::{self, Graves};
use crate::sys::Helper;
use criu_images::Store;
use criu_images::proto::{RegFileEntry, RemapFilePathEntry, RemapType};
use criu_resource::{BoxError, Options};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Flags that only count at the first opening of a file, or that restore sets itself.
const ONCE: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC;
/// O_TMPFILE without the O_DIRECTORY in it.
const TMPFILE: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;

/// A named file that is not what it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened.
    #[error("cannot open {} (flags {flags:#o}): {errno}; it was open when the tree was dumped, put it back", path.display())]
    Open {
        /// Its name.
        path: PathBuf,
        /// Its flags.
        flags: u32,
        /// Why.
        errno: Errno,
    },
    /// Its size is another.
    #[error("{} has {found} bytes, {expected} expected: it changed since the dump; put the old version back", path.display())]
    Size {
        /// Its name.
        path: PathBuf,
        /// Bytes at dump.
        expected: u64,
        /// Bytes now.
        found: u64,
    },
    /// Its type or permissions are others.
    #[error(
        "{} has mode {found:#o}, {expected:#o} expected: it changed since the dump; \
         put it back, or use --skip-file-rwx-check for other permissions", path.display()
    )]
    Mode {
        /// Its name.
        path: PathBuf,
        /// Mode at dump.
        expected: u32,
        /// Mode now.
        found: u32,
    },
    /// It is a program or library that was built anew.
    #[error(
        "{} has build-id {found}, {expected} expected: it was built anew or updated since the dump; \
         put the old version back, or use --file-validation filesize", path.display()
    )]
    BuildId {
        /// Its name.
        path: PathBuf,
        /// At dump.
        expected: String,
        /// Now.
        found: String,
    },
    /// A process that a file of procfs was about cannot be played.
    #[error("cannot start a process with pid {pid}, which a file of procfs is about: {errno}")]
    Pid {
        /// The pid it must have.
        pid: u32,
        /// Why.
        errno: Errno,
    },
    /// A system call failed.
    #[error("{}: {call}: {source}", path.display())]
    Io {
        /// Its name.
        path: PathBuf,
        /// Which call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Where a name of the images lies, under the new root if there is one.
pub(crate) fn path(options: &Options, name: &[u8]) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(name));
    match &options.root {
        Some(root) => Path::new(root).join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_owned(),
    }
}

/// What opening needs beside the entry.
pub(super) struct Opener<'a> {
    pub options: &'a Options,
    pub store: &'a dyn Store,
    pub graves: &'a mut Graves,
    /// Processes that will be dead again once the tree is complete.
    pub dead: &'a mut HashMap<u32, Helper>,
    pub remap: Option<&'a RemapFilePathEntry>,
    /// For a link remap: the entry with its name.
    pub linked: Option<&'a RegFileEntry>,
}

impl Opener<'_> {
    /// Opens the file of an entry.
    pub fn open(&mut self, entry: &RegFileEntry, flags: Option<u32>) -> Result<OwnedFd, BoxError> {
        let path = path(self.options, &entry.name);
        let flags = flags.unwrap_or(entry.flags);
        let fd = match self.remap.map(|remap| (remap.remap_type(), remap.remap_id)) {
            None => open(&path, flags)?,
            Some((RemapType::Ghost, id)) => open(&self.graves.surface(self.store, id, &path)?, flags)?,
            Some((RemapType::Linked, id)) => {
                let linked = self.linked.ok_or_else(|| format!("files.img has no link remap {id:#x}"))?;
                open_as(&self::path(self.options, &linked.name), &path, flags)?
            }
            Some((RemapType::Procfs, pid)) => {
                if let Entry::Vacant(place) = self.dead.entry(pid) {
                    place.insert(Helper::start_as(pid).map_err(|errno| OpenError::Pid { pid, errno })?);
                }
                open(&path, flags)?
            }
        };
        self.check(&path, entry, &fd)?;
        Ok(fd)
    }

    fn check(&self, path: &Path, entry: &RegFileEntry, fd: &OwnedFd) -> Result<(), OpenError> {
        let path = || path.to_owned();
        let io = |call| move |errno: Errno| OpenError::Io { path: path(), call, source: errno.into() };
        let stat = fstat(fd.as_fd()).map_err(io("fstat"))?;
        if let Some(expected) = entry.size
            && expected != stat.st_size as u64
        {
            return Err(OpenError::Size { path: path(), expected, found: stat.st_size as u64 });
        }
        if let Some(expected) = entry.mode {
            let ignored = if self.options.skip_file_rwx_check { 0o777 } else { 0 };
            if (expected ^ stat.st_mode) & !ignored != 0 {
                return Err(OpenError::Mode { path: path(), expected, found: stat.st_mode });
            }
        }
        if self.options.file_validation_buildid && !entry.build_id.is_empty() {
            let again = crate::sys::reopen(fd.as_fd(), libc::O_RDONLY as u32)
                .map_err(|source| OpenError::Io { path: path(), call: "open", source })?;
            let found = build_id::words(&File::from(again));
            if !found.is_empty() && found != entry.build_id {
                return Err(OpenError::BuildId {
                    path: path(),
                    expected: hex(&entry.build_id),
                    found: hex(&found),
                });
            }
        }
        Ok(())
    }
}

fn hex(words: &[u32]) -> String {
    words.iter().flat_map(|word| word.to_ne_bytes()).map(|byte| format!("{byte:02x}")).collect()
}

/// Opens `path` with the flags of a description.
fn open(path: &Path, flags: u32) -> Result<OwnedFd, OpenError> {
    let mut bits = flags as i32 & !ONCE | libc::O_CLOEXEC | libc::O_NOCTTY;
    if bits & TMPFILE != 0 {
        // It has contents by now: a ghost.
        bits &= !libc::O_TMPFILE;
    }
    nix::fcntl::open(path, OFlag::from_bits_retain(bits), Mode::empty()).map_err(|errno| OpenError::Open {
        path: path.to_owned(),
        flags,
        errno,
    })
}

/// Opens the file `real` under the name `shown`, which it only has for that moment.
fn open_as(real: &Path, shown: &Path, flags: u32) -> Result<OwnedFd, OpenError> {
    let io = |call| move |source| OpenError::Io { path: shown.to_owned(), call, source };
    let parents = ghost::make_parents(shown).map_err(io("mkdir"))?;
    let mut name = shown.to_owned();
    let mut linked = fs::hard_link(real, &name);
    if linked.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
        // Somebody has the name meanwhile: another one beside it.
        name.as_mut_os_string().push(".cr_link");
        linked = fs::hard_link(real, &name);
    }
    let opened = linked.map_err(io("link")).and_then(|()| {
        let opened = open(&name, flags);
        fs::remove_file(&name).map_err(io("unlink"))?;
        opened
    });
    ghost::remove_parents(&parents);
    opened
}
