//! Files by handle: name_to_handle_at(2), open_by_handle_at(2), Linux 2.6.39.
//!
//! inotify and fanotify watches are told in `fdinfo` as handles; these calls find the file.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::{NixPath, Result};

use crate::pidfd::owned;

/// Most bytes of a handle (`MAX_HANDLE_SZ`).
pub const MAX_LEN: usize = 128;

/// A file's handle in its filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileHandle {
    /// The filesystem's type of handle.
    pub kind: i32,
    /// The filesystem's bytes.
    pub bytes: Vec<u8>,
}

#[repr(C)]
struct Raw {
    len: u32,
    kind: i32,
    bytes: [u8; MAX_LEN],
}

/// The handle of a file, and the id of the mount it is on.
///
/// `flags` are `AT_EMPTY_PATH` (then `path` may be empty and `dir` the file itself) and
/// `AT_SYMLINK_FOLLOW`. `EOPNOTSUPP` where the filesystem has no handles.
pub fn name_to_handle<P: ?Sized + NixPath>(
    dir: BorrowedFd<'_>,
    path: &P,
    flags: i32,
) -> Result<(FileHandle, i32)> {
    let mut raw = Raw { len: MAX_LEN as u32, kind: 0, bytes: [0; MAX_LEN] };
    let mut mount = 0i32;
    let r = path.with_nix_path(|path| {
        // SAFETY: the path is a C string; `raw` has room for the length it says.
        unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                dir.as_raw_fd(),
                path.as_ptr(),
                &mut raw,
                &mut mount,
                flags,
            )
        }
    })?;
    Errno::result(r)?;
    let bytes = raw.bytes[..(raw.len as usize).min(MAX_LEN)].to_vec();
    Ok((FileHandle { kind: raw.kind, bytes }, mount))
}

/// Opens a file by its handle; `mount` is any descriptor on its filesystem.
///
/// Needs `CAP_DAC_READ_SEARCH`. `ESTALE` where the file is gone, `EINVAL` for a handle that is
/// too long.
pub fn open(mount: BorrowedFd<'_>, handle: &FileHandle, flags: OFlag) -> Result<OwnedFd> {
    let len = handle.bytes.len();
    if len > MAX_LEN {
        return Err(Errno::EINVAL);
    }
    let mut raw = Raw { len: len as u32, kind: handle.kind, bytes: [0; MAX_LEN] };
    raw.bytes[..len].copy_from_slice(&handle.bytes);
    let flags = (flags | OFlag::O_CLOEXEC).bits();
    // SAFETY: the kernel reads `raw`, as many bytes as it says.
    let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw, flags) };
    Errno::result(fd).map(owned)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_is_found_under_its_new_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("a"), "text").unwrap();
        let handle = match name_to_handle(root.as_fd(), "a", 0) {
            Err(Errno::EOPNOTSUPP) => return,
            answer => answer.unwrap().0,
        };
        std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        let file = match open(root.as_fd(), &handle, OFlag::O_RDONLY) {
            Err(Errno::EPERM) => return, // needs CAP_DAC_READ_SEARCH
            answer => answer.unwrap(),
        };
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        let b = File::open(dir.path().join("b")).unwrap();
        let same = name_to_handle(b.as_fd(), "", libc::AT_EMPTY_PATH).unwrap();
        assert_eq!(same.0, handle);
        drop(b);
        std::fs::remove_file(dir.path().join("b")).unwrap();
        assert_eq!(open(root.as_fd(), &handle, OFlag::O_RDONLY).unwrap_err(), Errno::ESTALE);
        let long = FileHandle { kind: 1, bytes: vec![0; 200] };
        assert_eq!(open(root.as_fd(), &long, OFlag::O_RDONLY).unwrap_err(), Errno::EINVAL);
    }
}
