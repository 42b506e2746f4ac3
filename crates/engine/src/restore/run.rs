//! Runs the compiled scripts and takes the finished tasks over.

use super::compile::{Kind, Program, Restraint};
use super::pids;
use super::space::Space;
use crate::{Error, Result, regs, steps};
use criu_kernel::ptrace::{self, Stop};
use criu_parasite::{Area, Seized, Verdict, area::Layout, launch};
use criu_resource::{BuiltTree, Life, Registers};
use criu_script::wire;
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How long to wait for tasks that do not get further.
pub(crate) struct Patience<'a> {
    timeout: Duration,
    cancelled: &'a dyn Fn() -> bool,
    until: Instant,
    /// What was done when last looked at.
    done: u64,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(timeout: Duration, cancelled: &'a dyn Fn() -> bool) -> Patience<'a> {
        Patience { timeout, cancelled, until: Instant::now() + timeout, done: 0 }
    }
}

/// The tasks under construction. Dropped, it kills them all.
pub(crate) struct Run<'a> {
    tree: &'a BuiltTree,
    program: &'a Program,
    area: Area,
    places: Vec<usize>,
    /// Tasks that already run under ptrace.
    traced: Vec<Seized>,
    armed: bool,
}

impl<'a> Run<'a> {
    /// Maps the control area and encodes the scripts.
    pub(crate) fn load(tree: &'a BuiltTree, program: &'a Program) -> Result<Run<'a>> {
        let mut layout: Layout = program.layout.clone();
        let places: Vec<usize> = program.jobs.iter().map(|job| layout.script(&job.script)).collect();
        let file = memfd_create(c"criu-rs", MFdFlags::MFD_CLOEXEC).map_err(Error::system("memfd_create"))?;
        nix::unistd::ftruncate(&file, layout.len() as i64)
            .map_err(Error::system("ftruncate of the control area"))?;
        let mut area = Area::map(&layout, &file, true).map_err(Error::system("mmap of the control area"))?;
        for (job, &place) in program.jobs.iter().zip(&places) {
            area.set_script(job.slot, place, &job.script);
        }
        Ok(Run { tree, program, area, places, traced: Vec::new(), armed: false })
    }

    /// Clones the root, which does the rest, and waits until every thread is complete.
    pub(crate) fn go(&mut self, sibling: bool, patience: &mut Patience<'_>) -> Result<()> {
        pids::check(self.tree)?;
        let root = self.tree.tasks[0].pid() as i32;
        let flags = if sibling { libc::CLONE_PARENT as u64 } else { 0 };
        let mut old = SigSet::empty();
        let blocked = SigSet::all();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&blocked), Some(&mut old))
            .map_err(Error::system("sigprocmask"))?;
        self.armed = true;
        // A child would inherit the rseq registration, whose memory it is about to drop.
        let rseq = criu_kernel::rseq::area().and_then(|area| area.unregister().ok());
        let cloned = launch::launch(&self.area, self.program.jobs[0].slot, flags, &[root]);
        if let Some(rseq) = rseq {
            rseq.register().map_err(Error::system("rseq"))?;
        }
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&old), None).map_err(Error::system("sigprocmask"))?;
        match cloned {
            Ok(_) => {
                if let Some(restraint) = self.program.restraint.clone() {
                    self.trace(&restraint, patience)?;
                }
                let total = self.total();
                self.wait_for(&self.area.shared().finished, total, patience)
            }
            Err(Errno::EEXIST) => Err(pids::explain(root)),
            Err(errno) => Err(Error::system("clone3")(errno)),
        }
    }

    /// Threads that come to their end and wait there.
    fn total(&self) -> u32 {
        self.program.jobs.iter().filter(|job| job.kind != Kind::Brief).count() as u32
    }

    /// Waits until a word has reached `count`; fails with the first step that does.
    fn wait_for(&self, word: &AtomicU32, count: u32, patience: &mut Patience<'_>) -> Result<()> {
        let shared = self.area.shared();
        loop {
            if shared.abort.load(SeqCst) != 0 {
                return Err(self.failure());
            }
            let seen = word.load(SeqCst);
            if seen >= count {
                return Ok(());
            }
            if criu_parasite::area::wait_for_change(word, seen) == Err(Errno::ETIMEDOUT) {
                self.look_up(patience)?;
            }
        }
    }

    /// Whether there is something to wait for.
    fn look_up(&self, patience: &mut Patience<'_>) -> Result<()> {
        self.look_for_deaths()?;
        if (patience.cancelled)() {
            return Err(Error::Cancelled);
        }
        if Instant::now() > patience.until {
            let done = self.done();
            if done == patience.done {
                let total = self.total();
                let missing = total.saturating_sub(self.area.shared().finished.load(SeqCst));
                return Err(Error::Timeout { seconds: patience.timeout.as_secs(), missing, total });
            }
            (patience.done, patience.until) = (done, Instant::now() + patience.timeout);
        }
        Ok(())
    }

    /// A number that grows as long as any task gets further: steps, and bytes from disk within a step.
    fn done(&self) -> u64 {
        let step = |slot| u64::from(self.area.thread(slot).step.load(SeqCst));
        let read = |pid: i32| -> Option<u64> {
            let counts = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
            counts.lines().find_map(|line| line.strip_prefix("read_bytes: ")?.parse().ok())
        };
        let steps: u64 = self.program.jobs.iter().map(|job| step(job.slot)).sum();
        let pids = self.tree.tasks.iter().map(|task| task.pid() as i32);
        steps + pids.filter_map(read).sum::<u64>()
    }

    /// Traces the tasks that will take system calls from themselves, and lets them go on: as long as they are
    /// traced, that has no effect (PTRACE_O_SUSPEND_SECCOMP), and they can finish.
    fn trace(&mut self, restraint: &Restraint, patience: &mut Patience<'_>) -> Result<()> {
        self.wait_for(self.area.word(restraint.ready), restraint.threads, patience)?;
        for &task in &restraint.tasks {
            let seized = Seized::adopt(self.tree.tasks[task].pid() as i32)?;
            let going = seized.threads().iter().try_for_each(|thread| ptrace::cont(thread.tid, 0));
            self.traced.push(seized);
            going.map_err(Error::system("PTRACE_CONT"))?;
        }
        // The threads look again before long; there is no need to wake them.
        self.area.word(restraint.traced).store(1, SeqCst);
        Ok(())
    }

    /// Stops a task.
    fn stop(&mut self, pid: i32) -> Result<Seized> {
        let Some(known) = self.traced.iter().position(|seized| seized.pid() == pid) else {
            return Ok(Seized::adopt(pid)?);
        };
        let seized = self.traced.swap_remove(known);
        for thread in seized.threads() {
            ptrace::interrupt(thread.tid).map_err(Error::system("PTRACE_INTERRUPT"))?;
            loop {
                match ptrace::wait(thread.tid).map_err(Error::system("wait4"))? {
                    Stop::EventStop | Stop::GroupStop(_) => break,
                    stop if stop.is_end() => {
                        return Err(Error::Died {
                            pid: thread.tid.as_raw(),
                            how: "when it was complete".into(),
                        });
                    }
                    _ => ptrace::cont(thread.tid, 0).map_err(Error::system("PTRACE_CONT"))?,
                }
            }
        }
        Ok(seized)
    }

    /// The first step that failed.
    fn failure(&self) -> Error {
        let failed = self.area.shared().failed.load(SeqCst);
        let Some(n) = self.program.jobs.iter().position(|job| self.area.tcb(job.slot) == failed) else {
            return Error::Died { pid: self.tree.tasks[0].pid() as i32, how: "no step failed".into() };
        };
        let job = &self.program.jobs[n];
        let index = self.area.thread(job.slot).step.load(SeqCst) as usize;
        let ret = self.area.result(self.places[n], index);
        let step = &job.script.steps()[index];
        if step.op == wire::OP_CLONE
            && ret == -i64::from(libc::EEXIST)
            && let criu_script::Check::Eq(pid) = step.check
        {
            return pids::explain(pid as i32);
        }
        steps::failure(job.tid, &job.script, index, ret)
    }

    fn look_for_deaths(&self) -> Result<()> {
        for job in &self.program.jobs {
            let tcb = self.area.thread(job.slot);
            let state = tcb.state.load(SeqCst);
            if state != wire::STATE_RUNNING || job.kind == Kind::Brief {
                continue;
            }
            let stat =
                criu_kernel::proc::ProcDir::open(criu_kernel::Pid::from_raw(job.tid)).and_then(|p| p.stat());
            if stat.map_or(true, |stat| stat.is_zombie()) {
                let index = tcb.step.load(SeqCst) as usize;
                let step = job.script.steps().get(index);
                let at = step.map_or("at its end".into(), |step| {
                    format!("{}: in {}", step.what, steps::describe(step))
                });
                return Err(Error::Died { pid: job.tid, how: at });
            }
        }
        Ok(())
    }

    /// Gives every thread its registers and unmaps the script machine. The tasks then stand still,
    /// complete; they die if the result is dropped.
    pub(crate) fn take_over(&mut self, registers: &dyn Registers, space: &Space) -> Result<Complete> {
        let mut complete = Complete { tasks: Vec::new() };
        for task in self.tree.tasks.iter().filter(|task| !matches!(task.life, Life::Zombie(_))) {
            let pid = task.pid() as i32;
            let mut seized = self.stop(pid)?;
            for thread in 0..seized.threads().len() {
                let tid = seized.threads()[thread].tid.as_raw() as u32;
                let index = task.pstree.threads.iter().position(|&known| known == tid);
                let core =
                    task.thread(index.ok_or_else(|| {
                        Error::Inconsistent(format!("pid {pid} has a foreign thread {tid}"))
                    })?);
                let state = registers.restore(core).map_err(Error::of_task("registers", pid))?;
                let general = regs::from_words(&state.regs);
                let general = general
                    .ok_or_else(|| Error::Inconsistent(format!("core-{tid}.img: registers incomplete")))?;
                let mask = core.thread_core.as_ref().and_then(|thread| thread.blk_sigset);
                let mask = mask.or(task.tc().filter(|_| index == Some(0)).map(|tc| tc.blk_sigset));
                seized.set_state(thread, general, state.xstate, mask.unwrap_or(0))?;
            }
            seized.unmap(space.area, space.end() - space.area)?;
            complete.tasks.push((seized, task.life));
        }
        self.armed = false;
        Ok(complete)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        for job in self.program.jobs.iter().filter(|job| job.kind != Kind::Thread) {
            let tcb = self.area.thread(job.slot);
            // One that ends by itself may have done so, and its pid may be another's.
            let over =
                job.kind == Kind::Brief && tcb.step.load(SeqCst) as usize + 1 >= job.script.steps().len();
            if tcb.state.load(SeqCst) != wire::STATE_IDLE && !over {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(job.tid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        for seized in self.traced.drain(..) {
            let _ = seized.release(Verdict::Kill);
        }
        let root = nix::unistd::Pid::from_raw(self.tree.tasks[0].pid() as i32);
        let _ = nix::sys::wait::waitpid(root, None);
    }
}

/// The complete tree, all threads stopped. Dropped, it is killed.
pub(crate) struct Complete {
    tasks: Vec<(Seized, Life)>,
}

impl Complete {
    /// Lets all tasks run, or leaves them stopped.
    pub(crate) fn resume(mut self, stop: bool) -> Result<()> {
        for (seized, life) in std::mem::take(&mut self.tasks) {
            let verdict = match (stop, life) {
                (true, _) => Verdict::Stop,
                (_, Life::Stopped(signal)) => Verdict::StopBy(signal),
                _ => Verdict::Run,
            };
            seized.release(verdict)?;
        }
        Ok(())
    }
}

impl Drop for Complete {
    fn drop(&mut self) {
        for (seized, _) in std::mem::take(&mut self.tasks) {
            let _ = seized.release(Verdict::Kill);
        }
    }
}
