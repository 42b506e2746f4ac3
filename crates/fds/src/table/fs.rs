//! Working directory, root directory and umask of a task.

use super::TableError;
use crate::Files;
use criu_images::proto;
use criu_resource::{BoxError, FrozenTask};
use criu_script::{Check, Script};
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;

/// The directories as `fs-PID.img` has them; they become regular-file entries.
pub fn entry(task: &FrozenTask<'_>, files: &Files) -> Result<proto::FsEntry, BoxError> {
    let id = |name: &'static str| -> Result<u32, BoxError> {
        let call = |call| move |errno| TableError::Task { pid: task.pid, call, errno };
        let link = readlinkat(task.proc, name).map(PathBuf::from).map_err(call("readlink"))?;
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let directory = openat(task.proc, name, flags, Mode::empty()).map_err(call("open"))?;
        files.mapped(task.pid, directory.as_fd(), &link)
    };
    Ok(proto::FsEntry { cwd_id: id("cwd")?, root_id: id("root")?, umask: Some(umask(task)?) })
}

fn umask(task: &FrozenTask<'_>) -> Result<u32, BoxError> {
    let status = openat(task.proc, "status", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| TableError::Task { pid: task.pid, call: "open", errno })?;
    let mut text = Vec::new();
    File::from(status).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    crate::observed::line(&text, "Umask").and_then(|mask| u32::from_str_radix(mask, 8).ok()).ok_or_else(
        || io::Error::other(format!("pid {}: status has no Umask line (Linux 4.7)", task.pid)).into(),
    )
}

/// Adds the steps that set it up. The directories lie open at these numbers.
pub fn steps(umask: Option<u32>, root: Option<i32>, cwd: i32, script: &mut Script) {
    script.set_what("working directory");
    if let Some(root) = root {
        let dot = script.c_string(b".");
        script.syscall(libc::SYS_fchdir, [root.into()]);
        script.syscall(libc::SYS_chroot, [dot.into()]);
    }
    script.syscall(libc::SYS_fchdir, [cwd.into()]);
    if let Some(mask) = umask {
        script.syscall(libc::SYS_umask, [mask.into()]).check(Check::Any);
    }
}
