//! Files with a name: regular ones, directories, O_PATH, memory devices, files of procfs.

use crate::named::{Named, NamedKind};
use crate::{Files, memfd};
use criu_images::proto;
use criu_resource::{BoxError, Descriptor};

/// Major number of `/dev/null` and its like.
const MEM_MAJOR: u32 = 1;

/// Files that are opened by their name.
pub type Regular = NamedKind<RegularFiles>;

/// What [`Regular`] does.
#[derive(Debug)]
pub struct RegularFiles;

impl Named for RegularFiles {
    const NAME: &'static str = "regular file";
    const TYPES: &'static [proto::FdTypes] = &[proto::FdTypes::Reg];

    fn claims(d: &Descriptor<'_>) -> bool {
        let named = d.link.is_absolute() && !memfd::is_memfd(d);
        match d.mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK => named,
            libc::S_IFCHR => named && libc::major(d.rdev) == MEM_MAJOR,
            // Opened with O_PATH, anything is just a name.
            _ => named && d.flags & libc::O_PATH as u32 != 0,
        }
    }

    fn entry(files: &Files, descriptor: &Descriptor<'_>) -> Result<proto::FileEntry, BoxError> {
        files.regular_entry(descriptor)
    }

    fn position(entry: &proto::FileEntry) -> Option<(u64, &proto::FownEntry)> {
        entry.reg.as_ref().map(|regular| (regular.pos, &regular.fown))
    }
}
