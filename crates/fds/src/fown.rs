//! Who is signalled when a file becomes ready: F_SETOWN_EX(2) and F_SETSIG(2).

use crate::sys;
use criu_images::proto;
use criu_script::Script;
use std::os::fd::BorrowedFd;

/// Reads the owner of a description. `map` turns an id of criu-rs's pid namespace into the tree's.
///
/// # Errors
/// Those of fcntl(2). A descriptor opened with O_PATH has no owner and must not come here.
pub fn read(fd: BorrowedFd<'_>, map: &dyn Fn(i32) -> i32) -> nix::Result<proto::FownEntry> {
    let mut fown = none();
    fown.signum = sys::owner_signal(fd)? as u32;
    let owner = sys::owner(fd)?;
    if owner.pid != 0 {
        [fown.uid, fown.euid] = sys::owner_uids(fd)?;
        fown.pid_type = owner.kind as u32;
        fown.pid = map(owner.pid) as u32;
    }
    Ok(fown)
}

/// Nobody.
pub fn none() -> proto::FownEntry {
    proto::FownEntry { uid: 0, euid: 0, signum: 0, pid_type: 0, pid: 0 }
}

/// Adds the steps that make the task which runs them set the owner of its descriptor `number`. The ids
/// exist by then, and the kernel notes the users as the task's own: it takes them on for that moment.
pub fn steps(fown: &proto::FownEntry, number: i32, script: &mut Script) {
    if fown.pid == 0 {
        return;
    }
    let users = |script: &mut Script, real: u32, effective: u32, saved: u32| {
        script.syscall(libc::SYS_setresuid, [real.into(), effective.into(), saved.into()]);
    };
    let foreign = (fown.uid, fown.euid) != (0, 0);
    if foreign {
        // The saved id stays 0, which is the way back and keeps the permitted capabilities.
        users(script, fown.uid, fown.euid, 0);
    }
    let mut owner = [0; 8];
    owner[..4].copy_from_slice(&fown.pid_type.to_ne_bytes());
    owner[4..].copy_from_slice(&fown.pid.to_ne_bytes());
    let owner = script.bytes(&owner);
    script.syscall(libc::SYS_fcntl, [number.into(), sys::F_SETOWN_EX.into(), owner.into()]);
    if foreign {
        users(script, 0, 0, 0);
    }
}

/// The owner noted in an entry, where it notes one.
pub fn of(entry: &proto::FileEntry) -> Option<&proto::FownEntry> {
    macro_rules! first {
        ($($field:ident),*) => { $(if let Some(e) = &entry.$field { return Some(&e.fown); })* };
    }
    first!(reg, isk, psk, nlsk, efd, epfd, sgfd, tfd, ify, ffy, ext, usk, pipe, tty, memfd, bpf, pidfd);
    None
}

/// Sets the signal and the status flags of a description that was just opened: what criu-rs itself can
/// do before the tasks exist.
///
/// # Errors
/// Those of fcntl(2).
pub fn prepare(fd: BorrowedFd<'_>, fown: &proto::FownEntry, flags: u32) -> nix::Result<()> {
    if fown.signum != 0 {
        sys::set_owner_signal(fd, fown.signum as i32)?;
    }
    // Asynchronous notification needs no owner to be switched on.
    sys::set_flags(fd, flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::os::fd::AsFd;

    #[test]
    fn signal_and_flags_come_back() {
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        let fown = proto::FownEntry { signum: libc::SIGUSR2 as u32, ..none() };
        prepare(reader.as_fd(), &fown, libc::O_NONBLOCK as u32).unwrap();
        assert_eq!(read(reader.as_fd(), &|pid| pid).unwrap(), fown);
        let flags = fcntl(&reader, FcntlArg::F_GETFL).unwrap();
        assert!(OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
    }

    #[test]
    fn owner_of_another_user_is_set_under_its_ids() {
        let mut script = Script::new("test");
        let fown = proto::FownEntry { uid: 7, euid: 8, signum: 0, pid_type: 1, pid: 9 };
        steps(&fown, 3, &mut script);
        let numbers: Vec<i64> = script.steps().iter().map(|step| step.nr.into()).collect();
        assert_eq!(numbers, [libc::SYS_setresuid, libc::SYS_fcntl, libc::SYS_setresuid]);
    }
}
