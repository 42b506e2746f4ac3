//! Files without a name: their contents travel in the images.
//!
//! A restored ghost gets a name beside the old one, is linked to the old one where that is free (procfs shows
//! that name later), and loses both once everything is open.

use crate::sys;
use criu_images::proto::{self, GhostChunkEntry, GhostFileEntry, RemapFilePathEntry, RemapType};
use criu_images::{Image, Record, Store, StoreExt};
use criu_resource::{BoxError, Descriptor};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstat, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, Whence, lseek};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Files of at least this size are stored in pieces around their holes, in bytes.
const CHUNKED: u64 = 3 * 4096;
/// The size up to which deleted files are stored unless the user says otherwise, in bytes.
const DEFAULT_LIMIT: u64 = 1 << 20;

/// A deleted file that cannot be stored or made again.
#[derive(Debug, thiserror::Error)]
pub enum GhostError {
    /// Larger than the user allows.
    #[error("{} was deleted and takes {size} bytes; use --ghost-limit {size} to store it", path.display())]
    Limit {
        /// Its last name.
        path: PathBuf,
        /// What it takes, in bytes.
        size: u64,
    },
    /// Reading or writing failed.
    #[error("deleted file {}: {call}: {source}", path.display())]
    Io {
        /// Its last name, or the one it has for the moment.
        path: PathBuf,
        /// What was tried.
        call: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn failed(path: &Path, call: &'static str) -> impl Fn(io::Error) -> GhostError {
    move |source| GhostError::Io { path: path.to_owned(), call, source }
}

/// The deleted files of a dump.
#[derive(Debug, Default)]
pub struct Ghosts {
    ids: HashMap<(u64, u64), u32>,
    records: Vec<Record>,
    remaps: Vec<RemapFilePathEntry>,
}

impl Ghosts {
    /// Stores the file once and notes that the description goes back to it.
    pub fn note(&mut self, d: &Descriptor<'_>, path: &Path, limit: u64) -> Result<(), GhostError> {
        let id = match self.ids.get(&(d.dev, d.ino)) {
            Some(&id) => id,
            None => {
                let id = self.ids.len() as u32 + 1;
                self.store(d, path, if limit == 0 { DEFAULT_LIMIT } else { limit }, id)?;
                self.ids.insert((d.dev, d.ino), id);
                id
            }
        };
        let mut remap = RemapFilePathEntry { orig_id: d.id, remap_id: id, remap_type: None };
        remap.set_remap_type(RemapType::Ghost);
        self.remaps.push(remap);
        Ok(())
    }

    pub(super) fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    pub(super) fn take_remaps(&mut self) -> Vec<RemapFilePathEntry> {
        std::mem::take(&mut self.remaps)
    }

    fn store(&mut self, d: &Descriptor<'_>, path: &Path, limit: u64, id: u32) -> Result<(), GhostError> {
        let failed = |call| failed(path, call);
        let stat = fstat(d.fd).map_err(|e| failed("fstat")(e.into()))?;
        let size = stat.st_blocks as u64 * 512;
        if size > limit {
            return Err(GhostError::Limit { path: path.to_owned(), size });
        }
        let kind = SFlag::from_bits_truncate(d.mode & libc::S_IFMT);
        let chunks = kind == SFlag::S_IFREG && d.size >= CHUNKED;
        let symlnk_target = (kind == SFlag::S_IFLNK)
            .then(|| nix::fcntl::readlinkat(d.fd, ""))
            .transpose()
            .map_err(|e| failed("readlink")(e.into()))?
            .map(OsStringExt::into_vec);
        let time = |sec: i64, nsec: i64| proto::Timeval { tv_sec: sec as u64, tv_usec: (nsec / 1000) as u64 };
        let head = GhostFileEntry {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: d.mode,
            dev: Some(d.dev as u32),
            ino: Some(d.ino),
            rdev: (kind == SFlag::S_IFCHR || kind == SFlag::S_IFBLK).then_some(d.rdev as u32),
            atim: Some(time(stat.st_atime, stat.st_atime_nsec)),
            mtim: Some(time(stat.st_mtime, stat.st_mtime_nsec)),
            chunks: chunks.then_some(true),
            size: chunks.then_some(d.size),
            symlnk_target,
        };
        let head = Record::new(Image::GhostFile, id.into(), &head);
        if kind != SFlag::S_IFREG {
            self.records.push(head);
            return Ok(());
        }
        // The descriptor itself may be write-only or O_PATH.
        let file = File::from(sys::reopen(d.fd, libc::O_RDONLY as u32).map_err(failed("open"))?);
        if !chunks {
            let mut data = Vec::new();
            (&file).read_to_end(&mut data).map_err(failed("read"))?;
            self.records.push(head.with_payload(data));
            return Ok(());
        }
        self.records.push(head);
        for (begin, end) in extents(&file, d.size).map_err(failed("lseek"))? {
            let mut data = vec![0; (end - begin) as usize];
            file.read_exact_at(&mut data, begin).map_err(failed("read"))?;
            let chunk = GhostChunkEntry { off: begin, len: end - begin };
            self.records.push(Record::new(Image::GhostFile, id.into(), &chunk).with_payload(data));
        }
        Ok(())
    }
}

/// The parts of a file between its holes: (begin, end) in bytes.
fn extents(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    let mut position = 0;
    while position < size {
        let begin = match lseek(file, position as i64, Whence::SeekData) {
            Ok(begin) => begin as u64,
            Err(Errno::ENXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = (lseek(file, begin as i64, Whence::SeekHole)? as u64).min(size);
        if begin >= end {
            break;
        }
        found.push((begin, end));
        position = end;
    }
    Ok(found)
}

/// Deleted files that exist again, until all are open.
///
/// A file that is watched by inotify loses its watches with the last of its names that nobody has open. So
/// its own name goes first, and then the names under which it was opened.
#[derive(Debug, Default)]
pub struct Graves {
    made: HashMap<u32, Grave>,
    /// Names under which ghosts were opened.
    names: HashMap<PathBuf, u32>,
    /// Directories that were made for names, inner ones after outer ones.
    parents: Vec<PathBuf>,
}

/// One of them.
#[derive(Debug)]
struct Grave {
    /// The name it has for the moment.
    path: PathBuf,
    /// A directory has only one name.
    directory: bool,
    /// Device and inode that it had.
    was: (u32, u64),
}

impl Graves {
    /// The name under which to open ghost `id` so that procfs shows `shown`.
    pub fn surface(&mut self, store: &dyn Store, id: u32, shown: &Path) -> Result<PathBuf, BoxError> {
        if !self.made.contains_key(&id) {
            let grave = self.make(store, id, shown)?;
            self.made.insert(id, grave);
        }
        if self.made[&id].directory {
            return Ok(self.made[&id].path.clone());
        }
        let mut other = shown.to_owned();
        other.as_mut_os_string().push(".cr_link");
        for name in [shown, &other] {
            match self.names.get(name) {
                Some(&owner) if owner == id => return Ok(name.to_owned()),
                // Another deleted file had the same name once: it had its turn.
                Some(_) => {
                    fs::remove_file(name).map_err(failed(name, "unlink"))?;
                    self.names.remove(name);
                }
                None => {}
            }
            self.parents.extend(make_parents(name).map_err(failed(name, "mkdir"))?);
            match fs::hard_link(&self.made[&id].path, name) {
                Ok(()) => {
                    self.names.insert(name.to_owned(), id);
                    return Ok(name.to_owned());
                }
                // Somebody has the name meanwhile: another one beside it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && name != other => {}
                Err(error) => return Err(failed(name, "link")(error).into()),
            }
        }
        Ok(self.made[&id].path.clone())
    }

    fn make(&mut self, store: &dyn Store, id: u32, shown: &Path) -> Result<Grave, BoxError> {
        let mut image = store.open_image(Image::GhostFile, id.into())?;
        let head: GhostFileEntry = image.expect()?;
        let kind = SFlag::from_bits_truncate(head.mode & libc::S_IFMT);
        let directory = kind == SFlag::S_IFDIR;
        let mut path = shown.to_owned();
        // A directory may have been made for something inside it.
        let before = self.parents.len();
        self.parents.retain(|parent| !(directory && parent == shown));
        let there = self.parents.len() < before;
        if !directory || (shown.exists() && !there) {
            path.as_mut_os_string().push(format!(".cr.{id:x}.ghost"));
        }
        self.parents.extend(make_parents(&path).map_err(failed(&path, "mkdir"))?);
        // What an earlier restore left behind when it was killed.
        if fs::symlink_metadata(&path).is_ok_and(|left| !left.is_dir() && left.nlink() == 1) {
            fs::remove_file(&path).map_err(failed(&path, "unlink"))?;
        }
        if let Err(error) = fill(&path, kind, &head, &mut image, there) {
            let _ = if directory { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            return Err(error);
        }
        Ok(Grave { path, directory, was: (head.dev(), head.ino()) })
    }

    /// A name that leads to the ghost of this inode.
    pub fn at(&self, dev: u64, ino: u64) -> Option<PathBuf> {
        self.made.values().find(|grave| grave.was == (dev as u32, ino)).map(|grave| grave.path.clone())
    }

    /// Takes the names away.
    pub fn close(&mut self) -> Result<(), BoxError> {
        let (mut directories, files): (Vec<Grave>, Vec<Grave>) =
            self.made.drain().map(|(_, grave)| grave).partition(|grave| grave.directory);
        let mut result = Ok(());
        for path in files.into_iter().map(|grave| grave.path).chain(self.names.drain().map(|(name, _)| name))
        {
            result = result.and(fs::remove_file(&path).map_err(failed(&path, "unlink")));
        }
        // Inner ones have longer names.
        directories.sort_by_key(|grave| std::cmp::Reverse(grave.path.as_os_str().len()));
        for Grave { path, .. } in directories {
            result = result.and(fs::remove_dir(&path).map_err(failed(&path, "rmdir")));
        }
        remove_parents(&self.parents);
        self.parents.clear();
        Ok(result?)
    }
}

impl Drop for Graves {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!("{error}");
        }
    }
}

/// Makes the directories that a name needs. The list is for [`remove_parents`].
pub(super) fn make_parents(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut missing: Vec<&Path> = path.ancestors().skip(1).take_while(|parent| !parent.exists()).collect();
    missing.reverse();
    let mut made = Vec::new();
    for directory in missing {
        if let Err(error) = fs::create_dir(directory) {
            remove_parents(&made);
            return Err(error);
        }
        made.push(directory.to_owned());
    }
    Ok(made)
}

/// Removes them again, unless something is in them.
pub(super) fn remove_parents(made: &[PathBuf]) {
    for directory in made.iter().rev() {
        let _ = fs::remove_dir(directory);
    }
}

fn fill<R: Read>(
    place: &Path,
    kind: SFlag,
    head: &GhostFileEntry,
    image: &mut criu_images::FrameReader<R>,
    there: bool,
) -> Result<(), BoxError> {
    let failed = |call| failed(place, call);
    let mode = Mode::from_bits_truncate(head.mode & 0o7777);
    match kind {
        SFlag::S_IFREG => {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(place)
                .map_err(failed("create"))?;
            if head.chunks() {
                file.set_len(head.size()).map_err(failed("truncate"))?;
                while let Some(chunk) = image.entry::<GhostChunkEntry>()? {
                    file.seek(SeekFrom::Start(chunk.off)).map_err(failed("seek"))?;
                    image.copy_payload(chunk.len, &mut file)?;
                }
            } else {
                file.write_all(&image.rest()?).map_err(failed("write"))?;
            }
        }
        SFlag::S_IFDIR if there => {}
        SFlag::S_IFDIR => fs::create_dir(place).map_err(failed("mkdir"))?,
        SFlag::S_IFLNK => {
            std::os::unix::fs::symlink(OsStr::from_bytes(head.symlnk_target()), place)
                .map_err(failed("symlink"))?;
        }
        _ => mknod(place, kind, mode, head.rdev().into()).map_err(|e| failed("mknod")(e.into()))?,
    }
    let (uid, gid) = (Uid::from_raw(head.uid), Gid::from_raw(head.gid));
    std::os::unix::fs::lchown(place, Some(uid.as_raw()), Some(gid.as_raw())).map_err(failed("chown"))?;
    if kind != SFlag::S_IFLNK {
        fs::set_permissions(place, fs::Permissions::from_mode(head.mode & 0o7777))
            .map_err(failed("chmod"))?;
    }
    if let (Some(atime), Some(mtime)) = (&head.atim, &head.mtim) {
        let time = |t: &proto::Timeval| TimeSpec::new(t.tv_sec as i64, t.tv_usec as i64 * 1000);
        utimensat(AT_FDCWD, place, &time(atime), &time(mtime), UtimensatFlags::NoFollowSymlink)
            .map_err(|e| failed("utimensat")(e.into()))?;
    }
    Ok(())
}
