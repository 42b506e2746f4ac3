//! What inotify and fanotify share: finding the watched file by its handle, its path or its ghost.

use crate::{Files, alone};
use criu_images::{RecordSet, proto};
use criu_kernel::ProcError;
use criu_kernel::fhandle::{self, FileHandle};
use criu_kernel::proc::{MountInfo, ProcDir};
use criu_resource::{
    BoxError, Descriptor, DumpContext, Fate, FileDump, FileKind, FileRestore, Options, RestoreContext, Slot,
};
use criu_script::Script;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, stat};
use std::ffi::CString;
use std::fs;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Words of a handle in the images.
const HANDLE_WORDS: usize = 16;
/// Where most watched files lie; searched when a handle cannot be opened.
const USUAL_PLACES: [&str; 6] = ["/etc", "/var/spool", "/var/log", "/usr/share/dbus-1", "/lib/udev", "/"];

/// A watched file that cannot be found, or a watch that cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// fdinfo has an unknown form.
    #[error("fdinfo has an unknown line: {0:?}")]
    Line(String),
    /// No file has this handle.
    #[error(
        "the watched file (device {sdev:#x}, inode {ino}) cannot be found by its handle or in the usual places; \
         name a directory above it with --irmap-scan-path"
    )]
    Lost {
        /// Its device in the kernel's own encoding.
        sdev: u32,
        /// Its inode.
        ino: u64,
    },
    /// The mounts cannot be read.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// A mark on something that the images have no form for.
    #[error("it watches {0}, which is not supported yet")]
    Unsupported(&'static str),
    /// A system call failed.
    #[error("{call} for {what}: {errno}")]
    Call {
        /// Which.
        call: &'static str,
        /// The file or mount.
        what: String,
        /// Why.
        errno: Errno,
    },
}

/// The values `key:value` of a line, by key.
pub(crate) fn field<'a>(line: &'a str, key: &str) -> Result<&'a str, WatchError> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix(':'))
        .ok_or_else(|| WatchError::Line(line.to_owned()))
}

/// A hexadecimal one.
pub(crate) fn hex(line: &str, key: &str) -> Result<u64, WatchError> {
    u64::from_str_radix(field(line, key)?, 16).map_err(|_| WatchError::Line(line.to_owned()))
}

/// The handle in a line.
pub(crate) fn handle(line: &str) -> Result<proto::FhEntry, WatchError> {
    let wrong = || WatchError::Line(line.to_owned());
    let digits = field(line, "f_handle")?;
    let mut bytes = [0; HANDLE_WORDS * 8];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(proto::FhEntry {
        bytes: hex(line, "fhandle-bytes")? as u32,
        r#type: hex(line, "fhandle-type")? as u32,
        handle: bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()))
            .collect(),
        path: None,
        mnt_id: None,
    })
}

/// A file as a watch names it.
pub(crate) struct Target<'a> {
    /// Device in the kernel's own encoding.
    pub sdev: u32,
    pub ino: u64,
    pub handle: &'a proto::FhEntry,
}

impl Target<'_> {
    fn lost(&self) -> WatchError {
        WatchError::Lost { sdev: self.sdev, ino: self.ino }
    }

    fn device(&self) -> u64 {
        libc::makedev(self.sdev >> 20, self.sdev & 0xf_ffff)
    }

    /// Opens it by its handle, on any mount of its device.
    fn open(&self, mounts: &[MountInfo]) -> Option<OwnedFd> {
        let bytes: Vec<u8> = self.handle.handle.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let bytes = bytes.get(..self.handle.bytes as usize)?.to_vec();
        let handle = FileHandle { kind: self.handle.r#type as i32, bytes };
        let device = (self.sdev >> 20, self.sdev & 0xf_ffff);
        mounts.iter().filter(|mount| mount.device == device).find_map(|mount| {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let mount = nix::fcntl::open(&mount.mount_point, flags, Mode::empty()).ok()?;
            fhandle::open(std::os::fd::AsFd::as_fd(&mount), &handle, OFlag::O_PATH).ok()
        })
    }

    /// Its path, where it has one: that is what survives a copy of the file system. `Ok(None)` for a file
    /// that only its handle leads to.
    pub fn path(&self, mounts: &[MountInfo], options: &Options) -> Result<Option<Vec<u8>>, WatchError> {
        if let Some(file) = self.open(mounts) {
            let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
            if self.is_at(&path) {
                return Ok(Some(path.into_os_string().into_vec()));
            }
            if !options.force_irmap {
                return Ok(None);
            }
        }
        let found = options
            .irmap_scan_path
            .iter()
            .map(String::as_str)
            .chain(USUAL_PLACES)
            .find_map(|place| self.search(Path::new(place), if place == "/" { 1 } else { 8 }));
        found.map(|path| Some(path.into_os_string().into_vec())).ok_or_else(|| self.lost())
    }

    fn is_at(&self, path: &Path) -> bool {
        stat(path).is_ok_and(|stat| stat.st_ino == self.ino)
    }

    /// Searches below a directory of the same device.
    fn search(&self, place: &Path, depth: usize) -> Option<PathBuf> {
        let found = fs::symlink_metadata(place).ok()?;
        if (found.dev(), found.ino()) == (self.device(), self.ino) {
            return Some(place.to_owned());
        }
        if depth == 0 || !found.is_dir() {
            return None;
        }
        let mut directories = Vec::new();
        for entry in fs::read_dir(place).ok()?.flatten() {
            let kind = entry.file_type().ok()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if entry.ino() == self.ino && found.dev() == self.device() {
                return Some(entry.path());
            }
        }
        directories.iter().find_map(|directory| self.search(directory, depth - 1))
    }
}

/// Finds watched files again on restore.
pub struct Finder<'a> {
    options: &'a Options,
    mounts: Vec<MountInfo>,
    files: Option<&'a Files>,
}

impl<'a> Finder<'a> {
    /// Over the present mounts; `files` may know deleted files that exist again for the moment.
    ///
    /// # Errors
    /// Those of reading `/proc/self/mountinfo`.
    pub fn new(options: &'a Options, files: Option<&'a Files>) -> Result<Finder<'a>, WatchError> {
        Ok(Finder { options, mounts: ProcDir::current()?.mountinfo()?, files })
    }

    /// A path that leads to the file as long as the returned descriptor is open.
    pub(crate) fn find(&self, target: &Target<'_>) -> Result<(OwnedFd, CString), WatchError> {
        let ghost = self.files.and_then(|files| files.ghost_at(target.device(), target.ino));
        let named = ghost.or_else(|| {
            let path = target.handle.path.as_deref()?;
            Some(crate::files::path(self.options, path))
        });
        let file = match named {
            Some(path) => {
                nix::fcntl::open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(|errno| {
                    WatchError::Call { call: "open", what: path.display().to_string(), errno }
                })?
            }
            None => target.open(&self.mounts).ok_or_else(|| target.lost())?,
        };
        let path = proc_path(&file);
        Ok((file, path))
    }

    /// The switches of this run.
    pub(crate) fn switches(&self) -> &Options {
        self.options
    }

    /// The mounts.
    pub(crate) fn mounts(&self) -> &[MountInfo] {
        &self.mounts
    }
}

/// A path that leads to an open file.
pub(crate) fn proc_path(file: &OwnedFd) -> CString {
    CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default()
}

/// inotify or fanotify.
pub trait Watch: Send + Sync + 'static {
    /// Name for messages.
    const NAME: &'static str;
    /// Its number in the images.
    const TYPES: &'static [proto::FdTypes];
    /// What procfs calls it.
    const LINK: &'static str;
    /// Makes the entry.
    fn dump(d: &Descriptor<'_>, finder: &Finder<'_>) -> Result<proto::FileEntry, WatchError>;
    /// Makes the descriptor without its watches.
    fn open(entry: &proto::FileEntry) -> Result<OwnedFd, BoxError>;
    /// Sets the watches.
    fn set(entry: &proto::FileEntry, fd: BorrowedFd<'_>, finder: &Finder<'_>) -> Result<(), WatchError>;
}

/// It as a [`FileKind`].
pub struct WatchKind<K> {
    files: Arc<Files>,
    kind: PhantomData<fn() -> K>,
}

impl<K> WatchKind<K> {
    /// The kind, over the files that it shares with others.
    pub fn new(files: &Arc<Files>) -> Self {
        WatchKind { files: files.clone(), kind: PhantomData }
    }
}

impl<K: Watch> FileKind for WatchKind<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn types(&self) -> &'static [proto::FdTypes] {
        K::TYPES
    }

    fn claims(&self, descriptor: &Descriptor<'_>) -> bool {
        descriptor.link == Path::new(K::LINK)
    }

    fn dump<'t>(&'t self, context: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(WatchDump::<K> { options: context.options, finder: None, kind: PhantomData })
    }

    fn restore<'t>(&'t self, context: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        let (files, options) = (&*self.files, context.options);
        Ok(Box::new(WatchRestore::<K> { files, options, open: Vec::new(), kind: PhantomData }))
    }
}

struct WatchDump<'t, K> {
    options: &'t Options,
    finder: Option<Finder<'t>>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Watch> FileDump for WatchDump<'_, K> {
    fn lock(&mut self, d: &Descriptor<'_>) -> Result<(), BoxError> {
        if crate::sys::waiting(d.fd)? > 0 {
            tracing::warn!("pid {} fd {}: {} events that wait are dropped", d.pid, d.number, K::NAME);
        }
        Ok(())
    }

    fn entry(&mut self, d: &Descriptor<'_>, _: &mut RecordSet) -> Result<proto::FileEntry, BoxError> {
        let finder = match &self.finder {
            Some(finder) => finder,
            None => self.finder.insert(Finder::new(self.options, None)?),
        };
        Ok(K::dump(d, finder)?)
    }

    fn finish(&mut self, _: &dyn Fn(i32, i32) -> Option<u32>, _: &mut RecordSet) -> Result<(), BoxError> {
        Ok(())
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        Ok(())
    }
}

struct WatchRestore<'t, K> {
    files: &'t Files,
    options: &'t Options,
    open: Vec<(proto::FileEntry, OwnedFd)>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Watch> FileRestore for WatchRestore<'_, K> {
    fn plan(&mut self, entry: &proto::FileEntry) -> Result<(), BoxError> {
        match (&entry.ify, &entry.ffy) {
            (None, None) => Err(alone::missing(entry)),
            _ => Ok(()),
        }
    }

    fn open(&mut self, entry: &proto::FileEntry) -> Result<OwnedFd, BoxError> {
        let fd = K::open(entry)?;
        self.open.push((entry.clone(), fd.try_clone()?));
        Ok(fd)
    }

    fn connect(&mut self, _: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), BoxError> {
        if self.open.is_empty() {
            return Ok(());
        }
        // Deleted files that are watched exist again by now.
        let finder = Finder::new(self.options, Some(self.files))?;
        for (entry, fd) in self.open.drain(..) {
            K::set(&entry, std::os::fd::AsFd::as_fd(&fd), &finder)?;
        }
        Ok(())
    }

    fn steps(&mut self, _: &proto::FileEntry, _: Slot, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}
