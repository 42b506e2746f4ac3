//! Files that only exist once the tasks do: descriptors of tasks, and what procfs tells about them.
//!
//! criu-rs cannot open them beforehand. Each task that has one opens it itself; when several tasks have
//! the same description, each gets one of its own, of equal state.

use crate::pidfd::PidfdError;
use crate::{fown, sys};
use criu_images::proto;
use criu_resource::{BoxError, BuiltTree, FrozenTree, Stage};
use criu_script::{Arg, Script, StepId};

/// Whether a description is such a file.
pub fn is_late(entry: &proto::FileEntry, tree: &BuiltTree) -> bool {
    let in_tree = |pid: u32| tree.tasks.iter().any(|task| task.pstree.threads.contains(&pid));
    match (&entry.reg, &entry.pidfd) {
        (Some(regular), _) => process_of(&regular.name).is_some_and(in_tree),
        (_, Some(pidfd)) => u32::try_from(pidfd.nspid).is_ok_and(in_tree),
        _ => false,
    }
}

/// On dump: refuses what no task of the tree could open.
pub fn check(entry: &proto::FileEntry, tree: &FrozenTree<'_>) -> Result<(), PidfdError> {
    let in_tree = |pid: i32| {
        tree.tasks.iter().any(|task| task.threads.iter().any(|t| t.ns_tid == pid) || task.ns_pid == pid)
    };
    match &entry.pidfd {
        Some(pidfd) if pidfd.nspid >= 0 && !in_tree(pidfd.nspid) => Err(PidfdError::Foreign(pidfd.nspid)),
        _ => Ok(()),
    }
}

/// The process whose part of procfs a name lies in.
pub fn process_of(name: &[u8]) -> Option<u32> {
    let number = name.strip_prefix(b"/proc/")?.split(|&byte| byte == b'/').next()?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// When a late file can be opened: what is about a thread needs the threads, but procfs as criu-rs sees
/// it is out of reach for a task that has changed its root.
pub fn stage(entry: &proto::FileEntry) -> Stage {
    match &entry.reg {
        Some(regular) if !regular.name.windows(6).any(|part| part == b"/task/") => Stage::Files,
        _ => Stage::State,
    }
}

/// Adds the steps that open it at `number`. What the opening leaves at another number is closed with all
/// that is foreign.
pub fn steps(
    entry: &proto::FileEntry,
    number: i32,
    cloexec: bool,
    script: &mut Script,
) -> Result<(), BoxError> {
    let opened = match (&entry.reg, &entry.pidfd) {
        (Some(regular), _) => {
            let name = script.c_string(&regular.name);
            let flags = regular.flags as i32 & !(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC);
            script
                .syscall(libc::SYS_openat, [libc::AT_FDCWD.into(), name.into(), flags.into(), 0.into()])
                .id()
        }
        (_, Some(pidfd)) => {
            let flags = pidfd.flags as i32 & (libc::O_NONBLOCK | libc::O_EXCL);
            script.syscall(libc::SYS_pidfd_open, [pidfd.nspid.into(), flags.into()]).id()
        }
        _ => return Err("no file that a task could open".into()),
    };
    place(opened, number, cloexec, script);
    if let Some(regular) = &entry.reg
        && regular.pos != 0
        && regular.flags & libc::O_PATH as u32 == 0
    {
        script.syscall(libc::SYS_lseek, [number.into(), regular.pos.into(), libc::SEEK_SET.into()]);
    }
    if let Some(owner) = fown::of(entry).filter(|owner| owner.signum != 0) {
        script.syscall(libc::SYS_fcntl, [number.into(), sys::F_SETSIG.into(), owner.signum.into()]);
    }
    Ok(())
}

fn place(opened: StepId, number: i32, cloexec: bool, script: &mut Script) {
    script.syscall(libc::SYS_dup2, [Arg::from(opened), number.into()]);
    let flags = if cloexec { libc::FD_CLOEXEC } else { 0 };
    script.syscall(libc::SYS_fcntl, [number.into(), libc::F_SETFD.into(), flags.into()]);
}
