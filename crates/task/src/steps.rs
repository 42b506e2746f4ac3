//! Small steps that many resources share.

use criu_images::proto::TaskCoreEntry;
use criu_kernel::Pid;
use criu_kernel::ProcResult;
use criu_kernel::proc::ProcDir;
use criu_resource::{BuiltTask, FrozenTask, FrozenThread, Life};
use criu_script::{Arg, Outcome, Script, StepMut};

/// Numbers of linux/prctl.h that this crate uses, beside those in libc.
pub mod pr {
    pub const GET_TID_ADDRESS: i32 = 40;
    pub const TIMER_CREATE_RESTORE_IDS: i32 = 77;
}

/// `prctl(option, a, b, 0, 0)`.
pub fn prctl(script: &mut Script, option: i32, a: impl Into<Arg>, b: impl Into<Arg>) -> StepMut<'_> {
    let zero = Arg::Value(0);
    script.syscall(libc::SYS_prctl, [option.into(), a.into(), b.into(), zero, zero])
}

/// The directory of a frozen task.
pub fn task_dir(task: &FrozenTask<'_>) -> ProcResult<ProcDir> {
    ProcDir::open(Pid::from_raw(task.pid))
}

/// The directory of a frozen thread.
pub fn thread_dir(task: &FrozenTask<'_>, thread: &FrozenThread) -> ProcResult<ProcDir> {
    ProcDir::open_path(format!("/proc/{}/task/{}", task.pid, thread.tid).into())
}

/// What a call filled a buffer with, up to its zero.
pub fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// All 64-bit words of a piece of data.
pub fn words<const N: usize>(outcome: &Outcome, data: criu_script::Data) -> [u64; N] {
    std::array::from_fn(|i| outcome.u64(data, i))
}

/// The process-wide state to restore; `None` for a zombie, which has none any more.
pub fn living(task: &BuiltTask) -> Option<&TaskCoreEntry> {
    task.tc().filter(|_| !matches!(task.life, Life::Zombie(_)))
}
