//! Action scripts: programs of the user that run at every stage.

use criu_engine::{Action, Hooks, guard};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of a script's output that go to the log.
const MAX_OUTPUT: u64 = 64 << 10;

/// Runs action scripts. Each gets in its environment
/// - CRTOOLS_SCRIPT_ACTION: the stage, as [`Action::name`] has it,
/// - CRTOOLS_IMAGE_DIR: the images directory, as /proc/PID/fd/N of this process,
/// - CRTOOLS_INIT_PID: the root task's pid, once there is one.
///
/// What it prints goes to the log. A script that cannot run, ends with another code than 0 or is killed fails
/// the stage; the others still run.
#[derive(Debug)]
pub struct ScriptHooks {
    scripts: Vec<String>,
    images: OwnedFd,
    work: PathBuf,
}

impl ScriptHooks {
    /// `scripts` as in `--action-script`, run in the directory `work`, told of the directory `images`.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated.
    pub fn new(scripts: Vec<String>, images: BorrowedFd<'_>, work: PathBuf) -> io::Result<Self> {
        Ok(ScriptHooks { scripts, images: images.try_clone_to_owned()?, work })
    }

    fn run(&self, stage: &str, root: Option<i32>) -> Result<(), Error> {
        let results: Vec<_> = self.scripts.iter().map(|script| self.run_one(script, stage, root)).collect();
        results.into_iter().collect()
    }

    fn run_one(&self, script: &str, stage: &str, root: Option<i32>) -> Result<(), Error> {
        let failed = |how: String| Error { script: script.into(), how };
        let images = format!("/proc/{}/fd/{}", std::process::id(), self.images.as_raw_fd());
        // A file, not a pipe: what a script leaves running may keep it open.
        let output = memfd_create("action-script", MFdFlags::MFD_CLOEXEC)
            .map_err(|errno| failed(format!("memfd_create: {errno}")))?;
        let mut output = File::from(output);
        let copy = || output.try_clone().map(Stdio::from).map_err(|error| failed(error.to_string()));
        let mut command = Command::new(script);
        command.env("CRTOOLS_SCRIPT_ACTION", stage).env("CRTOOLS_IMAGE_DIR", images);
        if let Some(root) = root {
            command.env("CRTOOLS_INIT_PID", root.to_string());
        }
        command.current_dir(&self.work).stdin(Stdio::null()).stdout(copy()?).stderr(copy()?);
        tracing::debug!("action script {script}, stage {stage}");
        let child = command.spawn().map_err(|error| failed(format!("cannot be run: {error}")))?;
        let end = await_end(Pid::from_raw(child.id() as i32));
        report(script, &mut output);
        match end {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            Ok(WaitStatus::Exited(_, code)) => Err(failed(format!("exited with {code}"))),
            Ok(WaitStatus::Signaled(_, signal, _)) => Err(failed(format!("was killed by {signal}"))),
            Ok(other) => Err(failed(format!("{other:?}"))),
            Err(errno) => Err(failed(format!("waitpid: {errno}"))),
        }
    }
}

/// An action script that failed. Whoever has called it names the stage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("action script {script} {how}")]
pub struct Error {
    /// The script.
    pub script: String,
    /// How it failed.
    pub how: String,
}

/// Waits for a script, and kills it when a signal asks us to stop.
fn await_end(pid: Pid) -> Result<WaitStatus, Errno> {
    loop {
        match waitpid(pid, None) {
            Err(Errno::EINTR) if guard::cancelled() => {
                let _ = kill(pid, Signal::SIGKILL); // it may have ended just now
            }
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

fn report(script: &str, output: &mut File) {
    let mut bytes = Vec::new();
    let read = output.rewind().and_then(|()| output.take(MAX_OUTPUT).read_to_end(&mut bytes));
    if let Err(error) = read {
        tracing::warn!("action script {script}: its output is lost: {error}");
    }
    for line in String::from_utf8_lossy(&bytes).lines() {
        tracing::info!("action script {script}: {line}");
    }
}

impl Hooks for ScriptHooks {
    fn notify(&mut self, action: Action, root: Option<i32>) -> Result<(), BoxError> {
        Ok(self.run(action.name(), root)?)
    }

    fn cancelled(&self) -> bool {
        guard::cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use tempfile::TempDir;

    /// One test at a time: a process that another test starts just now would hold a script open for writing.
    fn alone() -> MutexGuard<'static, ()> {
        static LOCK: Mutex<()> = Mutex::new(());
        LOCK.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hooks(dir: &TempDir, bodies: &[&str]) -> ScriptHooks {
        let scripts = bodies.iter().enumerate().map(|(number, body)| {
            let path = dir.path().join(format!("{number}.sh"));
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path.to_str().unwrap().to_owned()
        });
        let images = File::open(dir.path()).unwrap();
        ScriptHooks::new(scripts.collect(), images.as_fd(), dir.path().into()).unwrap()
    }

    #[test]
    fn the_environment_is_that_of_the_reference() {
        let (_alone, dir) = (alone(), TempDir::new().unwrap());
        let body = "echo $CRTOOLS_SCRIPT_ACTION $CRTOOLS_INIT_PID >> $CRTOOLS_IMAGE_DIR/out; pwd >> out";
        let mut hooks = hooks(&dir, &[body]);
        hooks.notify(Action::PreRestore, None).unwrap();
        hooks.notify(Action::PostRestore, Some(42)).unwrap();
        let here = dir.path().canonicalize().unwrap();
        let lines = format!("pre-restore\n{0}\npost-restore 42\n{0}\n", here.display());
        assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), lines);
    }

    #[test]
    fn a_failing_script_fails_the_stage_and_the_next_still_runs() {
        let (_alone, dir) = (alone(), TempDir::new().unwrap());
        let hooks = hooks(&dir, &["exit 3", "touch second"]);
        let error = hooks.run("post-dump", None).unwrap_err();
        assert_eq!(error.how, "exited with 3");
        assert!(dir.path().join("second").exists());
    }

    #[test]
    fn what_a_script_leaves_running_is_not_waited_for() {
        let (_alone, dir) = (alone(), TempDir::new().unwrap());
        let hooks = hooks(&dir, &["sleep 5 & exit 0"]);
        let start = std::time::Instant::now();
        hooks.run("pre-dump", None).unwrap();
        assert!(start.elapsed().as_secs() < 4);
    }

    #[test]
    fn a_missing_or_killed_script_is_named() {
        let (_alone, dir) = (alone(), TempDir::new().unwrap());
        let images = File::open(dir.path()).unwrap();
        let missing = ScriptHooks::new(vec!["/no/such".into()], images.as_fd(), "/".into()).unwrap();
        assert!(missing.run("pre-dump", None).unwrap_err().to_string().contains("/no/such"));
        let error = hooks(&dir, &["kill -9 $$"]).run("pre-dump", None).unwrap_err();
        assert!(error.how.contains("SIGKILL"), "{error}");
    }
}
