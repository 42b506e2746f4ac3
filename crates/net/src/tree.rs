//! What sockets have to know of the tree they belong to.

use std::os::fd::{AsFd, BorrowedFd};

use criu_kernel::sockopt;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::{Called, Error, Result};

/// Linux 5.14.
const SO_NETNS_COOKIE: i32 = 71;

/// The network namespace that criu-rs is in.
#[derive(Debug, Default)]
pub(crate) struct Home(Option<u64>);

impl Home {
    /// Whether the socket is at home; kernels before 5.14 do not tell, and are trusted.
    ///
    /// # Errors
    /// [`Error::OtherNamespace`]
    pub fn check(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        let cookie = |fd: BorrowedFd<'_>| sockopt::get::<u64>(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE);
        let theirs = match cookie(fd) {
            Err(Errno::ENOPROTOOPT) => return Ok(()),
            answer => answer.called("getsockopt(SO_NETNS_COOKIE)")?,
        };
        let home = match self.0 {
            Some(home) => home,
            None => {
                let flags = SockFlag::SOCK_CLOEXEC;
                let own = socket(AddressFamily::Unix, SockType::Stream, flags, None).called("socket")?;
                *self.0.insert(cookie(own.as_fd()).called("getsockopt(SO_NETNS_COOKIE)")?)
            }
        };
        if theirs == home { Ok(()) } else { Err(Error::OtherNamespace) }
    }
}

/// The root of the dumped tree to which a task belongs: the highest ancestor that has the same tracer.
/// A task without a tracer is its own root.
pub(crate) fn root_of(pid: i32) -> i32 {
    let (mut root, mut parent, tracer) = match parents(pid) {
        Some((parent, tracer)) if tracer != 0 => (pid, parent, tracer),
        _ => return pid,
    };
    while let Some((grandparent, its_tracer)) = parents(parent) {
        if its_tracer != tracer {
            break;
        }
        (root, parent) = (parent, grandparent);
    }
    root
}

/// Parent and tracer of a task.
fn parents(pid: i32) -> Option<(i32, i32)> {
    // Its name need not be UTF-8.
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((field("PPid:")?, field("TracerPid:")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn own_sockets_are_at_home() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Home::default().check(listener.as_fd()).unwrap();
        let elsewhere = Home(Some(u64::MAX)).check(listener.as_fd());
        assert!(matches!(elsewhere, Err(Error::OtherNamespace)));
    }

    #[test]
    fn an_untraced_task_is_its_own_root() {
        assert_eq!(root_of(std::process::id() as i32), std::process::id() as i32);
        assert_eq!(root_of(i32::MAX), i32::MAX);
    }
}
