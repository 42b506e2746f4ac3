//! Seccomp. Not carried over yet: a task under seccomp is refused before anything runs inside it, since the
//! system calls of a script might kill it.

use crate::error::Error;

/// Checks that a thread is not under seccomp: the mode in `/proc/PID/task/TID/status` or in an image must be 0.
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
