//! What belongs to a process as a whole and has no better place: out-of-memory score, audit id, whether it
//! adopts orphans, registrations for membarrier(2).

use crate::restorer;
use crate::steps::{living, prctl, task_dir};
use criu_resource::{Answer, BoxError, BuiltTask, DumpContext, FrozenTask, RestoreContext, Stage, TaskState};
use criu_script::{Arg, Check, Script};

const MEMBARRIER_CMD_GET_REGISTRATIONS: i32 = 1 << 9;

/// Out-of-memory score, audit id, child subreaper, membarrier registrations.
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
        let loginuid = restorer::set_loginuid(dir.loginuid())?;
        let oom_score_adj = dir.oom_score_adj()?;
        let subreaper = script.zeroed(4);
        prctl(script, libc::PR_GET_CHILD_SUBREAPER, subreaper, 0);
        let args = [MEMBARRIER_CMD_GET_REGISTRATIONS.into(), 0.into(), 0.into()];
        let membarrier = script.syscall(libc::SYS_membarrier, args).check(Check::Any).id();
        Ok(Box::new(move |outcome, images| {
            let tc = images.tc();
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
