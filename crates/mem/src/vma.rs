//! From `/proc/PID/smaps` to [`VmaEntry`]: what each area is.
//!
//! smaps is slow text (measured on Linux 6.18: 8 µs an area, against 0.9 µs in maps; 1 GiB of touched
//! pages adds 30 ms for walking them), but the flags that madvise(2), mlock(2) and mmap(2) leave on an
//! area are told nowhere else: `PROCMAP_QUERY` gives the protection only. It is read once for each task, and
//! the tasks of a tree side by side.

use crate::error::{Error, Place};
use crate::notes::Note;
use crate::status;
use criu_images::proto::VmaEntry;
use criu_kernel::procmap::{VmFlags, Vma};
use std::os::unix::ffi::OsStrExt;

const MAP_SHARED: u32 = libc::MAP_SHARED as u32;
const MAP_PRIVATE: u32 = libc::MAP_PRIVATE as u32;
const MAP_ANONYMOUS: u32 = libc::MAP_ANONYMOUS as u32;

/// Shared memory of huge pages is numbered apart from other shared memory, as it has inodes of its own.
const HUGE_OBJECT: u64 = 1 << 48;

/// What an area is, beyond its entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Area {
    /// For the image; `shmid` of a mapped file is filled in later.
    pub entry: VmaEntry,
    /// The mapped file, or `None`.
    pub file: Option<FileKey>,
    /// Its name and seal.
    pub note: Note,
}

/// Tells mapped files apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// Device, major and minor number.
    pub device: (u32, u32),
    /// Inode.
    pub inode: u64,
    /// Its path, as maps shows it.
    pub path: std::ffi::OsString,
}

/// `vma_entry.madv` has, for each of these flags of an area, the bit of this advice.
const ADVICE: [(VmFlags, i32); 8] = [
    (VmFlags::SEQ_READ, libc::MADV_SEQUENTIAL),
    (VmFlags::RAND_READ, libc::MADV_RANDOM),
    (VmFlags::DONT_COPY, libc::MADV_DONTFORK),
    (VmFlags::DONT_DUMP, libc::MADV_DONTDUMP),
    (VmFlags::MERGEABLE, libc::MADV_MERGEABLE),
    (VmFlags::HUGE_PAGE, libc::MADV_HUGEPAGE),
    (VmFlags::NO_HUGE_PAGE, libc::MADV_NOHUGEPAGE),
    (VmFlags::WIPE_ON_FORK, libc::MADV_WIPEONFORK),
];

/// `vma_entry.flags` has, for each of these flags of an area, this bit of mmap(2).
const MMAP: [(VmFlags, u32); 4] = [
    (VmFlags::GROWS_DOWN, libc::MAP_GROWSDOWN as u32),
    (VmFlags::LOCKED, libc::MAP_LOCKED as u32),
    (VmFlags::NO_RESERVE, libc::MAP_NORESERVE as u32),
    (VmFlags::DROPPABLE, status::MAP_DROPPABLE),
];

/// Flags of areas that cannot be brought back.
const REFUSED: [(VmFlags, &str); 5] = [
    (VmFlags::SHADOW_STACK, "a shadow stack"),
    (VmFlags::UFFD_MISSING, "userfaultfd serves its missing pages"),
    (VmFlags::UFFD_WP, "userfaultfd tracks its writes"),
    (VmFlags::UFFD_MINOR, "userfaultfd serves its minor faults"),
    (VmFlags::MTE, "memory tagging"),
];

/// Says what the areas of task `pid` are. `shmem` is the device of the kernel's internal tmpfs, where
/// shared anonymous memory and memfds lie.
///
/// # Errors
/// [`Error::Unsupported`] names the first area that cannot be dumped.
pub fn classify(
    pid: i32,
    shmem: (u32, u32),
    maps: impl IntoIterator<Item = Vma>,
) -> Result<Vec<Area>, Error> {
    let mut areas: Vec<Area> = Vec::new();
    for vma in maps {
        let place = Place { pid, start: vma.start, end: vma.end };
        let area = one(&vma, shmem).map_err(|what| Error::Unsupported { place: place.clone(), what })?;
        if let Some(last) = areas.last_mut()
            && status::any(&area.entry, status::VVAR)
            && status::any(&last.entry, status::VVAR)
        {
            // [vvar] and [vvar_vclock] are one area in the images.
            if last.entry.end != area.entry.start {
                return Err(Error::Unsupported { place, what: "vvar areas apart from each other".into() });
            }
            last.entry.end = area.entry.end;
            continue;
        }
        areas.push(area);
    }
    Ok(areas)
}

fn one(vma: &Vma, shmem: (u32, u32)) -> Result<Area, String> {
    let flags = vma.flags.unwrap_or_default();
    if let Some((_, what)) = REFUSED.iter().find(|(flag, _)| flags.contains(*flag)) {
        return Err((*what).to_owned());
    }
    let mut entry = VmaEntry {
        start: vma.start,
        end: vma.end,
        pgoff: vma.offset,
        shmid: 0,
        prot: vma.prot.bits(),
        flags: if vma.shared { MAP_SHARED } else { MAP_PRIVATE },
        status: 0,
        fd: -1,
        madv: None,
        fdflags: None,
    };
    entry.flags |= MMAP.iter().filter(|(flag, _)| flags.contains(*flag)).fold(0, |bits, (_, bit)| bits | bit);
    if flags.contains(VmFlags::DROPPABLE) {
        // A mapping type of its own, in the place of MAP_PRIVATE.
        entry.flags &= !MAP_PRIVATE;
    }
    let advice =
        ADVICE.iter().filter(|(flag, _)| flags.contains(*flag)).fold(0, |bits, (_, n)| bits | 1 << n);
    entry.madv = (advice != 0).then_some(advice);

    let file = if vma.is_file() { file(vma, shmem, &mut entry)? } else { None };
    if file.is_none() && entry.status == 0 {
        anonymous(vma, &mut entry)?;
    }
    let of_kernel = status::any(&entry, status::VVAR | status::VSYSCALL | status::UPROBES);
    if flags.intersects(VmFlags::IO | VmFlags::PFN_MAP) && !of_kernel {
        return Err(format!("memory of a device ({})", vma.name.display()));
    }
    Ok(Area { entry, file, note: Note::of(vma) })
}

fn anonymous(vma: &Vma, entry: &mut VmaEntry) -> Result<(), String> {
    entry.status = match vma.special().unwrap_or_default() {
        "vsyscall" => status::VSYSCALL,
        "vdso" => status::REGULAR | status::VDSO,
        "vvar" | "vvar_vclock" => status::REGULAR | status::VVAR,
        "heap" => status::REGULAR | status::HEAP,
        "uprobes" => return Err("the kernel's area for uprobes; remove the uprobes first".to_owned()),
        _ => status::REGULAR,
    };
    entry.status |= status::ANON_PRIVATE;
    entry.flags |= MAP_ANONYMOUS;
    entry.pgoff = 0;
    Ok(())
}

fn file(vma: &Vma, shmem: (u32, u32), entry: &mut VmaEntry) -> Result<Option<FileKey>, String> {
    let name = vma.name.as_bytes();
    if name.starts_with(b"/[aio]") {
        entry.status = status::AIORING;
        return Ok(None);
    }
    if name.starts_with(b"anon_inode:") {
        return Err(format!("a mapping of {}", vma.name.display()));
    }
    if name.starts_with(b"socket:") {
        if vma.offset != 0 {
            return Err(format!("a part of the ring of {}", vma.name.display()));
        }
        entry.status = status::REGULAR | status::SOCKET;
        return Ok(Some(FileKey { device: vma.device, inode: vma.inode, path: vma.name.clone() }));
    }
    entry.status = status::REGULAR;
    let internal = vma.device == shmem;
    let huge = vma.flags.is_some_and(|flags| flags.contains(VmFlags::HUGETLB));
    let writable = vma.shared && vma.flags.is_some_and(|flags| flags.contains(VmFlags::MAY_WRITE));
    let access = Some(if writable { libc::O_RDWR } else { libc::O_RDONLY } as u32);
    if (internal || huge) && name.starts_with(b"/SYSV") {
        entry.status |= status::ANON_SHARED | status::SYSVIPC;
        entry.flags |= MAP_ANONYMOUS | if huge { status::MAP_HUGETLB } else { 0 };
        // Its inode has the number of the segment.
        entry.shmid = vma.inode;
        entry.fdflags = access;
        return Ok(None);
    }
    if huge && name.starts_with(b"/anon_hugepage") {
        entry.flags |= MAP_ANONYMOUS | status::MAP_HUGETLB;
        if vma.shared {
            entry.status |= status::ANON_SHARED;
            entry.shmid = vma.inode | HUGE_OBJECT;
        } else {
            entry.status |= status::ANON_PRIVATE;
            entry.pgoff = 0;
        }
        return Ok(None);
    }
    // A name set by PR_SET_VMA_ANON_NAME replaces that of the kernel.
    let nameless = name.starts_with(b"/dev/zero") || name.starts_with(b"[anon_shmem:");
    if internal && vma.shared && nameless {
        entry.status |= status::ANON_SHARED;
        entry.flags |= MAP_ANONYMOUS;
        entry.shmid = vma.inode;
        return Ok(None);
    }
    if internal {
        entry.status |= status::MEMFD;
    } else if huge && name.starts_with(b"/memfd:") {
        entry.status |= status::MEMFD;
        entry.flags |= status::MAP_HUGETLB;
    }
    entry.status |= if vma.shared { status::FILE_SHARED } else { status::FILE_PRIVATE };
    entry.fdflags = access;
    Ok(Some(FileKey { device: vma.device, inode: vma.inode, path: vma.name.clone() }))
}

#[cfg(test)]
mod tests;
