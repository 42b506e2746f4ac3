//! A network namespace for a test, and a dump and restore of descriptors without an engine.
#![allow(dead_code)] // each test uses a part

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Mutex;

use criu_images::{Image, MemoryStore, RecordSet, StoreExt, proto};
use criu_resource::{
    BoxError, Descriptor, DumpContext, Fate, FileKind, NetworkLock, Numbers, Options, RestoreContext,
};

/// Runs a test on a thread in a network namespace of its own; without the right to make one it is skipped,
/// and says so.
pub fn in_own_network(test: impl FnOnce() + Send + 'static) {
    let run = move || {
        if let Err(errno) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: unshare(CLONE_NEWNET): {errno}");
            return;
        }
        raise_loopback();
        test();
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

fn raise_loopback() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // struct ifreq: a name of 16 bytes, then the flags.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&(libc::IFF_UP as u16).to_ne_bytes());
    // SAFETY: the kernel reads one `struct ifreq` of 40 bytes.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, request.as_mut_ptr()) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}

/// What a dump of some descriptors gives: the entries of `files.img`, and a store with all else.
pub struct Images {
    pub files: Vec<proto::FileEntry>,
    pub store: MemoryStore,
}

/// Dumps descriptors of this process, all of one kind, as a dump of a tree that is then killed (or not).
pub fn dump(
    kind: &dyn FileKind,
    options: &Options,
    fds: &[BorrowedFd<'_>],
    fate: Fate,
) -> Result<Images, BoxError> {
    let store = MemoryStore::default();
    let context = DumpContext { options, store: &store };
    let mut dump = kind.dump(&context);
    let mut records = RecordSet::new();
    let seen: Vec<_> = fds.iter().map(|fd| Seen::of(*fd)).collect();
    let described: Vec<_> =
        seen.iter().zip(fds).zip(1..).map(|((seen, fd), id)| seen.describe(*fd, id)).collect();
    for descriptor in &described {
        assert!(kind.claims(descriptor));
        dump.lock(descriptor)?;
    }
    let files = described
        .iter()
        .map(|descriptor| dump.entry(descriptor, &mut records))
        .collect::<Result<Vec<_>, _>>()?;
    // Also for other descriptors of this process that refer to the same description.
    let id_of =
        |_, number| fds.iter().zip(1..).find(|(fd, _)| same(fd.as_raw_fd(), number)).map(|(_, id)| id);
    dump.finish(&id_of, &mut records)?;
    records.write_to(&store)?;
    let root = proto::PstreeEntry { pid: std::process::id(), ..Default::default() };
    store.write_image(Image::Pstree, 0, &[root])?;
    let inventory = proto::InventoryEntry {
        network_lock_method: Some(match options.network_lock {
            NetworkLock::Iptables => 0,
            NetworkLock::Nftables => 1,
            NetworkLock::Skip => 2,
        }),
        tcp_close: Some(options.tcp_close),
        ..Default::default()
    };
    store.write_image(Image::Inventory, 0, &[inventory])?;
    dump.commit(fate)?;
    Ok(Images { files, store })
}

/// Restores all of them.
pub fn restore(kind: &dyn FileKind, options: &Options, images: &Images) -> Result<Vec<OwnedFd>, BoxError> {
    let numbers = Mutex::new(Numbers::default());
    let context = RestoreContext { options, store: &images.store, numbers: &numbers };
    let mut restore = kind.restore(&context)?;
    for file in &images.files {
        restore.plan(file)?;
    }
    let fds = images.files.iter().map(|file| restore.open(file)).collect::<Result<Vec<_>, _>>()?;
    let fd_of = |id: u32| {
        let index = images.files.iter().position(|file| file.id == id)?;
        fds[index].try_clone().ok()
    };
    restore.connect(&fd_of)?;
    restore.finish()?;
    Ok(fds)
}

struct Seen {
    link: PathBuf,
    flags: u32,
    stat: nix::sys::stat::FileStat,
}

impl Seen {
    fn of(fd: BorrowedFd<'_>) -> Self {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL).unwrap() as u32;
        Self { link, flags, stat: nix::sys::stat::fstat(fd).unwrap() }
    }

    fn describe<'a>(&'a self, fd: BorrowedFd<'a>, id: u32) -> Descriptor<'a> {
        Descriptor {
            fd,
            id,
            pid: std::process::id() as i32,
            number: fd.as_raw_fd(),
            link: &self.link,
            pos: 0,
            flags: self.flags,
            mnt_id: 0,
            extra: "",
            dev: self.stat.st_dev,
            ino: self.stat.st_ino,
            rdev: 0,
            mode: self.stat.st_mode,
            size: 0,
            nlink: 1,
            fown: proto::FownEntry::default(),
        }
    }
}

/// Whether two descriptors of this process refer to the same description.
pub fn same(one: i32, two: i32) -> bool {
    let me = std::process::id();
    // SAFETY: kcmp(KCMP_FILE) takes five integers.
    unsafe { libc::syscall(libc::SYS_kcmp, me, me, 0, one, two) == 0 }
}
