//! Another process's memory: process_vm_readv(2), process_vm_writev(2) (Linux 3.2) and
//! process_madvise(2) (Linux 5.10), over any number of ranges.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_ulong, c_void, iovec, pid_t, ssize_t};
use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

/// The kernel's limit for one vector (`UIO_MAXIOV`).
pub const IOV_MAX: usize = 1024;

/// A range of another address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteRange {
    /// First byte.
    pub address: u64,
    /// Length in bytes.
    pub len: usize,
}

/// Reads from one place; returns how many bytes came before an unreadable page.
///
/// Needs ptrace access. Fails with `EFAULT` where not even the first byte is readable, `ESRCH`
/// where the process is gone.
pub fn read(pid: Pid, address: u64, buffer: &mut [u8]) -> Result<usize> {
    let remote = [RemoteRange { address, len: buffer.len() }];
    read_vectored(pid, &mut [IoSliceMut::new(buffer)], &remote)
}

/// Reads all of `buffer`, or fails with `EFAULT`.
pub fn read_exact(pid: Pid, address: u64, buffer: &mut [u8]) -> Result<()> {
    let n = read(pid, address, buffer)?;
    if n == buffer.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Writes to one place; returns how many bytes went in before a page that is not writable.
pub fn write(pid: Pid, address: u64, bytes: &[u8]) -> Result<usize> {
    let remote = [RemoteRange { address, len: bytes.len() }];
    write_vectored(pid, &[IoSlice::new(bytes)], &remote)
}

/// Reads many ranges into many buffers, both taken as one long string of bytes.
///
/// Returns how many bytes came; fewer than asked where a range is not readable, and an error
/// only where nothing came at all.
pub fn read_vectored(pid: Pid, local: &mut [IoSliceMut<'_>], remote: &[RemoteRange]) -> Result<usize> {
    let mut local: Vec<iovec> = local.iter_mut().map(|s| raw(s.as_mut_ptr(), s.len())).collect();
    // SAFETY: the local vector is made of exclusive slices that outlive the call.
    unsafe { transfer(libc::process_vm_readv, pid, &mut local, remote) }
}

/// Writes many buffers into many ranges; otherwise as [`read_vectored`].
pub fn write_vectored(pid: Pid, local: &[IoSlice<'_>], remote: &[RemoteRange]) -> Result<usize> {
    let mut local: Vec<iovec> = local.iter().map(|s| raw(s.as_ptr().cast_mut(), s.len())).collect();
    // SAFETY: process_vm_writev only reads the local slices, which outlive the call.
    unsafe { transfer(libc::process_vm_writev, pid, &mut local, remote) }
}

fn raw(start: *mut u8, len: usize) -> iovec {
    iovec { iov_base: start.cast(), iov_len: len }
}

type VmCall = unsafe extern "C" fn(pid_t, *const iovec, c_ulong, *const iovec, c_ulong, c_ulong) -> ssize_t;

/// # Safety
///
/// `local` must describe memory that `call` may use in its way.
unsafe fn transfer(call: VmCall, pid: Pid, local: &mut [iovec], remote: &[RemoteRange]) -> Result<usize> {
    let mut remote: Vec<iovec> = remote.iter().map(|r| raw(r.address as *mut u8, r.len)).collect();
    let (mut here, mut there) = (&mut local[..], &mut remote[..]);
    let mut total = 0;
    loop {
        here = skip(here, 0);
        there = skip(there, 0);
        if here.is_empty() || there.is_empty() {
            return Ok(total);
        }
        let n_here = here.len().min(IOV_MAX);
        let n_there = there.len().min(IOV_MAX);
        // SAFETY: both vectors are alive and their lengths within bounds; for the local memory
        // the caller vouches, and remote addresses are checked by the kernel.
        let moved = unsafe {
            call(pid.as_raw(), here.as_ptr(), n_here as c_ulong, there.as_ptr(), n_there as c_ulong, 0)
        };
        match Errno::result(moved) {
            Ok(0) => return Ok(total),
            Ok(n) => {
                total += n as usize;
                here = skip(here, n as usize);
                there = skip(there, n as usize);
            }
            Err(_) if total > 0 => return Ok(total),
            Err(errno) => return Err(errno),
        }
    }
}

/// Advances a vector by `n` bytes, and past empty slices.
fn skip(mut vector: &mut [iovec], mut n: usize) -> &mut [iovec] {
    while let Some(first) = vector.first_mut() {
        if first.iov_len > n {
            first.iov_base = first.iov_base.wrapping_byte_add(n);
            first.iov_len -= n;
            break;
        }
        n -= first.iov_len;
        vector = &mut vector[1..];
    }
    vector
}

/// Gives advice (`MADV_COLD`, `MADV_PAGEOUT`, `MADV_WILLNEED`, `MADV_COLLAPSE`; from Linux 6.13
/// on one's own process any) for ranges of a process; returns how many bytes were advised.
///
/// process_madvise(2), Linux 5.10.
pub fn advise(pidfd: BorrowedFd<'_>, ranges: &[RemoteRange], advice: i32) -> Result<usize> {
    let mut ranges: Vec<iovec> = ranges.iter().map(|r| raw(r.address as *mut u8, r.len)).collect();
    let mut rest = skip(&mut ranges, 0);
    let mut total = 0;
    while !rest.is_empty() {
        let n = rest.len().min(IOV_MAX);
        // SAFETY: the vector is alive and `n` within its bounds; the addresses in it belong to
        // the other process and are checked by the kernel.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                pidfd.as_raw_fd(),
                rest.as_ptr().cast::<c_void>(),
                n,
                advice,
                0u32,
            )
        };
        match Errno::result(done) {
            Ok(0) => return Ok(total),
            Ok(done) => {
                total += done as usize;
                rest = skip(rest, done as usize);
            }
            Err(_) if total > 0 => return Ok(total),
            Err(errno) => return Err(errno),
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};

    use super::*;

    #[test]
    fn many_small_ranges_into_few_buffers() {
        let source: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        // Every other pair of bytes: 5,000 ranges, more than one vector holds.
        let remote: Vec<RemoteRange> =
            source.chunks(4).map(|c| RemoteRange { address: c.as_ptr() as u64, len: 2 }).collect();
        let (mut a, mut b) = (vec![0; 3_333], vec![0; 1_667]);
        let mut local = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        assert_eq!(read_vectored(Pid::this(), &mut local, &remote).unwrap(), 5_000);
        let expected: Vec<u8> = source.chunks(4).flat_map(|c| c[..2].to_vec()).collect();
        assert_eq!([a, b].concat(), expected);
    }

    #[test]
    fn writes_many_buffers() {
        let mut target = vec![0u8; 4_000];
        let bytes: Vec<[u8; 2]> = (0..2_000u16).map(u16::to_le_bytes).collect();
        let local: Vec<IoSlice<'_>> = bytes.iter().map(|b| IoSlice::new(b)).collect();
        let remote = [RemoteRange { address: target.as_mut_ptr() as u64, len: 4_000 }];
        assert_eq!(write_vectored(Pid::this(), &local, &remote).unwrap(), 4_000);
        assert_eq!(target, bytes.concat());
    }

    #[test]
    fn stops_at_a_hole_and_says_how_far_it_came() {
        let page = 4096usize;
        let map = MapFlags::MAP_PRIVATE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let start =
            unsafe { mmap_anonymous(None, (2 * page).try_into().unwrap(), ProtFlags::PROT_READ, map) }
                .unwrap();
        // SAFETY: the second page belongs to the mapping above, and nothing uses it.
        unsafe { mprotect(start.byte_add(page), page, ProtFlags::PROT_NONE) }.unwrap();
        let mut buffer = vec![1; 2 * page];
        let address = start.as_ptr() as u64;
        assert_eq!(read(Pid::this(), address, &mut buffer).unwrap(), page);
        assert_eq!(read_exact(Pid::this(), address, &mut buffer).unwrap_err(), Errno::EFAULT);
        assert_eq!(read(Pid::this(), 16, &mut buffer).unwrap_err(), Errno::EFAULT);
        assert_eq!(write(Pid::this(), address, &buffer[..1]).unwrap_err(), Errno::EFAULT);
    }

    #[test]
    fn advice_is_taken() {
        let memory = vec![0u8; 1 << 20];
        let address = (memory.as_ptr() as u64).next_multiple_of(4096);
        let me = crate::pidfd::open(Pid::this(), crate::pidfd::Flags::empty()).unwrap();
        let ranges = vec![RemoteRange { address, len: 4096 }; 3_000];
        assert_eq!(advise(me.as_fd(), &ranges, libc::MADV_COLD).unwrap(), 3_000 * 4096);
        assert_eq!(advise(me.as_fd(), &ranges, 12345).unwrap_err(), Errno::EINVAL);
    }
}
