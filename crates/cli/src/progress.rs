//! A line on the terminal about a dump or restore that takes its time.

use crate::log;
use criu_engine::{Action, Hooks};
use criu_resource::BoxError;
use nix::sys::signal::{SigSet, SigmaskHow};
use std::fmt::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is done by then shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// From one look to the next.
const BEAT: Duration = Duration::from_millis(250);

/// Shows what a dump or restore is at, from its first second until the tasks run again or this is dropped. On a
/// terminal only, and not where the log goes to it line by line.
pub struct Progress {
    stages: Option<Sender<&'static str>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Of the action of this name, which begins now with this stage.
    pub fn of(action: &'static str, stage: &'static str) -> Progress {
        let mut progress = Progress { stages: None, thread: None };
        if log::takes_status() {
            let (stages, told) = channel();
            progress.thread = spawn(move || show(action, stage, &told));
            progress.stages = Some(stages);
        }
        progress
    }

    /// Clears the line for good.
    fn end(&mut self) {
        drop(self.stages.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a line that is not shown is no reason to fail
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

impl Hooks for Progress {
    fn notify(&mut self, action: Action, _: Option<i32>) -> Result<(), BoxError> {
        let stage = match action {
            Action::NetworkLock => "storing",
            Action::PreRestore => "building",
            Action::PostDump | Action::PostRestore => "finishing",
            // From here on the terminal may be the tasks'.
            Action::PreResume => {
                self.end();
                return Ok(());
            }
            _ => return Ok(()),
        };
        if let Some(stages) = &self.stages {
            let _ = stages.send(stage); // as above
        }
        Ok(())
    }

    fn cancelled(&self) -> bool {
        false
    }
}

/// A thread that takes no signals: those are for the one that works. SIGTTOU among them, which a background group
/// gets for writing to a terminal set up so (stty tostop).
fn spawn(work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).ok()?;
    let thread = std::thread::Builder::new().name("progress".into()).spawn(work).ok();
    let _ = before.thread_set_mask(); // a set that was in force a moment ago
    thread
}

fn show(action: &str, mut stage: &'static str, told: &Receiver<&'static str>) {
    let start = Instant::now();
    let mut wait = PATIENCE;
    loop {
        match told.recv_timeout(wait) {
            Ok(next) => {
                stage = next;
                wait = PATIENCE.saturating_sub(start.elapsed());
            }
            Err(RecvTimeoutError::Timeout) => {
                log::status(&line(action, stage, start.elapsed(), written()));
                wait = BEAT;
            }
            Err(RecvTimeoutError::Disconnected) => return log::status(""),
        }
    }
}

fn line(action: &str, stage: &str, time: Duration, written: u64) -> String {
    let mut line = format!("{action}: {stage}, {} s", time.as_secs());
    if written >= 1 << 20 {
        let _ = write!(line, ", {} MiB written", written >> 20);
    }
    line
}

/// Bytes that this process has written to anything: images above all.
fn written() -> u64 {
    let counts = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let count = counts.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok());
    count.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(line("dump", "storing", Duration::from_millis(1999), 1000), "dump: storing, 1 s");
        let long = line("dump", "storing", Duration::from_secs(75), 3 << 30);
        assert_eq!(long, "dump: storing, 75 s, 3072 MiB written");
        assert!(written() > 0 || !std::path::Path::new("/proc/self/io").exists());
    }
}
