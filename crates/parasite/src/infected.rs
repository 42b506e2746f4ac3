//! A seized process with the script machine mapped into it.

use crate::area::{Area, Layout, ThreadSlot, wait_for_change};
use crate::{Error, Result, Seized, remote};
use criu_kernel::Pid;
use criu_kernel::arch::UserRegs;
use criu_kernel::ptrace::{self, Stop};
use criu_script::{Outcome, Script};
use nix::errno::Errno;
use std::fs::OpenOptions;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// How long scripts may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A script for a thread of the target.
pub(crate) struct Job {
    thread: usize,
    slot: ThreadSlot,
    place: usize,
    script: Script,
}

impl Job {
    pub(crate) fn new(thread: usize, slot: ThreadSlot, layout: &mut Layout, script: Script) -> Job {
        Job { thread, slot, place: layout.script(&script), script }
    }
}

/// A script for a task that does not exist yet.
pub(crate) struct Extra(Job);

impl Extra {
    pub(crate) fn new(slot: ThreadSlot, layout: &mut Layout, script: Script) -> Extra {
        Extra(Job::new(usize::MAX, slot, layout, script))
    }
}

/// What the area will hold. The frames are those of the jobs.
pub(crate) struct Plan {
    pub layout: Layout,
    pub jobs: Vec<Job>,
    pub frames: Vec<usize>,
    pub extras: Vec<Extra>,
}

/// An infected process. Dropped, it is cured and runs on.
pub struct Infected {
    /// `None` only once the cure took it.
    seized: Option<Seized>,
    area: Option<Area>,
    jobs: Vec<Job>,
    extras: Vec<Extra>,
    /// Base and length of the mapping in the target.
    mapping: (u64, u64),
}

impl Infected {
    pub(crate) fn new(seized: Seized, scripts: Vec<Option<Script>>) -> Result<Infected> {
        let sizes: Vec<usize> = seized.threads().iter().map(|thread| thread.xstate.len()).collect();
        Infected::with(seized, |base| {
            let mut layout = Layout::new(base);
            let mut jobs = Vec::new();
            let mut frames = Vec::new();
            for (thread, script) in scripts.iter().enumerate() {
                let Some(script) = script else { continue };
                let slot = layout.thread();
                jobs.push(Job::new(thread, slot, &mut layout, script.clone()));
                frames.push(layout.frame(sizes[thread]));
            }
            Plan { layout, jobs, frames, extras: Vec::new() }
        })
    }

    /// `plan` says what the area holds, for its address in the target; its size is the same for each.
    pub(crate) fn with(seized: Seized, plan: impl Fn(u64) -> Plan) -> Result<Infected> {
        let pid = seized.pid();
        let main = &seized.threads()[0];
        let len = plan(0).layout.len() as u64;
        let syscall = remote::find_syscall(pid, main.regs.rip)?;
        let prot = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
        let flags = (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u64;
        let args = [0, len, prot, flags, u64::MAX, 0];
        let base = remote::syscall(main, syscall, "mmap", libc::SYS_mmap, args)?;
        let mut infected = Infected {
            seized: Some(seized),
            area: None,
            jobs: Vec::new(),
            extras: Vec::new(),
            mapping: (base, len),
        };

        let Plan { layout, jobs, frames, extras } = plan(base);
        let path = format!("/proc/{pid}/map_files/{base:x}-{:x}", base + len);
        let failed = |call| Error::system(Pid::from_raw(pid), call);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
            failed("open /proc/PID/map_files")(Errno::from_raw(error.raw_os_error().unwrap_or(0)))
        })?;
        let mut area = Area::map(&layout, &file, false).map_err(failed("mmap of the control area"))?;
        for (job, frame) in jobs.iter().zip(frames) {
            let thread = &infected.seized().threads()[job.thread];
            area.set_script(job.slot, job.place, &job.script);
            area.set_return(job.slot, frame, &thread.regs, &thread.xstate, thread.sigmask);
        }
        for Extra(job) in &extras {
            area.set_script(job.slot, job.place, &job.script);
        }
        infected.area = Some(area);
        infected.jobs = jobs;
        infected.extras = extras;
        Ok(infected)
    }

    fn seized(&self) -> &Seized {
        self.seized.as_ref().expect("present until the cure")
    }

    fn area(&mut self) -> &mut Area {
        self.area.as_mut().expect("mapped by the constructor")
    }

    /// Runs all scripts, each in its thread, side by side. Afterwards every thread stands where it stood.
    ///
    /// The outcome of a script whose step failed its check says so; that is no error here.
    pub fn run(&mut self) -> Result<Vec<Option<Outcome>>> {
        let mut started = 0;
        let result = self.start(&mut started).and_then(|()| self.await_scripts());
        let back = self.take_back(started);
        result?;
        back?;
        let mut outcomes: Vec<Option<Outcome>> = (0..self.seized().threads().len()).map(|_| None).collect();
        let jobs = std::mem::take(&mut self.jobs);
        for job in &jobs {
            outcomes[job.thread] = Some(self.area().outcome(job.slot, job.place, &job.script));
        }
        Ok(outcomes)
    }

    /// What step number `step` of the script of extra task number `extra` returned.
    pub(crate) fn extra_result(&mut self, extra: usize, step: usize) -> i64 {
        let place = self.extras[extra].0.place;
        self.area().result(place, step)
    }

    /// Starts the scripts and returns at once: for tests of a host that dies in the midst.
    #[doc(hidden)]
    pub fn start_only(&mut self) {
        self.start(&mut 0).expect("scripts start");
    }

    /// From the moment its registers are set, a thread finds its way back alone.
    fn start(&mut self, started: &mut usize) -> Result<()> {
        let entry = self.area().entry();
        for n in 0..self.jobs.len() {
            let tcb = {
                let slot = self.jobs[n].slot;
                self.area().tcb(slot)
            };
            let thread = &self.seized().threads()[self.jobs[n].thread];
            let regs = UserRegs { rip: entry, rdi: tcb, orig_rax: u64::MAX, ..thread.regs };
            *started += 1;
            ptrace::set_registers(thread.tid, &regs)
                .and_then(|()| ptrace::set_sigmask(thread.tid, u64::MAX))
                .and_then(|()| ptrace::cont(thread.tid, 0))
                .map_err(Error::system(thread.tid, "PTRACE_CONT"))?;
        }
        Ok(())
    }

    /// Waits until all scripts ended; looks now and then whether a thread died or took a signal.
    fn await_scripts(&mut self) -> Result<()> {
        let pid = self.seized().pid();
        let count = self.jobs.len() as u32;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let finished = &self.area().shared().finished;
            let seen = finished.load(SeqCst);
            if seen >= count {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::Timeout { pid, what: "answer", seconds: PATIENCE.as_secs() });
            }
            if wait_for_change(finished, seen) == Err(Errno::ETIMEDOUT) {
                self.look_for_stops()?;
            }
        }
    }

    /// SIGSTOP cannot be blocked: a thread may stop in the midst of its script.
    fn look_for_stops(&self) -> Result<()> {
        for job in &self.jobs {
            let tid = self.seized().threads()[job.thread].tid;
            match ptrace::wait_no_hang(tid).map_err(Error::system(tid, "wait4"))? {
                Some(stop) if stop.is_end() => return Err(Error::Died { pid: tid.as_raw() }),
                Some(_) => ptrace::cont(tid, 0).map_err(Error::system(tid, "PTRACE_CONT"))?,
                None => {}
            }
        }
        Ok(())
    }

    /// Stops the threads in the machine's last wait and puts their registers back. The mask comes first:
    /// whatever moment the host dies, the thread is either in the machine or wholly itself.
    fn take_back(&mut self, started: usize) -> Result<()> {
        let threads = || self.jobs[..started].iter().map(|job| &self.seized().threads()[job.thread]);
        for thread in threads() {
            ptrace::interrupt(thread.tid).map_err(Error::system(thread.tid, "PTRACE_INTERRUPT"))?;
        }
        for thread in threads() {
            let failed = |call| Error::system(thread.tid, call);
            loop {
                match ptrace::wait(thread.tid).map_err(failed("wait4"))? {
                    Stop::EventStop | Stop::GroupStop(_) => break,
                    stop if stop.is_end() => return Err(Error::Died { pid: thread.tid.as_raw() }),
                    _ => ptrace::cont(thread.tid, 0).map_err(failed("PTRACE_CONT"))?,
                }
            }
            ptrace::set_sigmask(thread.tid, thread.sigmask)
                .and_then(|()| ptrace::set_registers(thread.tid, &thread.regs))
                .map_err(failed("PTRACE_SETREGSET"))?;
        }
        Ok(())
    }

    /// Unmaps the script machine.
    pub fn cure(mut self) -> Result<Seized> {
        self.unmap()?;
        Ok(self.seized.take().expect("present until the cure"))
    }

    /// As [`cure`](Self::cure); tasks that the scripts made still use the area.
    pub(crate) fn cure_keeping_area(mut self) -> Result<(Seized, Area)> {
        self.unmap()?;
        let area = self.area.take().expect("mapped by the constructor");
        Ok((self.seized.take().expect("present until the cure"), area))
    }

    fn unmap(&mut self) -> Result<()> {
        let (base, len) = std::mem::take(&mut self.mapping);
        if len == 0 {
            return Ok(());
        }
        self.seized().unmap(base, len)
    }
}

impl Drop for Infected {
    fn drop(&mut self) {
        if self.seized.is_some() {
            let _ = self.unmap();
        }
    }
}
