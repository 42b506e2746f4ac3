//! BPF maps: bpf(2). What is said of kernel versions holds for hash tables and arrays.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::Result;
use nix::errno::Errno;

use crate::plain::{self, Plain};

const MAP_CREATE: i32 = 0;
const MAP_GET_FD_BY_ID: i32 = 14;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const MAP_FREEZE: i32 = 22;
const MAP_LOOKUP_BATCH: i32 = 24;
const MAP_UPDATE_BATCH: i32 = 26;

/// The map type of hash tables.
pub const HASH: u32 = 1;
/// The map type of arrays.
pub const ARRAY: u32 = 2;

/// For [`open`]: the descriptor only reads.
pub const RDONLY: u32 = 1 << 3;
/// For [`open`]: the descriptor only writes.
pub const WRONLY: u32 = 1 << 4;

/// What a map is made with: the front of `union bpf_attr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NewMap {
    /// [`HASH`] or [`ARRAY`].
    pub kind: u32,
    /// Bytes.
    pub key_size: u32,
    /// Bytes.
    pub value_size: u32,
    /// Most entries.
    pub max_entries: u32,
    /// `BPF_F_*`, but for those of its descriptors.
    pub flags: u32,
    /// For maps of maps.
    pub inner_map_fd: u32,
    /// With a flag only.
    pub numa_node: u32,
    /// With a zero at its end.
    pub name: [u8; 16],
    /// A device that it is offloaded to.
    pub ifindex: u32,
    /// Type information.
    pub btf: [u32; 4],
    /// What it means hangs on the type (Linux 5.16).
    pub extra: u64,
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for NewMap {}

/// What the kernel says of a map: the front of `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MapInfo {
    /// [`HASH`], [`ARRAY`] or another.
    pub kind: u32,
    /// Unique on the machine.
    pub id: u32,
    /// Bytes.
    pub key_size: u32,
    /// Bytes.
    pub value_size: u32,
    /// Most entries.
    pub max_entries: u32,
    /// `BPF_F_*`
    pub flags: u32,
    /// With a zero at its end.
    pub name: [u8; 16],
    /// A device that it is offloaded to.
    pub ifindex: u32,
    /// Type information of the kernel's own.
    pub btf_vmlinux_value_type_id: u32,
    /// A device that it is offloaded to: its network namespace, device and inode.
    pub netns: [u64; 2],
    /// Type information: 0 for none.
    pub btf_id: u32,
    /// Type information of key and value.
    pub btf_types: [u32; 2],
    /// Type information of a module.
    pub btf_vmlinux_id: u32,
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for MapInfo {}

#[derive(Clone, Copy)]
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    flags: [u64; 2],
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for Batch {}

/// # Safety
/// Pointers in `attributes` must be what the command expects.
unsafe fn bpf<T: Plain>(command: i32, attributes: &mut T) -> Result<i32> {
    let pointer = std::ptr::from_mut(attributes);
    // SAFETY: the structure has the size that is told; the caller vouches for what it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    Errno::result(result).map(|result| result as i32)
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel returned this new descriptor to us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Makes a map. `CAP_BPF`.
pub fn create(map: &NewMap) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    unsafe { bpf(MAP_CREATE, &mut map.clone()) }.map(owned)
}

/// A new description of a map; `flags` are 0, [`RDONLY`] or [`WRONLY`]. Linux 4.13, `CAP_SYS_ADMIN`.
pub fn open(id: u32, flags: u32) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    unsafe { bpf(MAP_GET_FD_BY_ID, &mut [id, 0, flags]) }.map(owned)
}

/// What the kernel says of a map. Linux 4.13.
pub fn info(map: BorrowedFd<'_>) -> Result<MapInfo> {
    let mut info: MapInfo = plain::zeroed();
    let pointer = std::ptr::from_mut(&mut info) as u64;
    let mut attributes = [map.as_raw_fd() as u64 | (size_of::<MapInfo>() as u64) << 32, pointer];
    // SAFETY: the kernel fills at most as many bytes of `info` as are told.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info)
}

/// From now on user space cannot change it. Linux 5.2.
pub fn freeze(map: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { bpf(MAP_FREEZE, &mut [map.as_raw_fd() as u32]) }.map(drop)
}

/// All keys, one after the other, and all values. Linux 5.6.
pub fn read(map: BorrowedFd<'_>, info: &MapInfo) -> Result<(Vec<u8>, Vec<u8>)> {
    let room = |size: u32| vec![0; size as usize * info.max_entries as usize];
    let (mut keys, mut values) = (room(info.key_size), room(info.value_size));
    let mut next = vec![0u8; (info.key_size as usize).max(8)];
    let mut batch = Batch {
        to: next.as_mut_ptr() as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: info.max_entries,
        map: map.as_raw_fd() as u32,
        ..plain::zeroed()
    };
    // SAFETY: the buffers have room for as many entries as are told, and outlive the call.
    match unsafe { bpf(MAP_LOOKUP_BATCH, &mut batch) } {
        Ok(_) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    keys.truncate(batch.count as usize * info.key_size as usize);
    values.truncate(batch.count as usize * info.value_size as usize);
    Ok((keys, values))
}

/// Writes `count` entries. Linux 5.6.
///
/// # Errors
/// `EINVAL` where the buffers have not the length of so many; those of the kernel.
pub fn write(map: BorrowedFd<'_>, info: &NewMap, count: u32, keys: &[u8], values: &[u8]) -> Result<()> {
    let length = |size: u32| count as usize * size as usize;
    if (keys.len(), values.len()) != (length(info.key_size), length(info.value_size)) {
        return Err(Errno::EINVAL);
    }
    let mut batch = Batch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map: map.as_raw_fd() as u32,
        ..plain::zeroed()
    };
    // SAFETY: the buffers hold as many entries as are told; the kernel reads them.
    unsafe { bpf(MAP_UPDATE_BATCH, &mut batch) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn entries_come_back() {
        let mut name = [0; 16];
        name[..4].copy_from_slice(b"some");
        let new =
            NewMap { kind: HASH, key_size: 4, value_size: 8, max_entries: 10, name, ..NewMap::default() };
        let map = match create(&new) {
            Err(Errno::EPERM | Errno::ENOSYS) => return eprintln!("not run: no BPF maps here"),
            map => map.unwrap(),
        };
        let values = [[5u8; 8], [6; 8]].concat();
        write(map.as_fd(), &new, 2, &[[1, 0, 0, 0], [2, 0, 0, 0]].concat(), &values).unwrap();
        assert_eq!(write(map.as_fd(), &new, 3, &[0; 8], &values), Err(Errno::EINVAL));
        let seen = info(map.as_fd()).unwrap();
        assert_eq!((seen.kind, seen.key_size, seen.max_entries, seen.name), (HASH, 4, 10, name));
        let (keys, values) = read(map.as_fd(), &seen).unwrap();
        assert_eq!((keys.len(), values.len()), (8, 16));
        freeze(map.as_fd()).unwrap();
        assert_eq!(write(map.as_fd(), &new, 0, &[], &[]), Err(Errno::EPERM));
        assert_eq!(info(open(seen.id, RDONLY).unwrap().as_fd()).unwrap().id, seen.id);
    }
}
