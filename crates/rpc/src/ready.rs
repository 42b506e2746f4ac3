//! A server says that it waits for its clients.

use crate::Error;
use criu_engine::{Action, Hooks};
use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;

/// Tells the hooks, then writes a zero byte to the descriptor of `--status-fd` and closes it.
///
/// # Errors
/// A hook disagrees, or the descriptor cannot be written.
pub fn tell_ready(hooks: &mut dyn Hooks, status_fd: Option<i32>) -> Result<(), Error> {
    hooks.notify(Action::StatusReady, None).map_err(|source| Error::Stage { source })?;
    let Some(fd) = status_fd else { return Ok(()) };
    // SAFETY: whoever started the server gave it this descriptor, by --status-fd, for this one use.
    let mut status = unsafe { File::from_raw_fd(fd) };
    let path = format!("{fd}").into();
    status.write_all(&[0]).map_err(|source| Error::File { option: "--status-fd", path, source })
}
