//! What a process is: state, out-of-memory score, audit id, role in its family; and what the
//! image of a zombie holds.

use crate::error::Error;
use crate::restorer;
use crate::steps::{living, prctl, task_dir, text};
use criu_images::proto::{self, core_entry::March};
use criu_resource::{
    Answer, BoxError, BuiltTask, DumpContext, FrozenTask, Life, RestoreContext, Stage, TaskState,
};
use criu_script::{Arg, Check, Script};

// Values of the image field `task_state`.
const ALIVE: u32 = 1;
const DEAD: u32 = 2;
const STOPPED: u32 = 3;

const MEMBARRIER_CMD_GET_REGISTRATIONS: i32 = 1 << 9;

/// What a task was doing, from its core image.
///
/// # Errors
/// For a state that is none.
pub fn life(core: &proto::CoreEntry) -> Result<Life, Error> {
    let Some(tc) = &core.tc else { return Err(Error::corrupt("core image", "it has no tc")) };
    match tc.task_state {
        ALIVE => Ok(Life::Alive),
        STOPPED => Ok(Life::Stopped(tc.stop_signo.map_or(libc::SIGSTOP, |signal| signal as i32))),
        DEAD => Ok(Life::Zombie(tc.exit_code as i32)),
        state => Err(Error::corrupt("task state", state)),
    }
}

/// The core image of a zombie.
///
/// # Errors
/// When its name cannot be read.
pub fn zombie(task: &FrozenTask<'_>) -> Result<proto::CoreEntry, Error> {
    let Life::Zombie(status) = task.life else { return Err(Error::corrupt("task state", "no zombie")) };
    let mut core = proto::CoreEntry::default();
    core.set_mtype(March::X8664);
    core.tc = Some(proto::TaskCoreEntry {
        task_state: DEAD,
        exit_code: status as u32,
        comm: text(&task_dir(task)?.comm()?),
        ..Default::default()
    });
    Ok(core)
}

/// State that belongs to the process as a whole and has no better place.
pub struct Process;

impl TaskState for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    fn ask<'a>(
        &'a self,
        task: &'a FrozenTask<'a>,
        _: &'a DumpContext<'a>,
        script: &mut Script,
    ) -> Result<Answer<'a>, BoxError> {
        let dir = task_dir(task)?;
        let flags = dir.stat()?.flags;
        let loginuid = restorer::set_loginuid(dir.loginuid())?;
        let oom_score_adj = dir.oom_score_adj()?;
        let subreaper = script.zeroed(4);
        prctl(script, libc::PR_GET_CHILD_SUBREAPER, subreaper, 0);
        let args = [MEMBARRIER_CMD_GET_REGISTRATIONS.into(), 0.into(), 0.into()];
        let membarrier = script.syscall(libc::SYS_membarrier, args).check(Check::Any).id();
        Ok(Box::new(move |outcome, images| {
            images.core.set_mtype(March::X8664);
            let tc = images.tc();
            (tc.task_state, tc.exit_code, tc.stop_signo) = match task.life {
                Life::Alive => (ALIVE, 0, None),
                Life::Stopped(signal) => (STOPPED, 0, Some(signal as u32)),
                Life::Zombie(status) => (DEAD, status as u32, None),
            };
            tc.flags = flags;
            tc.loginuid = loginuid;
            tc.oom_score_adj = Some(oom_score_adj);
            tc.child_subreaper = Some(outcome.u32(subreaper) != 0);
            let mask = outcome.result(membarrier).unwrap_or(0) as u32; // before Linux 6.3: not known
            tc.membarrier_registration_mask = (mask != 0).then_some(mask);
            Ok(())
        }))
    }

    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        _: &RestoreContext<'_>,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        let Some(tc) = living(task) else { return Ok(()) };
        match stage {
            // While /proc is still that of criu-rs.
            Stage::Inherit => {
                if let Some(score) = tc.oom_score_adj {
                    write_own(b"/proc/self/oom_score_adj", score.to_string().as_bytes(), script);
                }
                // All ones: never set.
                if let Some(uid) = tc.loginuid.filter(|&uid| uid != u32::MAX)
                    && restorer::loginuid()? != Some(uid)
                {
                    write_own(b"/proc/self/loginuid", uid.to_string().as_bytes(), script);
                }
            }
            // Cheap only as long as there is a single thread.
            Stage::Memory => {
                let mask = tc.membarrier_registration_mask();
                for bit in (0..u32::BITS).filter(|bit| mask >> bit & 1 == 1) {
                    let args = [(1_u32 << bit).into(), 0.into(), 0.into()];
                    script.syscall(libc::SYS_membarrier, args);
                }
            }
            Stage::State if tc.child_subreaper() => {
                prctl(script, libc::PR_SET_CHILD_SUBREAPER, 1, 0);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Writes into a file through a descriptor that lives for three steps.
fn write_own(path: &[u8], value: &[u8], script: &mut Script) {
    let path = script.c_string(path);
    let args = [libc::AT_FDCWD.into(), path.into(), (libc::O_WRONLY | libc::O_CLOEXEC).into()];
    let fd = script.syscall(libc::SYS_openat, args).id();
    let value = script.bytes(value);
    script.syscall(libc::SYS_write, [fd.into(), value.into(), value.len().into()]);
    script.syscall(libc::SYS_close, [Arg::Ret(fd)]);
}
