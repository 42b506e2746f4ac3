//! Small things of a thread: its name, its execution domain, the addresses the kernel writes to when it ends, the signal it gets
//! when its parent ends.

use crate::arch::native;
use crate::error::Error;
use crate::steps::{pr, prctl, text};
use criu_kernel::{Pid, ptrace};
use criu_resource::{BoxError, BuiltTask, FrozenTask, FrozenThread, Stage, ThreadAnswer, ThreadState};
use criu_script::{Arg, Check, Script};

const COMM: usize = 16;

/// The name of a thread (prctl(2), PR_SET_NAME). The main thread's is the process's.
pub struct Name;

impl ThreadState for Name {
    fn name(&self) -> &'static str {
        "name"
    }

    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        _: &'a FrozenThread,
        script: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError> {
        let name = script.zeroed(COMM);
        prctl(script, libc::PR_GET_NAME, name, 0);
        Ok(Box::new(move |outcome, core| {
            let name = text(outcome.bytes(name)).to_vec();
            if let Some(tc) = &mut core.tc {
                tc.comm.clone_from(&name);
            }
            core.thread_core.get_or_insert_default().comm = Some(name);
            Ok(())
        }))
    }

    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        thread: usize,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        let core = task.thread(thread);
        let of_thread = core.thread_core.as_ref().and_then(|core| core.comm.as_deref());
        let name = of_thread.or(core.tc.as_ref().map(|tc| tc.comm.as_slice()));
        if let (Stage::State, Some(name)) = (stage, name) {
            let name = script.c_string(&name[..name.len().min(COMM - 1)]);
            prctl(script, libc::PR_SET_NAME, name, 0);
        }
        Ok(())
    }
}

/// The word that is cleared, and the list of futexes that are released, when the thread ends
/// (set_tid_address(2), set_robust_list(2)).
pub struct ThreadEnd;

impl ThreadState for ThreadEnd {
    fn name(&self) -> &'static str {
        "tid address"
    }

    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        thread: &'a FrozenThread,
        script: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError> {
        let address = script.words(&[0]);
        prctl(script, pr::GET_TID_ADDRESS, address, 0);
        Ok(Box::new(move |outcome, core| {
            core.thread_info.get_or_insert_default().clear_tid_addr = outcome.u64(address, 0);
            let (head, len) = thread.robust_list;
            let thread_core = core.thread_core.get_or_insert_default();
            thread_core.futex_rla = head;
            thread_core.futex_rla_len = len as u32;
            Ok(())
        }))
    }

    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        thread: usize,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        if stage != Stage::State {
            return Ok(());
        }
        let core = task.thread(thread);
        if let Some(info) = &core.thread_info {
            script.syscall(libc::SYS_set_tid_address, [info.clear_tid_addr.into()]);
        }
        if let Some(thread_core) = &core.thread_core
            && thread_core.futex_rla != 0
        {
            let args = [thread_core.futex_rla.into(), thread_core.futex_rla_len.into()];
            script.syscall(libc::SYS_set_robust_list, args);
        }
        Ok(())
    }
}

/// The signal that the thread gets when its parent ends (prctl(2), PR_SET_PDEATHSIG). A change of
/// credentials switches it off, so it comes after them.
pub struct ParentDeathSignal;

impl ThreadState for ParentDeathSignal {
    fn name(&self) -> &'static str {
        "parent death signal"
    }

    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        _: &'a FrozenThread,
        script: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError> {
        let signal = script.zeroed(4);
        prctl(script, libc::PR_GET_PDEATHSIG, signal, 0);
        Ok(Box::new(move |outcome, core| {
            let signal = outcome.u32(signal);
            core.thread_core.get_or_insert_default().pdeath_sig = (signal != 0).then_some(signal);
            Ok(())
        }))
    }

    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        thread: usize,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        let signal = task.thread(thread).thread_core.as_ref().and_then(|core| core.pdeath_sig);
        if let (Stage::Last, Some(signal)) = (stage, signal) {
            prctl(script, libc::PR_SET_PDEATHSIG, signal, Arg::Value(0));
        }
        Ok(())
    }
}

/// The execution domain (personality(2)). Images hold that of the main thread, which all threads get; the
/// flags change how memory is mapped, so it comes after that.
pub struct Personality;

impl Personality {
    /// A value that is not set: personality(2) only returns the current one.
    const ASK: u64 = 0xffff_ffff;
}

impl ThreadState for Personality {
    fn name(&self) -> &'static str {
        "personality"
    }

    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        _: &'a FrozenThread,
        script: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError> {
        let asked = script.syscall(libc::SYS_personality, [Self::ASK.into()]).id();
        Ok(Box::new(move |outcome, core| {
            if let Some(tc) = &mut core.tc {
                tc.personality = outcome.ret(asked) as u32;
            }
            Ok(())
        }))
    }

    fn restore(&self, stage: Stage, task: &BuiltTask, _: usize, script: &mut Script) -> Result<(), BoxError> {
        if let (Stage::State, Some(tc)) = (stage, task.tc()) {
            script.syscall(libc::SYS_personality, [tc.personality.into()]);
        }
        Ok(())
    }
}

/// By how much the kernel may delay the thread's timeouts (prctl(2), PR_SET_TIMERSLACK). A real-time thread has
/// none, and gets the default once it is one no more; what its default is cannot be read.
pub struct TimerSlack;

impl ThreadState for TimerSlack {
    fn name(&self) -> &'static str {
        "timer slack"
    }

    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        _: &'a FrozenThread,
        script: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError> {
        let asked = prctl(script, libc::PR_GET_TIMERSLACK, 0, 0).id();
        Ok(Box::new(move |outcome, core| {
            let nanoseconds = outcome.ret(asked) as u64;
            core.thread_core.get_or_insert_default().timer_slack_ns = Some(nanoseconds);
            Ok(())
        }))
    }

    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        thread: usize,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        let entry = task.thread(thread).thread_core.as_ref();
        let slack = entry.and_then(|entry| entry.timer_slack_ns).filter(|&slack| slack != 0);
        if let (Stage::State, Some(slack)) = (stage, slack) {
            prctl(script, libc::PR_SET_TIMERSLACK, slack, 0);
        }
        Ok(())
    }
}

/// Segments of the thread's or process's own (set_thread_area(2), modify_ldt(2)), which 32-bit code uses. They are
/// detected and refused.
pub struct Segments;

impl ThreadState for Segments {
    fn name(&self) -> &'static str {
        "segments"
    }

    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        thread: &'a FrozenThread,
        script: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError> {
        if native::has_tls(Pid::from_raw(thread.tid)) {
            let what = "a thread with segments of its own (set_thread_area)";
            return Err(Error::Unsupported(what.into()).into());
        }
        const READ: i32 = 0;
        let entry = script.zeroed(8);
        let args = [READ.into(), entry.into(), entry.len().into()];
        let read = script.syscall(libc::SYS_modify_ldt, args).check(Check::Any).id(); // not in every kernel
        Ok(Box::new(move |outcome, _| match outcome.result(read) {
            Ok(1..) => Err(Error::Unsupported("segments of its own (modify_ldt)".into()).into()),
            _ => Ok(()),
        }))
    }

    /// An image with one is refused with the registers.
    fn restore(&self, _: Stage, _: &BuiltTask, _: usize, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Shadow stacks (CET), which are detected and refused: the return addresses on them are the kernel's.
pub struct ShadowStack;

/// Note type of the shadow stack's registers (linux/elf.h). Linux 6.6; present only in threads that use one.
const NT_X86_SHSTK: u32 = 0x204;

impl ThreadState for ShadowStack {
    fn name(&self) -> &'static str {
        "shadow stack"
    }

    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        thread: &'a FrozenThread,
        _: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError> {
        if ptrace::regset(Pid::from_raw(thread.tid), NT_X86_SHSTK).is_ok() {
            let what = "a thread with a shadow stack; start it with GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK";
            return Err(Error::Unsupported(what.into()).into());
        }
        Ok(Box::new(|_, _| Ok(())))
    }

    /// An image with one is refused with the registers.
    fn restore(&self, _: Stage, _: &BuiltTask, _: usize, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }
}
