//! Anonymous memory files: memfd_create(2), their contents, seals and the descriptions of them.

use crate::named::{Named, NamedKind};
use crate::sys;
use criu_images::proto::{self, MemfdFileEntry, MemfdInodeEntry};
use criu_images::{Image, Record, RecordSet, Store, StoreExt};
use criu_resource::{BoxError, Descriptor};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::stat::fstat;
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;

mod pages;

const PREFIX: &[u8] = b"/memfd:";
const DELETED: &[u8] = b" (deleted)";
/// Pages images of memory files are numbered from here on, out of the way of those of tasks.
const FIRST_PAGES_ID: u32 = 1 << 30;
/// The same goes for their lists of pages.
const FIRST_SHMID: u32 = 1 << 31;

/// A memory file that cannot be stored or made again.
#[derive(Debug, thiserror::Error)]
pub enum MemfdError {
    /// A system call failed.
    #[error("memfd {name:?}: {call}: {source}")]
    Io {
        /// The name it was created with.
        name: String,
        /// Which call.
        call: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The images lack its contents.
    #[error("memfd.img has no inode {0}")]
    NoInode(u32),
    /// The kernel has too few huge pages.
    #[error(
        "memfd {name:?} needs {bytes} bytes in huge pages of {page}; free some, or raise \
         /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages", page >> 10
    )]
    HugePages {
        /// The name it was created with.
        name: String,
        /// Its size.
        bytes: u64,
        /// The size of a page.
        page: u64,
    },
    /// The images are damaged.
    #[error(transparent)]
    Image(#[from] criu_images::Error),
}

/// Descriptions of memory files.
pub type Memfd = NamedKind<MemfdFiles>;

/// What [`Memfd`] does.
#[derive(Debug)]
pub struct MemfdFiles;

impl Named for MemfdFiles {
    const NAME: &'static str = "memfd";
    const TYPES: &'static [proto::FdTypes] = &[proto::FdTypes::Memfd];

    fn claims(descriptor: &Descriptor<'_>) -> bool {
        is_memfd(descriptor)
    }

    fn entry(files: &crate::Files, descriptor: &Descriptor<'_>) -> Result<proto::FileEntry, BoxError> {
        files.memfd_entry(descriptor)
    }

    fn position(entry: &proto::FileEntry) -> Option<(u64, &proto::FownEntry)> {
        entry.memfd.as_ref().map(|memfd| (memfd.pos, &memfd.fown))
    }
}

/// The device of the kernel's own shared memory, on which memory files lie.
static SHMEM_DEVICE: LazyLock<Option<u64>> = LazyLock::new(|| {
    let file = sys::memfd_create(c"criu-rs", libc::MFD_CLOEXEC).ok()?;
    Some(fstat(&file).ok()?.st_dev)
});

/// Whether the file behind a descriptor or mapping is a memory file.
pub fn is_memfd(d: &Descriptor<'_>) -> bool {
    // Shared anonymous memory, opened through map_files, is one too, whatever its name.
    let named = || d.link.as_os_str().as_bytes().starts_with(PREFIX);
    d.nlink == 0 && (Some(d.dev) == *SHMEM_DEVICE || (named() && huge_page_size(d).is_some()))
}

/// A name for messages and options.
fn shown(entry: &MemfdInodeEntry) -> String {
    String::from_utf8_lossy(&entry.name).into_owned()
}

fn huge_page_size(d: &Descriptor<'_>) -> Option<u64> {
    let fs = nix::sys::statfs::fstatfs(d.fd).ok()?;
    (fs.filesystem_type() == nix::sys::statfs::HUGETLBFS_MAGIC).then(|| fs.block_size() as u64)
}

/// The memory files of a dump, each with its contents stored once.
#[derive(Debug, Default)]
pub(crate) struct MemfdInodes {
    ids: HashMap<(u64, u64), u32>,
    files: Vec<(MemfdInodeEntry, OwnedFd)>,
}

impl MemfdInodes {
    /// The entry of a description.
    pub fn entry(&mut self, d: &Descriptor<'_>) -> Result<MemfdFileEntry, MemfdError> {
        let inode_id = match self.ids.get(&(d.dev, d.ino)) {
            Some(&id) => id,
            None => {
                let id = self.ids.len() as u32 + 1;
                self.files.push(inode(d, id)?);
                self.ids.insert((d.dev, d.ino), id);
                id
            }
        };
        Ok(MemfdFileEntry { id: d.id, flags: d.flags, pos: d.pos, fown: d.fown, inode_id })
    }

    /// Writes the contents to `store`, and the list of files to `records`.
    pub fn write(&mut self, records: &mut RecordSet, store: &dyn Store) -> Result<(), MemfdError> {
        for (number, (entry, file)) in self.files.drain(..).enumerate() {
            if entry.size > 0 {
                let io = |source| MemfdError::Io { name: shown(&entry), call: "read", source };
                let pages_id = FIRST_PAGES_ID + number as u32;
                pages::store(&File::from(file), &entry, pages_id, store, &io)?;
            }
            records.push(Record::new(Image::MemfdInode, 0, &entry));
        }
        Ok(())
    }
}

fn inode(d: &Descriptor<'_>, id: u32) -> Result<(MemfdInodeEntry, OwnedFd), MemfdError> {
    let bytes = d.link.as_os_str().as_bytes();
    let bytes = bytes.strip_prefix(PREFIX).unwrap_or(bytes);
    let name = bytes.strip_suffix(DELETED).unwrap_or(bytes).to_vec();
    let io = |call| {
        let name = String::from_utf8_lossy(&name).into_owned();
        move |source: io::Error| MemfdError::Io { name, call, source }
    };
    let stat = fstat(d.fd).map_err(|errno| io("fstat")(errno.into()))?;
    let file = sys::reopen(d.fd, libc::O_RDONLY as u32).map_err(io("open"))?;
    let seals =
        fcntl(&file, FcntlArg::F_GET_SEALS).map_err(|errno| io("fcntl(F_GET_SEALS)")(errno.into()))?;
    let hugetlb_flag =
        huge_page_size(d).map(|size| libc::MFD_HUGETLB | size.trailing_zeros() << libc::MFD_HUGE_SHIFT);
    let entry = MemfdInodeEntry {
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size as u64,
        // The name of the image with its pages, apart from those of other shared memory.
        shmid: FIRST_SHMID | id,
        seals: seals as u32,
        inode_id: id.into(),
        hugetlb_flag,
        mode: Some(stat.st_mode),
        name,
    };
    Ok((entry, file))
}

/// The memory files of a restore.
#[derive(Debug, Default)]
pub(crate) struct Inodes {
    entries: HashMap<u32, MemfdInodeEntry>,
    made: HashMap<u32, Made>,
}

#[derive(Debug)]
struct Made {
    file: OwnedFd,
    /// The description that memfd_create(2) made was given away.
    given: bool,
}

impl Inodes {
    pub fn load(&mut self, store: &dyn Store) -> Result<(), MemfdError> {
        let entries: Vec<MemfdInodeEntry> = store.read_image_opt(Image::MemfdInode, 0)?.unwrap_or_default();
        self.entries = entries.into_iter().map(|entry| (entry.inode_id as u32, entry)).collect();
        Ok(())
    }

    /// The name of a description's file.
    pub fn name(&self, memfd: &MemfdFileEntry) -> String {
        self.entries.get(&memfd.inode_id).map(shown).unwrap_or_default()
    }

    /// Opens the file with `flags`, or those of the description.
    pub fn open(
        &mut self,
        memfd: &MemfdFileEntry,
        flags: Option<u32>,
        store: &dyn Store,
    ) -> Result<OwnedFd, MemfdError> {
        let id = memfd.inode_id;
        let entry = self.entries.get(&id).ok_or(MemfdError::NoInode(id))?;
        let io = |call| move |source| MemfdError::Io { name: shown(entry), call, source };
        let made = match self.made.entry(id) {
            std::collections::hash_map::Entry::Occupied(made) => made.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Made { file: make(entry, store)?, given: false })
            }
        };
        let (wanted, mapping) = (flags.unwrap_or(memfd.flags), flags.is_some());
        let writable = wanted & libc::O_ACCMODE as u32 == libc::O_RDWR as u32;
        // Only the first description of a memory file can be executed (execveat with AT_EMPTY_PATH) while
        // nobody else has it open for writing, so that one goes to the tree where it can.
        if writable && (mapping || !made.given) {
            made.given |= !mapping;
            if !mapping {
                sys::set_flags(made.file.as_fd(), wanted).map_err(|e| io("fcntl(F_SETFL)")(e.into()))?;
            }
            return made.file.try_clone().map_err(io("dup"));
        }
        sys::reopen(made.file.as_fd(), wanted).map_err(io("open"))
    }

    /// Seals the files: only when all mappings exist, some seals forbid new writable ones.
    pub fn seal(&self) -> Result<(), MemfdError> {
        for (id, made) in &self.made {
            let entry = &self.entries[id];
            let seals = SealFlag::from_bits_retain(entry.seals as i32);
            if seals != SealFlag::F_SEAL_SEAL && !seals.is_empty() {
                fcntl(&made.file, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| MemfdError::Io {
                    name: shown(entry),
                    call: "fcntl(F_ADD_SEALS)",
                    source: errno.into(),
                })?;
            }
        }
        Ok(())
    }
}

fn make(entry: &MemfdInodeEntry, store: &dyn Store) -> Result<OwnedFd, MemfdError> {
    let io = |call| move |source: io::Error| MemfdError::Io { name: shown(entry), call, source };
    let mut flags = libc::MFD_CLOEXEC | entry.hugetlb_flag();
    if entry.seals != libc::F_SEAL_SEAL as u32 {
        flags |= libc::MFD_ALLOW_SEALING;
    }
    let name = CString::new(entry.name.as_slice()).map_err(|e| io("name")(e.into()))?;
    let file = File::from(sys::memfd_create(&name, flags).map_err(|e| io("memfd_create")(e.into()))?);
    file.set_len(entry.size).map_err(io("ftruncate"))?;
    if entry.size > 0 {
        pages::load(&file, entry, store)?;
    }
    std::os::unix::fs::fchown(&file, Some(entry.uid), Some(entry.gid)).map_err(io("fchown"))?;
    if let Some(mode) = entry.mode {
        file.set_permissions(Permissions::from_mode(mode & 0o7777)).map_err(io("fchmod"))?;
    }
    Ok(file.into())
}
