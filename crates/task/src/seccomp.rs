//! Seccomp. Not carried over yet: a task under seccomp is refused before anything runs inside it, since the
//! system calls of a script might kill it.

use crate::error::Error;
use criu_images::proto::{SeccompMode, ThreadCoreEntry};

/// Fills the image of a thread whose `/proc/PID/task/TID/status` says `Seccomp: mode`.
///
/// # Errors
/// For every mode but 0.
pub fn fill(mode: u32, entry: &mut ThreadCoreEntry) -> Result<(), Error> {
    check(mode)?;
    entry.set_seccomp_mode(SeccompMode::Disabled);
    Ok(())
}

/// Checks that a thread is not under seccomp.
///
/// # Errors
/// For every mode but 0.
pub fn check(mode: u32) -> Result<(), Error> {
    match mode {
        0 => Ok(()),
        1 => Err(Error::Unsupported("a task in strict seccomp mode".into())),
        _ => Err(Error::Unsupported("a task with seccomp filters".into())),
    }
}
