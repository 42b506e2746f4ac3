//! Shared anonymous memory: one object, mapped by several tasks, stored once.

use crate::error::Error;
use crate::layout;
use crate::seat::Seat;
use crate::status;
use crate::vma::{Area, FileKey};
use criu_images::proto::VmaEntry;
use criu_images::{Image, ImageReader, Lineage};
use criu_kernel::Pid;
use criu_kernel::proc::ProcDir;
use criu_resource::{BoxError, Place, RestoreContext};
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::stat::fstat;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::SeekFrom;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr::NonNull;

/// What procfs calls such memory, whoever made it.
const NAME: &str = "/dev/zero (deleted)";

/// The device (major, minor) of the kernel's internal tmpfs, where shared anonymous memory lies.
///
/// # Errors
/// Those of memfd_create(2) (Linux 3.17).
pub fn device() -> std::io::Result<(u32, u32)> {
    let fd = nix::sys::memfd::memfd_create("", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let device = nix::sys::stat::fstat(&fd)?.st_dev;
    Ok((libc::major(device), libc::minor(device)))
}

/// Shared anonymous memory is a file to who opened it through `/proc/PID/map_files`, and to private mappings
/// of that file. Where a tree has such, all its mappings become those of a memfd, so that the restored
/// ones are again of one object. `tasks` are pids with their areas, `device` is what [`device`] says.
///
/// # Errors
/// Those of reading `/proc/PID/fd`.
pub fn as_files(tasks: &mut [(i32, &mut Vec<Area>)], device: (u32, u32)) -> Result<(), BoxError> {
    let is_object = |area: &Area| is_mapping(&area.entry);
    let huge = |area: &Area| area.entry.flags & status::MAP_HUGETLB != 0;
    let mut open: HashSet<u64> = HashSet::new();
    for (pid, areas) in tasks.iter() {
        if areas.iter().any(|area| is_object(area) && !huge(area)) {
            open.extend(open_objects(*pid, device)?);
        }
        let files = areas.iter().filter(|area| status::any(&area.entry, status::MEMFD));
        open.extend(files.filter_map(|area| area.file.as_ref()).map(|file| file.inode));
    }
    let areas = tasks.iter_mut().flat_map(|(_, areas)| areas.iter_mut());
    for area in areas.filter(|area| is_object(area) && !huge(area) && open.contains(&area.entry.shmid)) {
        let inode = std::mem::take(&mut area.entry.shmid);
        area.entry.status = status::REGULAR | status::FILE_SHARED | status::MEMFD;
        area.entry.flags &= !(libc::MAP_ANONYMOUS as u32);
        area.entry.fdflags = Some(libc::O_RDWR as u32);
        area.file = Some(FileKey { device, inode, path: NAME.into() });
    }
    Ok(())
}

/// The inodes of shared anonymous memory that a task has open.
fn open_objects(pid: i32, device: (u32, u32)) -> Result<Vec<u64>, BoxError> {
    let proc = ProcDir::open(Pid::from_raw(pid))?;
    let mut found = Vec::new();
    for number in proc.descriptors()? {
        let name = format!("fd/{number}");
        if proc.read_link(&name)? != Path::new(NAME) {
            continue;
        }
        let stat = fstat(proc.open_file(name.as_str(), OFlag::O_PATH)?)?;
        if (libc::major(stat.st_dev), libc::minor(stat.st_dev)) == device {
            found.push(stat.st_ino);
        }
    }
    Ok(found)
}

/// One mapping of an object.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    shmid: u64,
    start: u64,
    end: u64,
    /// Its end in the object.
    reach: u64,
}

impl From<&VmaEntry> for Mapping {
    fn from(entry: &VmaEntry) -> Self {
        // Of a segment all is kept, attached or not.
        let reach = match status::any(entry, status::SYSVIPC) {
            true => u64::MAX,
            false => entry.pgoff.saturating_add(entry.end - entry.start),
        };
        Mapping { shmid: entry.shmid, start: entry.start, end: entry.end, reach }
    }
}

/// An object to be dumped.
pub struct Object {
    /// Its id: the inode number.
    pub shmid: u64,
    /// How much of it is mapped somewhere.
    pub size: u64,
    /// It, open for reading.
    pub file: File,
}

/// Collects the objects of a tree.
#[derive(Default)]
pub struct Objects {
    /// Reach and first mapping of each, in the order of their coming.
    found: Vec<(i32, Mapping)>,
    index: HashMap<u64, usize>,
}

impl Objects {
    /// Adds one mapping of task `pid`.
    pub fn add(&mut self, pid: i32, mapping: &Mapping) -> Result<(), Error> {
        match self.index.get(&mapping.shmid) {
            Some(&at) => {
                let known = &mut self.found[at].1;
                known.reach = known.reach.max(mapping.reach);
            }
            None => {
                self.index.insert(mapping.shmid, self.found.len());
                self.found.push((pid, *mapping));
            }
        }
        Ok(())
    }

    /// Opens them, through `/proc/PID/map_files` (Linux 4.3; CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN).
    ///
    /// # Errors
    /// Those of open(2).
    pub fn finish(self) -> Result<Vec<Object>, Error> {
        let open = |(pid, mapping): (i32, Mapping)| {
            let shmid = mapping.shmid;
            let path = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
            let failed = |source| Error::Shared { shmid, call: "open(/proc/PID/map_files)", source };
            let file = File::open(path).map_err(failed)?;
            let size = file.metadata().map_err(failed)?.len();
            Ok(Object { shmid, size: mapping.reach.min(size), file })
        };
        self.found.into_iter().map(open).collect()
    }
}

/// An object to be restored.
struct Planned {
    size: u64,
    flags: MapFlags,
    seat: Seat,
}

/// All objects to be restored.
#[derive(Default)]
pub struct Restored {
    sizes: HashMap<u64, (u64, MapFlags)>,
    seats: HashMap<u64, Planned>,
}

impl Restored {
    /// Takes note of an area.
    pub fn add(&mut self, entry: &VmaEntry) {
        let reach = Mapping::from(entry).reach;
        let (size, flags) = self.sizes.entry(entry.shmid).or_insert((0, MapFlags::MAP_SHARED));
        *size = (*size).max(reach);
        flags.set(MapFlags::MAP_NORESERVE, entry.flags & libc::MAP_NORESERVE as u32 != 0);
        let huge = entry.flags & (status::MAP_HUGETLB | status::HUGE_SIZE);
        flags.insert(MapFlags::from_bits_retain(huge as i32));
    }

    /// The number at which tasks find the object.
    pub fn number_of(&mut self, shmid: u64, context: &RestoreContext<'_>) -> Result<i32, BoxError> {
        if let Some(planned) = self.seats.get(&shmid) {
            return Ok(planned.seat.number());
        }
        let (size, flags) = self.sizes.get(&shmid).copied().ok_or("an object that no area maps")?;
        let seat = Seat::reserve(context.numbers, Seat::placeholder()?)?;
        let number = seat.number();
        self.seats.insert(shmid, Planned { size, flags, seat });
        Ok(number)
    }

    /// Makes and fills the objects.
    pub fn prepare(&mut self, lineage: &Lineage<'_>, place: &mut dyn Place) -> Result<(), BoxError> {
        let mut buffer = vec![0; 1 << 20];
        for (shmid, planned) in self.seats.drain() {
            let object = Created::new(shmid, planned.size, planned.flags)?;
            fill(lineage, shmid, planned.size, &object, &mut buffer)?;
            planned.seat.place(place, object.file.try_clone()?.into())?;
        }
        Ok(())
    }
}

/// An object that criu-rs has mapped as a whole.
pub(crate) struct Created {
    file: File,
    /// A mapping of it all.
    start: NonNull<libc::c_void>,
    len: usize,
    huge: bool,
}

impl Created {
    /// A new one, like those behind `mmap(MAP_SHARED | MAP_ANONYMOUS)`: it shows as `/dev/zero (deleted)`.
    fn new(shmid: u64, size: u64, flags: MapFlags) -> Result<Created, Error> {
        let failed = |call| move |source: std::io::Error| Error::Shared { shmid, call, source };
        let len = usize::try_from(size.next_multiple_of(crate::pages::PAGE))
            .ok()
            .and_then(NonZeroUsize::new)
            .ok_or_else(|| failed("mmap")(nix::errno::Errno::EINVAL.into()))?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing accesses it.
        let start = unsafe { mmap_anonymous(None, len, prot, flags) }
            .map_err(|errno| failed("mmap")(errno.into()))?;
        Created::open(shmid, start, len.get(), flags.bits() as u32 & status::MAP_HUGETLB != 0)
    }

    /// The one behind a mapping that is nobody else's: it is unmapped with this value, or when that fails.
    pub(crate) fn open(
        shmid: u64,
        start: NonNull<libc::c_void>,
        len: usize,
        huge: bool,
    ) -> Result<Created, Error> {
        let address = start.as_ptr() as u64;
        let path = format!("/proc/self/map_files/{address:x}-{:x}", address + len as u64);
        match File::options().read(true).write(true).open(path) {
            Ok(file) => Ok(Created { file, start, len, huge }),
            Err(source) => {
                unmap(start, len);
                Err(Error::Shared { shmid, call: "open(/proc/self/map_files)", source })
            }
        }
    }

    /// Forgets its content.
    pub(crate) fn clear(&self) -> std::io::Result<()> {
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&self.file, mode, 0, self.len as i64)?)
    }

    /// Where to write its content: a file, and an offset to add. Huge pages cannot be written as a file.
    fn target(&self) -> std::io::Result<(File, u64)> {
        match self.huge {
            false => Ok((self.file.try_clone()?, 0)),
            true => Ok((File::options().write(true).open("/proc/self/mem")?, self.start.as_ptr() as u64)),
        }
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        unmap(self.start, self.len);
    }
}

fn unmap(start: NonNull<libc::c_void>, len: usize) {
    // SAFETY: the mapping of a `Created`, which nothing points into. It cannot fail.
    let _ = unsafe { munmap(start, len) };
}

/// Writes its content from the images.
pub(crate) fn fill(
    lineage: &Lineage<'_>,
    shmid: u64,
    size: u64,
    object: &Created,
    buffer: &mut [u8],
) -> Result<(), BoxError> {
    let image = Image::ShmemPagemap.file_name(shmid);
    let pages = match lineage.pages(Image::ShmemPagemap, shmid) {
        Ok(pages) => pages,
        Err(error) if error.is_missing() => {
            return Err(Error::image(image, "the content of shared memory is missing; dump again").into());
        }
        Err(error) => return Err(error.into()),
    };
    let mut reader = pages.reader(lineage)?;
    let (target, base) = object.target()?;
    for extent in &pages.extents {
        let Some(offset) = extent.offset else {
            return Err(Error::image(image, layout::LAZY).into());
        };
        if extent.range.end > size.next_multiple_of(crate::pages::PAGE) {
            return Err(Error::image(image, format!("pages beyond the object's {size} bytes")).into());
        }
        reader.seek(SeekFrom::Start(offset))?;
        let mut at = extent.range.start;
        while at < extent.range.end {
            let part = &mut buffer[..];
            let len = (extent.range.end - at).min(part.len() as u64) as usize;
            reader
                .read_exact(&mut part[..len])
                .map_err(|source| criu_images::Error::io(pages.name(0), "read", source))?;
            crate::pages::write_sparsely(&target, &part[..len], base + at)
                .map_err(|source| Error::Shared { shmid, call: "pwrite", source })?;
            at += len as u64;
        }
    }
    Ok(())
}

/// Whether an area maps such an object.
pub fn is_mapping(entry: &VmaEntry) -> bool {
    status::is(entry, status::ANON_SHARED) && !status::any(entry, status::SYSVIPC)
}

/// An open image as a descriptor; one that has none becomes an anonymous file.
pub(crate) fn file_of(image: &mut dyn ImageReader) -> std::io::Result<OwnedFd> {
    match image.as_fd() {
        Some(fd) => fd.try_clone_to_owned(),
        None => memfd_of(image),
    }
}

fn memfd_of(reader: &mut dyn ImageReader) -> std::io::Result<OwnedFd> {
    let fd = nix::sys::memfd::memfd_create("pages", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(fd);
    std::io::copy(reader, &mut file)?;
    Ok(file.into())
}
