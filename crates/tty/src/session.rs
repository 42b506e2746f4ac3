//! Who controls a terminal: the session it belongs to, and the foreground process group.
//!
//! Only a session's leader can take a terminal, and only a member of the session can name its foreground
//! group; so both are steps in a task's own script. The leader opens the slave side by its path: the master is
//! open already, in criu-rs and, inherited, in every task.

use crate::{pty, restore};
use criu_images::proto::{PstreeEntry, TtyInfoEntry};
use criu_images::{Image, StoreExt};
use criu_resource::{Answer, BoxError, BuiltTask, DumpContext, FrozenTask, RestoreContext, Stage, TaskState};
use criu_script::{Arg, Script};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// The controlling terminals of a tree. What a dump has to know lies in `tty-info.img`, which
/// [`crate::Terminals`] writes.
pub struct Controlling;

impl TaskState for Controlling {
    fn name(&self) -> &'static str {
        "controlling terminal"
    }

    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        _: &'a DumpContext<'a>,
        _: &mut Script,
    ) -> Result<Answer<'a>, BoxError> {
        Ok(Box::new(|_, _| Ok(())))
    }

    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        context: &RestoreContext<'_>,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        if !matches!(stage, Stage::Files | Stage::State) {
            return Ok(());
        }
        let infos = restore::infos(context)?;
        let paired = restore::paired(&infos);
        for info in infos.values() {
            let inside = restore::pair(info).filter(|index| paired.contains(index) && info.sid != 0);
            match (stage, inside) {
                (Stage::Files, Some(index)) if info.sid == task.pid() => {
                    with_terminal(&pty::slave_path(index), libc::TIOCSCTTY, Arg::from(0), script);
                }
                (Stage::State, Some(index)) if info.sid == task.pid() && info.pgrp != 0 => {
                    let group = script.bytes(&info.pgrp.to_ne_bytes());
                    with_terminal(&pty::slave_path(index), libc::TIOCSPGRP, group.into(), script);
                }
                (Stage::State, None) if task.parent.is_none() && takes_foreground(info, context)? => {
                    let group = script.bytes(&info.pgrp.to_ne_bytes());
                    with_terminal("/dev/tty", libc::TIOCSPGRP, group.into(), script);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether a job that was in the foreground of a terminal outside becomes so in criu-rs's: its group is in
/// the tree, and criu-rs has a terminal to give.
fn takes_foreground(info: &TtyInfoEntry, context: &RestoreContext<'_>) -> Result<bool, BoxError> {
    if !context.options.shell_job || info.pgrp == 0 || info.sid == 0 {
        return Ok(false);
    }
    let tree = context.store.read_image::<PstreeEntry>(Image::Pstree, 0)?;
    let inside = tree.iter().any(|task| task.pgid == info.pgrp && task.pid == info.pgrp);
    Ok(inside && open("/dev/tty", OFlag::O_RDWR | OFlag::O_NOCTTY, Mode::empty()).is_ok())
}

/// Steps that open a terminal, issue one ioctl, and close it.
fn with_terminal(path: &str, request: libc::c_ulong, argument: Arg, script: &mut Script) {
    let path = script.c_string(path.as_bytes());
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let tty = script.syscall(libc::SYS_openat, [libc::AT_FDCWD.into(), path.into(), flags.into()]).id();
    script.syscall(libc::SYS_ioctl, [tty.into(), (request as u64).into(), argument]);
    script.syscall(libc::SYS_close, [tty.into()]);
}
