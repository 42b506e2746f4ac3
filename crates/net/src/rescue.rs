//! Undoes what a killed dump may have left in sockets and in the firewall.

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use criu_kernel::{Pid, pidfd};

use crate::error::{Called, Result};
use crate::tcp::Connection;
use crate::{lock, options};

/// Brings the connections of a tree back to life: takes every TCP socket out of repair mode, then removes
/// the network lock. Tells whether there was anything to do.
///
/// For the guard of a dump, once the dump is dead and the tree with this root (in the caller's pid
/// namespace) is to live. Without it, a socket that the dump had just in repair mode would fail its owner's
/// calls until the next dump. Tasks that end meanwhile are passed over.
///
/// # Errors
/// Those of [`lock::remove_stale`], and `EPERM` without `CAP_NET_ADMIN` and ptrace access.
pub fn rescue(root: i32) -> Result<bool> {
    let mut found = false;
    for pid in tree(root) {
        let Ok(process) = pidfd::open(Pid::from_raw(pid), pidfd::Flags::empty()) else { continue };
        for number in sockets(pid) {
            let Ok(fd) = pidfd::getfd(process.as_fd(), number) else { continue };
            found |= resume(fd.as_fd())?;
        }
    }
    Ok(found | lock::remove_stale(root)?)
}

/// Ends repair mode; tells whether the socket was in it.
fn resume(fd: BorrowedFd<'_>) -> Result<bool> {
    let tcp = matches!(
        options::identity(fd),
        Some((libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP))
    );
    if !tcp
        || criu_kernel::sockopt::get::<i32>(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR).called("TCP_REPAIR")?
            == 0
    {
        return Ok(false);
    }
    // Nobody knows any more what SO_REUSEADDR was. Set, it keeps nobody from binding the port.
    Connection::resume(fd, true)?;
    Ok(true)
}

/// The task and all its descendants.
fn tree(root: i32) -> Vec<i32> {
    let mut seen = HashSet::from([root]);
    let mut pids = vec![root];
    let mut next = 0;
    while let Some(pid) = pids.get(next).copied() {
        next += 1;
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children.split_whitespace().filter_map(|child| child.parse().ok());
            pids.extend(children.filter(|child| seen.insert(*child)));
        }
    }
    pids
}

/// Descriptor numbers of a task's sockets.
fn sockets(pid: i32) -> Vec<i32> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors
        .filter(|entry| {
            fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_includes_children() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pids = tree(std::process::id() as i32);
        assert!(pids.contains(&(child.id() as i32)), "{pids:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
