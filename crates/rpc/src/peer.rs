//! Who the client is, and what it may ask for.

use crate::{Error, Failure};
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

/// The client's process and its ids when it connected (unix(7), SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process; 0 when that lies outside of our pid namespace.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Peer {
    pub(crate) fn of(socket: BorrowedFd<'_>) -> Result<Peer, Errno> {
        let ids = getsockopt(&socket, PeerCredentials)?;
        Ok(Peer { pid: ids.pid(), uid: ids.uid(), gid: ids.gid() })
    }

    /// Refuses a task that the client does not own by all its ids, as ptrace(2) would. Root may dump any.
    ///
    /// The kernel judges again when the task is seized, by the ids of this process: see
    /// [`become_client`](Peer::become_client).
    pub(crate) fn may_dump(&self, pid: i32) -> Result<(), Failure> {
        let path = format!("/proc/{pid}/status");
        let status = match fs::read_to_string(&path) {
            Ok(status) => status,
            Err(_) => return Err(no_process(pid)),
        };
        let owner =
            Owner::parse(&status).ok_or_else(|| Failure::new(format!("{path} has no lines Uid and Gid")))?;
        if self.uid == 0 || owner.is_only(self.uid, self.gid) {
            return Ok(());
        }
        let message = format!(
            "pid {pid} belongs to user {}, group {}; the client (user {}, group {}) may not dump it",
            owner.uids[0], owner.gids[0], self.uid, self.gid
        );
        Err(Failure::new(message).with_errno(libc::EPERM))
    }

    /// Whether the client is root or whoever started this process (with a set-user-ID binary, too), so that
    /// it could do all by itself.
    fn is_trusted(&self) -> bool {
        [0, Uid::current().as_raw(), Uid::effective().as_raw()].contains(&self.uid)
    }

    /// Takes on the ids of a client at the other end of `socket` that is not trusted, for good, and keeps no capability but
    /// CAP_CHECKPOINT_RESTORE: what the client may not do, this process then may not either.
    pub(crate) fn become_client(&self, socket: BorrowedFd<'_>) -> Result<(), Error> {
        if self.is_trusted() || !Uid::effective().is_root() {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        nix::sys::prctl::set_keepcaps(true).map_err(Error::system("prctl(PR_SET_KEEPCAPS)"))?;
        let groups = groups(socket).map_err(Error::system("getsockopt(SO_PEERGROUPS)"))?;
        setgroups(&groups).map_err(Error::system("setgroups"))?;
        setresgid(gid, gid, gid).map_err(Error::system("setresgid"))?;
        setresuid(uid, uid, uid).map_err(Error::system("setresuid"))?;
        capability::keep_checkpoint_restore().map_err(Error::system("capset"))?;
        // Its own files in /proc must be its own again, and so must those of the tasks that it makes. The client gets
        // no hold on it by that: it lacks the capability (ptrace(2)).
        nix::sys::prctl::set_dumpable(true).map_err(Error::system("prctl(PR_SET_DUMPABLE)"))?;
        Ok(())
    }
}

/// The supplementary groups of the process at the other end (SO_PEERGROUPS, Linux 4.13).
fn groups(socket: BorrowedFd<'_>) -> Result<Vec<Gid>, Errno> {
    // As many as a process may have.
    let mut groups = vec![0; 65_536];
    let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
    // SAFETY: the kernel fills at most `length` bytes of the buffer, and says how many in `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    groups.truncate(length as usize / size_of::<libc::gid_t>());
    Ok(groups.into_iter().map(Gid::from_raw).collect())
}

fn no_process(pid: i32) -> Failure {
    Failure::new(format!("pid {pid}: no such process")).with_errno(libc::ESRCH)
}

/// The ids of a task: real, effective, saved, file system.
struct Owner {
    uids: Vec<u32>,
    gids: Vec<u32>,
}

impl Owner {
    fn parse(status: &str) -> Option<Owner> {
        let ids = |name: &str| -> Option<Vec<u32>> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let ids: Vec<u32> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
            (!ids.is_empty()).then_some(ids)
        };
        Some(Owner { uids: ids("Uid:")?, gids: ids("Gid:")? })
    }

    fn is_only(&self, uid: u32, gid: u32) -> bool {
        self.uids.iter().all(|id| *id == uid) && self.gids.iter().all(|id| *id == gid)
    }
}

/// Whether a process is `root` or a descendant of it.
pub(crate) fn is_within(pid: i32, root: i32) -> bool {
    let mut pid = pid;
    while pid > 0 && pid != root {
        let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat); // a name need not be UTF-8
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        pid = parent.and_then(|parent| parent.parse().ok()).unwrap_or(0);
    }
    pid > 0
}

/// The paths that lead to a client's descriptor, best first. The client's own table holds it; what was
/// started by the client (`inherited`) has it too, unless it is close-on-exec.
pub(crate) fn descriptor_paths(peer: Peer, fd: i32, inherited: bool) -> Vec<PathBuf> {
    let of_peer = (peer.pid > 0).then(|| PathBuf::from(format!("/proc/{}/fd/{fd}", peer.pid)));
    let own = inherited.then(|| PathBuf::from(format!("/proc/self/fd/{fd}")));
    of_peer.into_iter().chain(own).collect()
}

mod capability {
    use nix::errno::Errno;

    const VERSION_3: u32 = 0x2008_0522;
    const CAP_CHECKPOINT_RESTORE: u32 = 40;

    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Set {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }

    /// Drops all other capabilities, and this one too where we do not have it.
    pub(super) fn keep_checkpoint_restore() -> Result<(), Errno> {
        let bit = 1 << (CAP_CHECKPOINT_RESTORE - 32);
        set(bit).or_else(|_| set(0))
    }

    fn set(high: u32) -> Result<(), Errno> {
        let header = Header { version: VERSION_3, pid: 0 };
        let none = Set { effective: 0, permitted: 0, inheritable: 0 };
        let sets = [none, Set { effective: high, permitted: high, ..none }];
        // SAFETY: capset(2) reads a header and, for version 3, two sets; both outlive the call.
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
        Errno::result(result).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t \n";

    #[test]
    fn every_id_counts() {
        assert!(Owner::parse(STATUS).unwrap().is_only(7, 8));
        for foreign in ["Uid:\t7\t0\t7\t7", "Uid:\t7\t7\t0\t7", "Uid:\t0\t7\t7\t7"] {
            let status = STATUS.replace("Uid:\t7\t7\t7\t7", foreign);
            assert!(!Owner::parse(&status).unwrap().is_only(7, 8), "{foreign}");
        }
        assert!(!Owner::parse(STATUS).unwrap().is_only(7, 9));
        assert!(Owner::parse("Name: x\nUid:\t\nGid:\t1\n").is_none());
    }

    #[test]
    fn root_may_dump_any_task_that_is_there() {
        let root = Peer { pid: 1, uid: 0, gid: 0 };
        assert_eq!(root.may_dump(std::process::id() as i32), Ok(()));
        assert_eq!(root.may_dump(0x7fff_fff0).unwrap_err().errno, libc::ESRCH);
    }

    #[test]
    fn another_users_task_is_refused() {
        let peer = Peer { pid: 1, uid: 4242, gid: 4242 };
        let failure = peer.may_dump(std::process::id() as i32).unwrap_err();
        assert_eq!(failure.errno, libc::EPERM);
        assert!(failure.message.contains("user 4242"), "{failure}");
    }

    #[test]
    fn descendants_are_within() {
        let (own, parent) = (std::process::id() as i32, std::os::unix::process::parent_id() as i32);
        assert!(is_within(own, own));
        assert!(is_within(own, parent));
        assert!(!is_within(parent, own));
    }
}
