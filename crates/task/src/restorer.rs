//! What criu-rs itself is: a task under construction starts as its copy.

use criu_kernel::proc::{ProcDir, Status};
use criu_kernel::{ProcError, ProcResult};
use std::sync::OnceLock;

const CAP_SYS_RESOURCE: u32 = 24;

/// Ids and capabilities of criu-rs, read once: it never changes them.
pub fn status() -> ProcResult<&'static Status> {
    static STATUS: OnceLock<Status> = OnceLock::new();
    match STATUS.get() {
        Some(status) => Ok(status),
        None => {
            let status = ProcDir::current()?.status()?;
            Ok(STATUS.get_or_init(|| status))
        }
    }
}

/// Whether hard limits can be raised.
pub fn may_raise_limits() -> ProcResult<bool> {
    Ok(status()?.cap_effective >> CAP_SYS_RESOURCE & 1 == 1)
}

/// The login uid; `None` where it was never set or the kernel has none.
pub fn loginuid() -> ProcResult<Option<u32>> {
    set_loginuid(ProcDir::current()?.loginuid())
}

/// Makes "never set" and "no such file" the same.
pub fn set_loginuid(read: ProcResult<u32>) -> ProcResult<Option<u32>> {
    match read {
        Ok(u32::MAX) => Ok(None),
        Ok(uid) => Ok(Some(uid)),
        Err(error) if ProcError::is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
