//! System V shared memory (shmget(2)): segments that nobody outside of the tree has attached.
//!
//! The tree has no IPC namespace of its own, so its segments are those of the machine: they stay when the tree
//! ends, and a restore takes such a segment again, if nobody attached it meanwhile, or makes one with the same
//! id and key.

use crate::error::Error;
use crate::shmem::{self, Created};
use crate::status;
use crate::vma::Area;
use criu_images::proto::{IpcDescEntry, IpcShmEntry, VmaEntry};
use criu_images::{Image, Lineage, Store, StoreExt};
use criu_kernel::sysvipc::{self, SHM_DEST, SHM_LOCKED, Segment};
use criu_resource::BoxError;
use criu_script::{Check, Script};
use nix::errno::Errno;
use std::collections::{BTreeMap, HashSet};

/// Ids of anonymous shared memory are set apart by this bit where they meet those of segments.
const APART: u64 = 1 << 49;

/// Whether an area shows a segment.
pub fn is_segment(entry: &VmaEntry) -> bool {
    status::any(entry, status::SYSVIPC)
}

fn failed(id: i32, call: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Shared { shmid: id as u64, call, source: errno.into() }
}

fn refused(id: i32, key: u32, reason: String) -> Error {
    Error::Segment { id, key, reason }
}

/// Dump: the segments that a tree's areas show. Gives other shared memory ids that are not theirs.
///
/// # Errors
/// [`Error::Segment`] for one that others have attached too.
pub fn segments(tasks: &mut [&mut Vec<Area>]) -> Result<Vec<IpcShmEntry>, Error> {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    let areas = tasks.iter().flat_map(|areas| areas.iter());
    for area in areas.filter(|area| is_segment(&area.entry)) {
        *counts.entry(area.entry.shmid).or_default() += 1;
    }
    let others = tasks.iter_mut().flat_map(|areas| areas.iter_mut()).map(|area| &mut area.entry);
    for other in others.filter(|entry| shmem::is_mapping(entry) && counts.contains_key(&entry.shmid)) {
        other.shmid |= APART;
    }
    counts.into_iter().map(|(id, count)| segment(id as i32, count)).collect()
}

fn segment(id: i32, count: u64) -> Result<IpcShmEntry, Error> {
    let seen = sysvipc::stat(id).map_err(failed(id, "shmctl(IPC_STAT)"))?;
    if seen.attached != count {
        let others = seen.attached.saturating_sub(count);
        let reason = format!(
            "processes outside of the tree have it attached too ({others} of {} times); dump them with it, or \
             end them first",
            seen.attached
        );
        return Err(refused(id, seen.key as u32, reason));
    }
    let Segment { key, uid, gid, cuid, cgid, mode, size, .. } = seen;
    let desc = IpcDescEntry { key: key as u32, uid, gid, cuid, cgid, mode, id: id as u32 };
    Ok(IpcShmEntry { desc, size, in_pagemaps: Some(true), hugetlb_flag: None })
}

/// A segment to be restored.
struct Planned {
    entry: IpcShmEntry,
    /// Flags of shmget(2) that ask for huge pages.
    huge: u32,
    /// It is still there, from the dumped tree.
    exists: bool,
}

/// All segments of a restore.
#[derive(Default)]
pub struct Segments {
    planned: BTreeMap<u64, Planned>,
    /// Those made, as long as it may be that nobody will use them.
    made: Vec<i32>,
}

impl Segments {
    /// Reads and checks what `areas` show; `namespace` is the number of the IPC namespace in the images.
    ///
    /// # Errors
    /// [`Error::Segment`] where id or key are taken.
    pub fn read<'a>(
        store: &dyn Store,
        namespace: u32,
        areas: impl Iterator<Item = &'a VmaEntry>,
    ) -> Result<Segments, BoxError> {
        let areas: Vec<&VmaEntry> = areas.filter(|area| is_segment(area)).collect();
        let shown: HashSet<u64> = areas.iter().map(|area| area.shmid).collect();
        if shown.is_empty() {
            return Ok(Segments::default());
        }
        let entries: Vec<IpcShmEntry> = store.read_image(Image::IpcnsShm, namespace.into())?;
        let mut planned = BTreeMap::new();
        for entry in entries {
            let id = u64::from(entry.desc.id);
            let area = areas.iter().find(|area| area.shmid == id);
            let sized = area.map_or(0, |area| area.flags & (status::MAP_HUGETLB | status::HUGE_SIZE));
            let huge = match sized {
                0 => entry.hugetlb_flag(),
                size => libc::SHM_HUGETLB as u32 | size & status::HUGE_SIZE,
            };
            let exists = is_there(&entry)?;
            planned.insert(id, Planned { entry, huge, exists });
        }
        if let Some(id) = shown.iter().find(|id| !planned.contains_key(id)) {
            let image = Image::IpcnsShm.file_name(namespace.into());
            return Err(Error::image(image, format!("segment {id} is missing, which an area shows")).into());
        }
        Ok(Segments { planned, made: Vec::new() })
    }

    /// What an attachment of a segment takes up, in bytes.
    fn extent(&self, id: u64) -> u64 {
        let Some(Planned { entry, huge, .. }) = self.planned.get(&id) else { return 0 };
        let page = if *huge == 0 { crate::pages::PAGE } else { status::page_of(*huge) };
        entry.size.next_multiple_of(page)
    }

    /// The ranges of all attachments of a task, whole as shmat(2) makes them.
    pub fn ranges<'a>(&'a self, areas: &'a [VmaEntry]) -> impl Iterator<Item = (u64, u64)> {
        let attached = areas.iter().filter(|area| is_segment(area));
        attached.map(|area| (base(area), base(area) + self.extent(area.shmid)))
    }

    /// Makes the segments and fills them.
    pub fn prepare(&mut self, lineage: &Lineage<'_>) -> Result<(), BoxError> {
        let mut buffer = vec![0; 1 << 20];
        for (&id, planned) in &self.planned {
            let Planned { entry, huge, exists } = planned;
            if !exists {
                make(entry, *huge, &mut self.made)?;
            }
            let number = id as i32;
            let length = self.extent(id);
            let address = sysvipc::attach(number).map_err(failed(number, "shmat"))?;
            let object = Created::open(id, address, length as usize, *huge != 0)?;
            if *exists {
                object.clear().map_err(|source| Error::Shared {
                    shmid: id,
                    call: "fallocate(FALLOC_FL_PUNCH_HOLE)",
                    source,
                })?;
            }
            shmem::fill(lineage, id, length, &object, &mut buffer)?;
        }
        Ok(())
    }

    /// Adds steps that attach what a task has attached.
    pub fn attach_steps(&self, areas: &[VmaEntry], script: &mut Script) {
        let mut attached: BTreeMap<u64, Vec<&VmaEntry>> = BTreeMap::new();
        for area in areas.iter().filter(|area| is_segment(area)) {
            attached.entry(base(area)).or_default().push(area);
        }
        for (base, parts) in attached {
            let id = parts[0].shmid;
            let reads = |part: &&VmaEntry| part.fdflags == Some(libc::O_RDONLY as u32);
            let (flags, given) = match parts.iter().all(reads) {
                true => (libc::SHM_RDONLY, libc::PROT_READ),
                false => (0, libc::PROT_READ | libc::PROT_WRITE),
            };
            script
                .syscall(libc::SYS_shmat, [id.into(), base.into(), flags.into()])
                .check(Check::Eq(base as i64));
            let mut end = base;
            for part in &parts {
                detach(end, part.start, script);
                if part.prot != given as u32 {
                    let args = [part.start.into(), (part.end - part.start).into(), part.prot.into()];
                    script.syscall(libc::SYS_mprotect, args);
                }
                end = part.end;
            }
            detach(end, base + self.extent(id), script);
        }
    }

    /// The tree has them attached: from now on they are its own.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.made.clear();
        for Planned { entry, .. } in self.planned.values() {
            if entry.desc.mode & SHM_DEST != 0 {
                let id = entry.desc.id as i32;
                sysvipc::remove(id).map_err(failed(id, "shmctl(IPC_RMID)"))?;
            }
        }
        Ok(())
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        for &id in &self.made {
            // A failed restore has an error of its own to tell.
            let _ = sysvipc::remove(id);
        }
    }
}

/// Where an attachment begins, of which an area is a part.
fn base(area: &VmaEntry) -> u64 {
    area.start.saturating_sub(area.pgoff)
}

/// What lies between two parts was unmapped.
fn detach(start: u64, end: u64, script: &mut Script) {
    if start < end {
        script.syscall(libc::SYS_munmap, [start.into(), (end - start).into()]);
    }
}

/// Whether the segment still exists as it was. Another one in its place is an error.
fn is_there(entry: &IpcShmEntry) -> Result<bool, Error> {
    let IpcDescEntry { id, key, uid, gid, .. } = entry.desc;
    let number = id as i32;
    match sysvipc::stat(number) {
        Ok(seen) if (seen.key as u32, seen.uid, seen.gid, seen.size) != (key, uid, gid, entry.size) => {
            let reason = format!("a segment with this id exists already, with key {:#x}", seen.key);
            Err(refused(number, key, format!("{reason}; remove it (ipcrm -m {id})")))
        }
        Ok(seen) if seen.attached != 0 => {
            let reason = format!("it is attached by {} others; end these processes first", seen.attached);
            Err(refused(number, key, reason))
        }
        Ok(_) => Ok(true),
        Err(Errno::EINVAL | Errno::EIDRM) => match sysvipc::find(key as i32) {
            _ if key == libc::IPC_PRIVATE as u32 => Ok(false),
            Err(Errno::ENOENT) => Ok(false),
            Ok(other) => {
                let reason = format!("segment {other} has this key; remove it (ipcrm -m {other})");
                Err(refused(number, key, reason))
            }
            Err(errno) => Err(failed(number, "shmget")(errno)),
        },
        Err(errno) => Err(failed(number, "shmctl(IPC_STAT)")(errno)),
    }
}

/// Makes a segment; `made` gets its id as soon as it is there.
fn make(entry: &IpcShmEntry, huge: u32, made: &mut Vec<i32>) -> Result<(), Error> {
    const NEXT: &str = "/proc/sys/kernel/shm_next_id";
    let IpcDescEntry { id, key, uid, gid, mode, .. } = entry.desc;
    let number = id as i32;
    std::fs::write(NEXT, id.to_string()).map_err(|source| Error::Shared {
        shmid: id.into(),
        call: "write(/proc/sys/kernel/shm_next_id)",
        source,
    })?;
    let got = sysvipc::create(key as i32, entry.size, mode & 0o777 | huge);
    let got = got.map_err(failed(number, "shmget"))?;
    made.push(got);
    if got != number {
        return Err(refused(number, key, "its id is in use; try again, or after a restart".into()));
    }
    sysvipc::set_owner(number, uid, gid, mode).map_err(failed(number, "shmctl(IPC_SET)"))?;
    if mode & SHM_LOCKED != 0 {
        sysvipc::lock(number).map_err(failed(number, "shmctl(SHM_LOCK)"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, end: u64, pgoff: u64, prot: i32, flags: i32) -> VmaEntry {
        let status = status::REGULAR | status::ANON_SHARED | status::SYSVIPC;
        let (prot, fdflags) = (prot as u32, Some(flags as u32));
        VmaEntry { start, end, pgoff, prot, fdflags, status, shmid: 5, ..VmaEntry::default() }
    }

    #[test]
    fn an_attachment_in_parts_is_attached_once() {
        let desc = IpcDescEntry { id: 5, ..IpcDescEntry::default() };
        let entry = IpcShmEntry { desc, size: 0x4800, ..IpcShmEntry::default() };
        let planned = BTreeMap::from([(5, Planned { entry, huge: 0, exists: false })]);
        let segments = Segments { planned, made: Vec::new() };
        let areas = [
            part(0x1_1000, 0x1_2000, 0x1000, libc::PROT_READ | libc::PROT_WRITE, libc::O_RDWR),
            part(0x1_2000, 0x1_3000, 0x2000, libc::PROT_READ, libc::O_RDWR),
            part(0x9_0000, 0x9_5000, 0, libc::PROT_READ, libc::O_RDONLY),
        ];
        let mut script = Script::new("test");
        segments.attach_steps(&areas, &mut script);
        let numbers: Vec<i64> = script.steps().iter().map(|step| step.nr.into()).collect();
        let (attach, unmap) = (libc::SYS_shmat, libc::SYS_munmap);
        assert_eq!(numbers, [attach, unmap, libc::SYS_mprotect, unmap, attach]);
        assert_eq!(script.steps()[0].check, Check::Eq(0x1_0000));
        let ranges: Vec<_> = segments.ranges(&areas).collect();
        assert_eq!(ranges, [(0x1_0000, 0x1_5000), (0x1_0000, 0x1_5000), (0x9_0000, 0x9_5000)]);
    }
}
