//! Descriptors of namespaces: `/proc/PID/ns/net` and its like.

use crate::alone::Alone;
use crate::fown;
use criu_images::proto;
use criu_resource::{Descriptor, Dump, Restore};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, stat};
use std::os::fd::{AsFd, OwnedFd};

/// Name in procfs, flag of clone(2), and the number that a tree in criu-rs's own namespaces has for it in
/// the images.
const KINDS: [(&str, u32, u32); 8] = [
    ("pid", libc::CLONE_NEWPID as u32, 1),
    ("net", libc::CLONE_NEWNET as u32, 2),
    ("ipc", libc::CLONE_NEWIPC as u32, 3),
    ("uts", libc::CLONE_NEWUTS as u32, 4),
    ("mnt", libc::CLONE_NEWNS as u32, 5),
    ("user", libc::CLONE_NEWUSER as u32, 6),
    ("cgroup", libc::CLONE_NEWCGROUP as u32, 7),
    ("time", 0x80, 8),
];

/// A descriptor of one of the namespaces that criu-rs itself is in.
#[derive(Debug)]
pub struct Nsfile;

/// A namespace that cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum NsfileError {
    /// It is another than criu-rs's.
    #[error("it is a {0} namespace that criu-rs is not in, which is not supported yet")]
    Foreign(String),
    /// The images name no known kind.
    #[error("namespace of unknown kind {0:#x}")]
    Kind(u32),
    /// It cannot be opened.
    #[error("open /proc/self/ns/{0}: {1}")]
    Open(&'static str, Errno),
}

impl Dump for Nsfile {
    type Source<'a> = &'a Descriptor<'a>;
    type Entry = proto::NsFileEntry;
    type Error = NsfileError;

    fn dump(source: &Descriptor<'_>) -> Result<Self::Entry, NsfileError> {
        let kind = kind(source).unwrap_or_default();
        let foreign = || NsfileError::Foreign(kind.clone());
        let &(name, flag, number) = KINDS.iter().find(|known| known.0 == kind).ok_or_else(foreign)?;
        let own = stat(format!("/proc/self/ns/{name}").as_str()).map_err(|e| NsfileError::Open(name, e))?;
        if (own.st_dev, own.st_ino) != (source.dev, source.ino) {
            return Err(foreign());
        }
        Ok(proto::NsFileEntry { id: source.id, ns_id: number, ns_cflag: flag, flags: source.flags })
    }
}

/// `net:[4026531840]`
fn kind(descriptor: &Descriptor<'_>) -> Option<String> {
    let link = descriptor.link.to_str()?;
    let (kind, number) = link.split_once(":[")?;
    number.strip_suffix(']')?.parse::<u64>().ok()?;
    Some(kind.to_owned())
}

impl Restore for Nsfile {
    type Entry = proto::NsFileEntry;
    type Context<'a> = ();
    type Object = OwnedFd;
    type Error = NsfileError;

    fn restore(entry: &Self::Entry, (): ()) -> Result<OwnedFd, NsfileError> {
        let kind = KINDS.iter().find(|known| known.1 == entry.ns_cflag);
        let &(name, ..) = kind.ok_or(NsfileError::Kind(entry.ns_cflag))?;
        let path = format!("/proc/self/ns/{name}");
        let fd = nix::fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .and_then(|fd| fown::prepare(fd.as_fd(), &fown::none(), entry.flags).map(|()| fd));
        fd.map_err(|errno| NsfileError::Open(name, errno))
    }
}

impl Alone for Nsfile {
    const NAME: &'static str = "namespace";
    const TYPE: proto::FdTypes = proto::FdTypes::Ns;

    fn claims(descriptor: &Descriptor<'_>) -> bool {
        descriptor.mode & libc::S_IFMT == libc::S_IFREG
            && kind(descriptor).is_some_and(|kind| KINDS.iter().any(|known| known.0 == kind))
    }

    fn wrap(entry: proto::NsFileEntry, file: &mut proto::FileEntry) {
        file.nsf = Some(entry);
    }

    fn unwrap(file: &proto::FileEntry) -> Option<&proto::NsFileEntry> {
        file.nsf.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Observed;

    #[test]
    fn own_namespaces_only() {
        for (name, ..) in KINDS {
            let Ok(file) = std::fs::File::open(format!("/proc/self/ns/{name}")) else { continue };
            let seen = Observed::own(file.as_fd()).unwrap();
            let mut descriptor = seen.view(file.as_fd(), 1);
            assert!(Nsfile::claims(&descriptor));
            let again = Nsfile::restore(&Nsfile::dump(&descriptor).unwrap(), ()).unwrap();
            assert_eq!(nix::sys::stat::fstat(&again).unwrap().st_ino, descriptor.ino);
            descriptor.ino += 1;
            assert!(matches!(Nsfile::dump(&descriptor), Err(NsfileError::Foreign(kind)) if kind == name));
        }
    }
}
