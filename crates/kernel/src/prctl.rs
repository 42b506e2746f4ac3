//! prctl(2) on the calling thread or process, as far as `nix::sys::prctl` lacks it, and the
//! numbers with which a script makes such calls in another process.

use nix::Result;
use nix::errno::Errno;

use crate::plain::Plain;

/// Operation: get the securebits.
pub const PR_GET_SECUREBITS: i32 = libc::PR_GET_SECUREBITS;
/// Operation: set the securebits (`CAP_SETPCAP`).
pub const PR_SET_SECUREBITS: i32 = libc::PR_SET_SECUREBITS;
/// Operation: set fields of the memory descriptor.
pub const PR_SET_MM: i32 = libc::PR_SET_MM;
/// With [`PR_SET_MM`]: all at once, from a [`MmMap`] (Linux 3.18).
pub const PR_SET_MM_MAP: i32 = libc::PR_SET_MM_MAP;
/// With [`PR_SET_MM`]: store the kernel's size of [`MmMap`].
pub const PR_SET_MM_MAP_SIZE: i32 = libc::PR_SET_MM_MAP_SIZE;
/// Operation: create POSIX timers with ids of one's choice (Linux 6.15).
pub const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
/// Operation: memory-deny-write-execute (Linux 6.3).
pub const PR_SET_MDWE: i32 = 65;
/// Operation: get it.
pub const PR_GET_MDWE: i32 = 66;
/// Operation: ambient capabilities (Linux 4.3).
pub const PR_CAP_AMBIENT: i32 = libc::PR_CAP_AMBIENT;
/// Operation: read one bit of the bounding set.
pub const PR_CAPBSET_READ: i32 = libc::PR_CAPBSET_READ;
/// Operation: drop one bit of the bounding set.
pub const PR_CAPBSET_DROP: i32 = libc::PR_CAPBSET_DROP;

/// `struct prctl_mm_map`: the addresses that `/proc/PID/stat`, `cmdline`, `environ` and `auxv`
/// are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MmMap {
    /// Program text.
    pub start_code: u64,
    /// End of program text.
    pub end_code: u64,
    /// Program data.
    pub start_data: u64,
    /// End of program data.
    pub end_data: u64,
    /// Heap.
    pub start_brk: u64,
    /// End of the heap.
    pub brk: u64,
    /// Bottom (highest part) of the stack.
    pub start_stack: u64,
    /// Command line.
    pub arg_start: u64,
    /// End of the command line.
    pub arg_end: u64,
    /// Environment.
    pub env_start: u64,
    /// End of the environment.
    pub env_end: u64,
    /// Address of the auxiliary vector to be copied, or 0.
    pub auxv: u64,
    /// Its size in bytes.
    pub auxv_size: u32,
    /// Descriptor of the executable, or -1 to leave it (`u32::MAX`).
    pub exe_fd: u32,
}

// SAFETY: twelve u64 and two u32 in C layout: no gaps.
unsafe impl Plain for MmMap {}

/// Makes a prctl call whose arguments are numbers.
///
/// # Safety
///
/// Where the operation takes an address, it must be valid for it.
pub unsafe fn prctl(operation: i32, a: usize, b: usize, c: usize, d: usize) -> Result<i32> {
    // SAFETY: the caller's promise.
    Errno::result(unsafe { libc::prctl(operation, a, b, c, d) })
}

/// The securebits (`SECBIT_*`) of the calling thread.
pub fn securebits() -> Result<u32> {
    // SAFETY: no address is passed.
    unsafe { prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) }.map(|bits| bits as u32)
}

/// Sets the securebits of the calling thread; `EPERM` without `CAP_SETPCAP` or where they are
/// locked.
pub fn set_securebits(bits: u32) -> Result<()> {
    // SAFETY: no address is passed.
    unsafe { prctl(PR_SET_SECUREBITS, bits as usize, 0, 0, 0) }.map(drop)
}

/// Whether capability `number` is in the calling thread's bounding set; `EINVAL` after the last.
pub fn is_in_bounding_set(number: u32) -> Result<bool> {
    // SAFETY: no address is passed.
    unsafe { prctl(PR_CAPBSET_READ, number as usize, 0, 0, 0) }.map(|answer| answer != 0)
}

/// The memory-deny-write-execute flags of the process (`PR_GET_MDWE`, Linux 6.3).
pub fn mdwe() -> Result<u32> {
    // SAFETY: no address is passed.
    unsafe { prctl(PR_GET_MDWE, 0, 0, 0, 0) }.map(|bits| bits as u32)
}

/// Whether new POSIX timers take their ids from the caller (Linux 6.15).
pub fn timer_restore_ids() -> Result<bool> {
    // SAFETY: no address is passed.
    unsafe { prctl(PR_TIMER_CREATE_RESTORE_IDS, 2, 0, 0, 0) }.map(|answer| answer != 0)
}

/// Sets whether new POSIX timers take their ids from the caller (Linux 6.15).
pub fn set_timer_restore_ids(on: bool) -> Result<()> {
    // SAFETY: no address is passed.
    unsafe { prctl(PR_TIMER_CREATE_RESTORE_IDS, usize::from(on), 0, 0, 0) }.map(drop)
}

/// The kernel's size of [`MmMap`] (Linux 3.18, `CONFIG_CHECKPOINT_RESTORE`).
pub fn mm_map_size() -> Result<u32> {
    let mut size = 0u32;
    let address = std::ptr::from_mut(&mut size) as usize;
    // SAFETY: the kernel stores one unsigned int at `address`.
    unsafe { prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE as usize, address, 0, 0) }?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        assert_eq!(size_of::<MmMap>(), 104);
        assert_eq!(std::mem::offset_of!(MmMap, exe_fd), 100);
        if let Ok(size) = mm_map_size() {
            assert_eq!(size, 104);
        }
    }

    #[test]
    fn own_settings() {
        assert!(securebits().unwrap() < 1 << 8);
        assert_eq!(is_in_bounding_set(100).unwrap_err(), Errno::EINVAL);
        is_in_bounding_set(0).unwrap();
        match timer_restore_ids() {
            Ok(on) => assert!(!on),
            Err(errno) => assert_eq!(errno, Errno::EINVAL),
        }
        match set_securebits(securebits().unwrap()) {
            Err(Errno::EPERM) => {} // needs CAP_SETPCAP
            answer => answer.unwrap(),
        }
    }
}
