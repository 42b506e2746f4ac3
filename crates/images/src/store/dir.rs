//! Images as files of one directory.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, FallocateFlags, OFlag, fallocate, openat, renameat},
    sys::stat::{FileStat, Mode, fstatat},
    unistd::{AccessFlags, UnlinkatFlags, faccessat, unlinkat},
};

use super::{ImageReader, ImageWriter, Store};
use crate::error::{Error, Result};
use crate::lineage::PARENT;

/// Most images are small; what is large is written by the page, past this buffer.
const BUFFER: usize = 16 * 1024;

/// Images as files of one directory, which is held open: renaming or unmounting it later does no harm.
#[derive(Debug)]
pub struct DirStore {
    dir: OwnedFd,
    path: PathBuf,
}

impl DirStore {
    /// Opens a directory to read images from.
    ///
    /// # Errors
    /// [`Error::Io`]: missing, no directory, not readable.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open(path, flags, Mode::empty()).map_err(|errno| {
            let op = match errno {
                Errno::ENOENT => "images directory is missing, create it first",
                Errno::ENOTDIR => "is no directory, give one as --images-dir",
                Errno::EACCES => "images directory cannot be read",
                _ => "open images directory",
            };
            Error::io(path.display().to_string(), op, errno)
        })?;
        Ok(DirStore { dir, path: path.to_owned() })
    }

    /// Opens a directory to write images to.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when it cannot be written.
    pub fn open_writable(path: impl AsRef<Path>) -> Result<Self> {
        let this = Self::open(path)?;
        faccessat(&this.dir, ".", AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS).map_err(
            |errno| {
                let image = this.path.display().to_string();
                Error::io(image, "images directory cannot be written", errno)
            },
        )?;
        Ok(this)
    }

    /// Takes a directory that is open already, as the RPC hands over. `path` is for messages.
    pub fn from_fd(dir: OwnedFd, path: impl Into<PathBuf>) -> Self {
        DirStore { dir, path: path.into() }
    }

    /// The directory's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn stat(&self, name: &str) -> nix::Result<FileStat> {
        fstatat(&self.dir, name, AtFlags::empty())
    }

    fn missing(&self, name: &str) -> Error {
        Error::Missing { image: name.to_owned(), place: self.path.display().to_string() }
    }
}

impl AsFd for DirStore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Store for DirStore {
    fn create(&self, name: &str) -> Result<Box<dyn ImageWriter>> {
        // A new file rather than an emptied one: filesystems write the latter out when it is closed
        // (ext4's auto_da_alloc), and a link that somebody left here is not followed.
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let create = || openat(&self.dir, name, flags, Mode::from_bits_truncate(0o644));
        let created = match create() {
            Err(Errno::EEXIST) => {
                self.remove(name)?;
                create()
            }
            created => created,
        };
        let fd = created.map_err(|errno| Error::io(name, "create", errno))?;
        Ok(Box::new(FileWriter {
            file: BufWriter::with_capacity(BUFFER, File::from(fd)),
            name: name.to_owned(),
        }))
    }

    fn open(&self, name: &str) -> Result<Box<dyn ImageReader>> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = openat(&self.dir, name, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::ENOENT => self.missing(name),
            _ => Error::io(name, "open", errno),
        })?;
        let file = File::from(fd);
        let len = file.metadata().map_err(|source| Error::io(name, "stat", source))?.len();
        Ok(Box::new(FileReader { file: BufReader::with_capacity(BUFFER, file), len }))
    }

    fn exists(&self, name: &str) -> bool {
        self.stat(name).is_ok()
    }

    fn list(&self) -> Result<Vec<String>> {
        let failed = |errno| Error::io(self.path.display().to_string(), "list", errno);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(&self.dir, ".", flags, Mode::empty()).map_err(failed)?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(failed)?;
            // Image names are ASCII; whatever else lies here is none.
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<()> {
        match unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(Error::io(name, "remove", errno)),
        }
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        renameat(&self.dir, from, &self.dir, to).map_err(|errno| match errno {
            Errno::ENOENT => self.missing(from),
            _ => Error::io(from, "rename", errno),
        })
    }

    fn punch(&self, name: &str, parts: &[Range<u64>]) -> Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let fd = openat(&self.dir, name, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::ENOENT => self.missing(name),
            _ => Error::io(name, "open", errno),
        })?;
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        for part in parts {
            fallocate(&fd, mode, part.start as i64, (part.end - part.start) as i64)
                .map_err(|errno| Error::io(name, "fallocate(FALLOC_FL_PUNCH_HOLE)", errno))?;
        }
        Ok(())
    }

    fn parent(&self) -> Result<Option<Box<dyn Store>>> {
        if fstatat(&self.dir, PARENT, AtFlags::AT_SYMLINK_NOFOLLOW) == Err(Errno::ENOENT) {
            return Ok(None);
        }
        let path = self.path.join(PARENT);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = openat(&self.dir, PARENT, flags, Mode::empty()).map_err(|errno| {
            let op = "open the parent checkpoint, without which this one is incomplete";
            Error::io(path.display().to_string(), op, errno)
        })?;
        Ok(Some(Box::new(DirStore { dir, path })))
    }
}

struct FileWriter {
    file: BufWriter<File>,
    name: String,
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl ImageWriter for FileWriter {
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.get_ref().as_fd())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let FileWriter { mut file, name } = *self;
        file.flush().map_err(|source| Error::io(name.as_str(), "write", source))?;
        // Some file systems (NFS, quotas) tell of a full disk only on close.
        let (file, _) = file.into_parts();
        nix::unistd::close(file).map_err(|errno| Error::io(name, "close", errno))
    }
}

struct FileReader {
    file: BufReader<File>,
    len: u64,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for FileReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl ImageReader for FileReader {
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.get_ref().as_fd())
    }

    fn len(&self) -> u64 {
        self.len
    }
}
