//! Names of unix sockets: paths, relative or deleted ones too, and abstract names.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use criu_images::proto::{FilePermsEntry, UnixSkEntry};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
use nix::sys::stat::{Mode, fstat};

use crate::error::{Called, Error, Result};
use crate::sys;

/// Fills in what an entry says of the file of a named socket.
pub(super) fn describe(fd: BorrowedFd<'_>, name: &[u8], entry: &mut UnixSkEntry) -> Result<()> {
    entry.name = name.to_vec();
    if name.first().is_none_or(|first| *first == 0) {
        // Unnamed, or abstract.
        return Ok(());
    }
    let Some(file) = sys::socket_file(fd)? else { return Ok(()) };
    let stat = fstat(file.as_fd()).called("fstat(socket file)")?;
    entry.file_perms = Some(FilePermsEntry { mode: stat.st_mode, uid: stat.st_uid, gid: stat.st_gid });

    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_err(|error| io_error("readlink(socket file)", &error))?;
    let mut path = link.as_os_str().as_bytes();
    if let Some(before) = path.strip_suffix(b" (deleted)") {
        entry.deleted = Some(true);
        path = before;
    }
    let name = text(name);
    if name[0] != b'/' {
        let directory = path
            .strip_suffix(name)
            .map(|directory| directory.strip_suffix(b"/").unwrap_or(directory))
            .ok_or_else(|| Error::Unsupported(format!("relative name of a socket at {}", link.display())))?;
        let directory = if directory.is_empty() { b"/" } else { directory };
        entry.name_dir = Some(directory.to_vec());
    }
    Ok(())
}

/// A path without the zero byte that ends it.
fn text(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A name for messages.
pub(super) fn show(name: &[u8]) -> String {
    match name.first() {
        None => "unnamed".into(),
        Some(0) => format!("@{}", String::from_utf8_lossy(&name[1..]).replace('\0', "@")),
        Some(_) => String::from_utf8_lossy(text(name)).into_owned(),
    }
}

fn io_error(call: &str, error: &io::Error) -> Error {
    Error::Call { call: call.into(), errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()) }
}

/// The directory that a relative name begins in.
pub(super) fn directory(entry: &UnixSkEntry) -> Option<PathBuf> {
    entry.name_dir.as_deref().map(|directory| std::ffi::OsStr::from_bytes(directory).into())
}

/// Where others reach a socket that is bound.
#[derive(Debug)]
pub(super) enum Reach {
    /// By its name, from this directory if it is relative.
    Name(Vec<u8>, Option<PathBuf>),
    /// By the file alone: its name is gone.
    File(OwnedFd),
}

/// Binds a socket to the name of its entry; the answer tells how to connect to it.
pub(super) fn bind_entry(fd: BorrowedFd<'_>, entry: &UnixSkEntry) -> Result<Option<Reach>> {
    let name = entry.name.as_slice();
    if name.is_empty() {
        return Ok(None);
    }
    let directory = directory(entry);
    let address = address(name)?;
    let call = || format!("bind({})", show(name));
    if name[0] == 0 {
        bind(fd.as_raw_fd(), &address).called(call())?;
        return Ok(Some(Reach::Name(name.to_vec(), None)));
    }
    let path = Path::new(std::ffi::OsStr::from_bytes(text(name)));
    let gone = within(directory.as_deref(), || {
        if entry.deleted() {
            return bind_and_delete(fd, path, entry).map(Some);
        }
        remove_dead(path)?;
        bind(fd.as_raw_fd(), &address).called(call())?;
        restore_permissions(path, entry)?;
        Ok(None)
    })?;
    Ok(Some(match gone {
        Some(file) => Reach::File(file),
        None => Reach::Name(name.to_vec(), directory),
    }))
}

/// connect(2) to a socket of the tree, or outside of it.
pub(super) fn connect_to(fd: BorrowedFd<'_>, reach: &Reach) -> Result<()> {
    match reach {
        Reach::Name(name, directory) => within(directory.as_deref(), || {
            connect(fd.as_raw_fd(), &address(name)?).called(format!("connect({})", show(name)))
        }),
        Reach::File(file) => {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let address = UnixAddr::new(path.as_str()).called("address of a deleted socket")?;
            connect(fd.as_raw_fd(), &address).called("connect(a deleted socket)")
        }
    }
}

fn address(name: &[u8]) -> Result<UnixAddr> {
    let address = match name.split_first() {
        Some((0, rest)) => UnixAddr::new_abstract(rest),
        _ => UnixAddr::new(text(name)),
    };
    address.called(format!("address {}", show(name)))
}

/// Runs `work` in a directory, without a change of directory for other threads.
fn within<T: Send>(directory: Option<&Path>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let Some(directory) = directory else { return work() };
    let run = || {
        unshare(CloneFlags::CLONE_FS).called("unshare(CLONE_FS)")?;
        std::env::set_current_dir(directory)
            .map_err(|error| io_error(&format!("chdir({})", directory.display()), &error))?;
        work()
    };
    std::thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Removes the file that a dead socket left behind, as the one we restore did. A live one stays, and
/// bind(2) then fails.
fn remove_dead(path: &Path) -> Result<()> {
    let probe =
        socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).called("socket")?;
    let Ok(address) = UnixAddr::new(path) else { return Ok(()) };
    // Of a live socket of another type we would hear EPROTOTYPE; of what is no socket, too.
    if connect(probe.as_raw_fd(), &address) == Err(Errno::ECONNREFUSED) {
        fs::remove_file(path).map_err(|error| io_error(&format!("unlink({})", path.display()), &error))?;
    }
    Ok(())
}

fn restore_permissions(path: &Path, entry: &UnixSkEntry) -> Result<()> {
    let Some(permissions) = &entry.file_perms else { return Ok(()) };
    let show = path.display();
    chown(path, Some(permissions.uid), Some(permissions.gid))
        .map_err(|error| io_error(&format!("chown({show})"), &error))?;
    fs::set_permissions(path, fs::Permissions::from_mode(permissions.mode & 0o7777))
        .map_err(|error| io_error(&format!("chmod({show})"), &error))
}

/// Binds to a name that does not exist any more, or that another file has now.
fn bind_and_delete(fd: BorrowedFd<'_>, path: &Path, entry: &UnixSkEntry) -> Result<OwnedFd> {
    let made = make_parents(path)?;
    let mut aside = path.as_os_str().to_owned();
    aside.push(".criu-rs-aside");
    let moved = path.symlink_metadata().is_ok();
    if moved {
        fs::rename(path, &aside).map_err(|error| io_error(&format!("rename({})", path.display()), &error))?;
    }
    let bound = address(&entry.name).and_then(|address| {
        bind(fd.as_raw_fd(), &address).called(format!("bind({})", path.display()))?;
        restore_permissions(path, entry)?;
        let file = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).called("open(O_PATH)");
        let removed = fs::remove_file(path).map_err(|error| io_error("unlink", &error));
        file.and_then(|file| removed.map(|()| file))
    });
    if moved {
        fs::rename(&aside, path).map_err(|error| io_error(&format!("rename({})", path.display()), &error))?;
    }
    for directory in made.iter().rev() {
        fs::remove_dir(directory)
            .map_err(|error| io_error(&format!("rmdir({})", directory.display()), &error))?;
    }
    bound
}

/// Makes the missing directories above a path; the answer lists them, outermost first.
fn make_parents(path: &Path) -> Result<Vec<PathBuf>> {
    let missing: Vec<_> = path
        .ancestors()
        .skip(1)
        .take_while(|parent| !parent.as_os_str().is_empty() && !parent.exists())
        .map(Path::to_path_buf)
        .collect();
    let missing: Vec<_> = missing.into_iter().rev().collect();
    for directory in &missing {
        fs::create_dir(directory)
            .map_err(|error| io_error(&format!("mkdir({})", directory.display()), &error))?;
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::show;

    #[test]
    fn names_are_shown_as_ss_shows_them() {
        assert_eq!(show(b""), "unnamed");
        assert_eq!(show(b"/run/x\0"), "/run/x");
        assert_eq!(show(b"\0hidden\0one"), "@hidden@one");
    }
}
