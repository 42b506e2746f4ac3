//! System V shared memory: shmget(2), shmat(2), shmctl(2).

use nix::Result;
use nix::errno::Errno;
use std::ffi::c_void;
use std::ptr::NonNull;

/// In [`Segment::mode`]: it goes when nobody has it attached any more.
pub const SHM_DEST: u32 = 0o1000;
/// In [`Segment::mode`]: it stays in memory.
pub const SHM_LOCKED: u32 = 0o2000;

/// What IPC_STAT says of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its key, 0 for none (IPC_PRIVATE).
    pub key: i32,
    /// The owner.
    pub uid: u32,
    /// The owner's group.
    pub gid: u32,
    /// Who made it.
    pub cuid: u32,
    /// The group of who made it.
    pub cgid: u32,
    /// Permissions, and [`SHM_DEST`] and [`SHM_LOCKED`].
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// How many areas of all processes show it.
    pub attached: u64,
}

fn control(id: i32, command: i32, buffer: *mut libc::shmid_ds) -> Result<()> {
    // SAFETY: the kernel fills or reads one `shmid_ds`, or takes no pointer, as the command has it.
    Errno::result(unsafe { libc::shmctl(id, command, buffer) }).map(drop)
}

fn raw(id: i32) -> Result<libc::shmid_ds> {
    // SAFETY: all zeros are a valid value of this plain structure.
    let mut raw: libc::shmid_ds = unsafe { std::mem::zeroed() };
    control(id, libc::IPC_STAT, &mut raw)?;
    Ok(raw)
}

/// The segment of this id, in the caller's IPC namespace. `EINVAL` or `EIDRM` where there is none.
pub fn stat(id: i32) -> Result<Segment> {
    let raw = raw(id)?;
    Ok(Segment {
        key: raw.shm_perm.__key,
        uid: raw.shm_perm.uid,
        gid: raw.shm_perm.gid,
        cuid: raw.shm_perm.cuid,
        cgid: raw.shm_perm.cgid,
        mode: raw.shm_perm.mode.into(),
        size: raw.shm_segsz as u64,
        attached: raw.shm_nattch,
    })
}

/// The id of the segment with this key. `ENOENT` where there is none.
pub fn find(key: i32) -> Result<i32> {
    // SAFETY: integers.
    Errno::result(unsafe { libc::shmget(key, 0, 0) })
}

/// A new segment; `flags` are permissions and SHM_HUGETLB with a size. It has the id that was written to
/// `/proc/sys/kernel/shm_next_id` before, if that was free.
pub fn create(key: i32, size: u64, flags: u32) -> Result<i32> {
    let flags = flags as i32 | libc::IPC_CREAT | libc::IPC_EXCL;
    // SAFETY: integers.
    Errno::result(unsafe { libc::shmget(key, size as usize, flags) })
}

/// Changes owner and permissions (IPC_SET).
pub fn set_owner(id: i32, uid: u32, gid: u32, mode: u32) -> Result<()> {
    let mut raw = raw(id)?;
    raw.shm_perm.uid = uid;
    raw.shm_perm.gid = gid;
    raw.shm_perm.mode = (mode & 0o777) as _;
    control(id, libc::IPC_SET, &mut raw)
}

/// Keeps it in memory (SHM_LOCK).
pub fn lock(id: i32) -> Result<()> {
    const SHM_LOCK: i32 = 11;
    control(id, SHM_LOCK, std::ptr::null_mut())
}

/// Marks it to go when nobody has it attached any more, maybe now (IPC_RMID).
pub fn remove(id: i32) -> Result<()> {
    control(id, libc::IPC_RMID, std::ptr::null_mut())
}

/// Attaches it to the caller, for reading and writing, at an address of the kernel's choice. munmap(2) of its
/// size detaches it.
pub fn attach(id: i32) -> Result<NonNull<c_void>> {
    // SAFETY: a new mapping at an address of the kernel's choice; nothing accesses it yet.
    let address = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    NonNull::new(address).filter(|address| address.as_ptr() as isize != -1).ok_or_else(Errno::last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_from_making_to_removal() {
        let id = create(libc::IPC_PRIVATE, 5000, 0o600).unwrap();
        set_owner(id, 12, 34, 0o640).unwrap();
        let address = attach(id).unwrap();
        let seen = stat(id).unwrap();
        assert_eq!((seen.key, seen.uid, seen.gid, seen.size, seen.attached), (0, 12, 34, 5000, 1));
        assert_eq!(seen.mode, 0o640);
        remove(id).unwrap();
        assert_eq!(stat(id).unwrap().mode & SHM_DEST, SHM_DEST);
        // SAFETY: the mapping just made; nothing refers to it.
        unsafe { nix::sys::mman::munmap(address, 8192) }.unwrap();
        assert!(matches!(stat(id), Err(Errno::EINVAL | Errno::EIDRM)));
        assert_eq!(find(0x7a11_b00b), Err(Errno::ENOENT));
    }
}
