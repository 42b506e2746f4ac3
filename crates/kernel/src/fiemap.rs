//! Which parts of a file hold data: `SEEK_DATA` (lseek(2), Linux 3.1), and the extents that the
//! filesystem tells by `FS_IOC_FIEMAP` (Linux 2.6.28).

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::Result;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::plain::{self, Plain};

/// The ranges of a file with data, in order, by `SEEK_DATA` and `SEEK_HOLE`.
///
/// Works on every filesystem (one without holes is one range). Moves the file position of
/// the open file description.
pub fn data_ranges(file: BorrowedFd<'_>) -> DataRanges<'_> {
    DataRanges { file, at: Some(0) }
}

/// Iterator of [`data_ranges`].
#[derive(Debug)]
pub struct DataRanges<'a> {
    file: BorrowedFd<'a>,
    at: Option<i64>,
}

impl DataRanges<'_> {
    fn step(&self, at: i64) -> Result<Option<Range<i64>>> {
        let start = match lseek(self.file, at, Whence::SeekData) {
            Err(Errno::ENXIO) => return Ok(None),
            answer => answer?,
        };
        Ok(Some(start..lseek(self.file, start, Whence::SeekHole)?))
    }
}

impl Iterator for DataRanges<'_> {
    type Item = Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.step(self.at?).transpose();
        self.at = match &found {
            Some(Ok(range)) => Some(range.end),
            _ => None,
        };
        found.map(|range| range.map(|range| range.start as u64..range.end as u64))
    }
}

bitflags::bitflags! {
    /// `FIEMAP_EXTENT_*`
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExtentFlags: u32 {
        /// The file's last extent.
        const LAST = 0x1;
        /// Its place on the device is not known.
        const UNKNOWN = 0x2;
        /// Allocated later.
        const DELALLOC = 0x4;
        /// Encoded (compressed).
        const ENCODED = 0x8;
        /// Encrypted.
        const ENCRYPTED = 0x80;
        /// Not aligned to blocks.
        const NOT_ALIGNED = 0x100;
        /// Data lies inside metadata.
        const INLINE = 0x200;
        /// Allocated but never written: reads as zeros.
        const UNWRITTEN = 0x800;
        /// Merged for telling.
        const MERGED = 0x1000;
        /// Shared with other files.
        const SHARED = 0x2000;
    }
}

/// One extent of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file, in bytes.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Offset on the device, in bytes.
    pub physical: u64,
    /// Flags.
    pub flags: ExtentFlags,
}

const BATCH: usize = 64;

#[derive(Clone, Copy)]
#[repr(C)]
struct RawExtent {
    start: u64,
    physical: u64,
    len: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved2: [u32; 3],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Request {
    start: u64,
    len: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [RawExtent; BATCH],
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for RawExtent {}
// SAFETY: integers in C layout without gaps, then an array of plain structures.
unsafe impl Plain for Request {}

/// `_IOWR('f', 11, struct fiemap)`, whose extents do not count.
const FS_IOC_FIEMAP: libc::Ioctl = nix::request_code_readwrite!(b'f', 11, 32) as libc::Ioctl;
const FIEMAP_FLAG_SYNC: u32 = 1;

/// All extents of a file, written back first. `EOPNOTSUPP` or `ENOTTY` where the filesystem
/// does not tell (tmpfs).
pub fn extents(file: BorrowedFd<'_>) -> Result<Vec<Extent>> {
    let mut all: Vec<Extent> = Vec::new();
    loop {
        let start = all.last().map_or(0, |last| last.start + last.len);
        let mut request = Request {
            start,
            len: u64::MAX - start,
            flags: FIEMAP_FLAG_SYNC,
            count: BATCH as u32,
            ..plain::zeroed()
        };
        // SAFETY: the request has room for as many extents as it says.
        let r = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FIEMAP, &mut request) };
        Errno::result(r)?;
        let found = &request.extents[..(request.mapped as usize).min(BATCH)];
        all.extend(found.iter().map(|raw| Extent {
            start: raw.start,
            len: raw.len,
            physical: raw.physical,
            flags: ExtentFlags::from_bits_truncate(raw.flags),
        }));
        match found.last() {
            Some(last) if last.flags & ExtentFlags::LAST.bits() == 0 && last.len > 0 => {}
            _ => return Ok(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Data at 1 MiB and 3 MiB, and a hole up to 5 MiB.
    fn sparse() -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        file.write_all_at(&[2; 4096], 3 << 20).unwrap();
        file.set_len(5 << 20).unwrap();
        file
    }

    fn covers(ranges: &[Range<u64>], at: u64) -> bool {
        ranges.iter().any(|range| range.contains(&at))
    }

    #[test]
    fn holes_are_left_out() {
        let file = sparse();
        let ranges: Vec<_> = data_ranges(file.as_fd()).collect::<Result<_>>().unwrap();
        assert!(covers(&ranges, 1 << 20) && covers(&ranges, (3 << 20) + 4095), "{ranges:?}");
        assert!(!covers(&ranges, 2 << 20) && !covers(&ranges, 4 << 20), "{ranges:?}");
        let empty = tempfile::tempfile().unwrap();
        assert_eq!(data_ranges(empty.as_fd()).count(), 0);
    }

    #[test]
    fn extents_cover_the_data() {
        let file = sparse();
        match extents(file.as_fd()) {
            Err(errno) => assert!(matches!(errno, Errno::EOPNOTSUPP | Errno::ENOTTY), "{errno}"),
            Ok(found) => {
                let ranges: Vec<_> = found.iter().map(|e| e.start..e.start + e.len).collect();
                assert!(covers(&ranges, 1 << 20) && covers(&ranges, 3 << 20), "{found:?}");
                assert!(!covers(&ranges, 2 << 20), "{found:?}");
            }
        }
    }

    #[test]
    fn layout() {
        assert_eq!(size_of::<RawExtent>(), 56);
        assert_eq!(std::mem::offset_of!(Request, extents), 32);
    }
}
