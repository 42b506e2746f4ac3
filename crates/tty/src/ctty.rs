//! `/dev/tty`: a description of one's controlling terminal, made before the session exists that has it.
//!
//! The kernel resolves `/dev/tty` when it is opened. A process of criu-rs's own becomes the terminal's
//! session leader for a moment, opens it, and gives the terminal free again; the description stays.

use crate::TtyError;
use criu_kernel::clone3::{CloneArgs, Flags, clone3};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

const STEPS: [&str; 5] = ["setsid", "ioctl(TIOCSCTTY)", "open /dev/tty", "dup3", "ioctl(TIOCNOTTY)"];

/// Opens `/dev/tty` as a session would whose controlling terminal is `terminal`, which has none yet.
/// `name` is the terminal's, for messages.
///
/// # Errors
/// Those of the calls in between: EPERM where the terminal is another session's.
pub fn open_for(terminal: BorrowedFd<'_>, name: &str, flags: OFlag) -> Result<OwnedFd, TtyError> {
    let place = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(TtyError::call("/dev/null", "open"))?;
    let shared = Flags::FILES.bits();
    let args = CloneArgs { flags: shared, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    let (terminal, target) = (terminal.as_raw_fd(), place.as_raw_fd());
    let flags = flags | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    // SAFETY: the child, with a copy of the memory, only makes system calls and exits.
    let Some(child) = unsafe { clone3(&args) }.map_err(TtyError::call(name, "clone3"))? else {
        let (step, errno) = match become_leader(terminal, target, flags) {
            Ok(()) => (0, 0),
            Err((step, errno)) => (step, errno as i32),
        };
        // Two numbers in eight bits: errors of these calls are below 32.
        // SAFETY: leaves at once.
        unsafe { libc::_exit(step << 5 | errno & 31) }
    };
    match waitpid(child, None).map_err(TtyError::call(name, "waitpid"))? {
        WaitStatus::Exited(_, 0) => Ok(place),
        WaitStatus::Exited(_, code) => {
            let call = STEPS.get((code >> 5) as usize).copied().unwrap_or("helper");
            Err(TtyError::call(name, call)(Errno::from_raw(code & 31)))
        }
        _ => Err(TtyError::call(name, "helper")(Errno::EINTR)),
    }
}

/// What the child does. The descriptor table is shared: `target` becomes the result there.
fn become_leader(terminal: i32, target: i32, flags: OFlag) -> Result<(), (i32, Errno)> {
    let at = |step: usize, ret: i64| Errno::result(ret).map_err(|errno| (step as i32, errno));
    // SAFETY: plain system calls; the path is a constant; descriptors are the caller's.
    unsafe {
        // Giving up a terminal sends SIGHUP to its foreground group, which is this child.
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        at(0, libc::setsid().into())?;
        at(1, libc::ioctl(terminal, libc::TIOCSCTTY, 0).into())?;
        let opened = at(2, libc::open(c"/dev/tty".as_ptr(), flags.bits()).into())? as i32;
        let moved = at(3, libc::dup3(opened, target, libc::O_CLOEXEC).into());
        libc::close(opened);
        moved?;
        at(4, libc::ioctl(terminal, libc::TIOCNOTTY).into())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;
    use nix::pty::openpty;
    use std::os::fd::AsFd;

    #[test]
    fn the_description_outlives_the_helper() {
        let pty = openpty(None, None).unwrap();
        let tty = open_for(pty.slave.as_fd(), "a pty", OFlag::O_RDWR).unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", tty.as_raw_fd())).unwrap();
        assert_eq!(link.to_str().unwrap(), "/dev/tty");
        nix::unistd::write(&tty, b"word").unwrap();
        let mut heard = [0; 8];
        assert_eq!(nix::unistd::read(&pty.master, &mut heard).unwrap(), 4);
        let number = sys::get(tty.as_fd(), sys::TIOCGDEV).unwrap() as u64;
        assert_eq!(number, nix::sys::stat::fstat(&pty.slave).unwrap().st_rdev);
        // The terminal is free again.
        assert_eq!(sys::get(pty.master.as_fd(), libc::TIOCGSID), Err(Errno::ENOTTY));
        drop(open_for(pty.slave.as_fd(), "a pty", OFlag::O_RDONLY).unwrap());
    }

    #[test]
    fn what_is_no_terminal_is_an_error() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = open_for(null.as_fd(), "/dev/null", OFlag::O_RDWR).unwrap_err().to_string();
        assert_eq!(error, "/dev/null: ioctl(TIOCSCTTY): ENOTTY: Not a typewriter");
    }
}
