//! Namespaces of one test's own.

use crate::paths;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// No command of a test takes as long as this.
const LIMIT: Duration = Duration::from_secs(60);

/// Process, mount, network and IPC namespaces with an own init, which end with this value.
///
/// Inside: a fresh /proc, a tmpfs on /run, an own devpts, a loopback device that is up.
pub struct Sandbox {
    init: Child,
    /// As seen from outside.
    init_pid: String,
    folder: tempfile::TempDir,
    commands: AtomicU32,
}

/// What a command came to.
#[derive(Debug)]
pub struct Outcome {
    /// Its arguments, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// A command that runs inside of a sandbox.
pub struct Running {
    child: Child,
    command: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Sandbox {
    /// Makes the namespaces; needs root.
    pub fn new() -> Result<Sandbox> {
        let folder = tempfile::Builder::new().prefix("criu-live-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
        let mut init = Command::new(paths::fixture())
            .arg("init")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start criu-fixture init")?;
        let mut line = String::new();
        BufReader::new(init.stdout.take().expect("piped")).read_line(&mut line)?;
        if line.is_empty() {
            let status = init.wait()?;
            bail!("no namespaces for this test: criu-fixture init ended with {status} (are you root?)");
        }
        Ok(Sandbox { init, init_pid: line.trim().into(), folder, commands: AtomicU32::new(0) })
    }

    /// A folder for this test, the same path inside and outside, writable for every uid.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes such a folder.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        Ok(path)
    }

    /// Runs a command inside to its end.
    pub fn run<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Result<Outcome> {
        self.spawn(command)?.wait()
    }

    /// Starts a command inside.
    pub fn spawn<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Result<Running> {
        let command: Vec<OsString> = command.into_iter().map(|word| word.as_ref().into()).collect();
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let (stdout, stderr) =
            (self.path(&format!("{number}.stdout")), self.path(&format!("{number}.stderr")));
        let child = self
            .enter("enter")
            .args(&command)
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            .spawn()?;
        let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
        Ok(Running { child, command: words.join(" "), stdout, stderr })
    }

    /// Starts a process inside as a child of the sandbox's init, with its output in the file `NAME.output`.
    pub fn start<S: AsRef<OsStr>>(&self, name: &str, command: impl IntoIterator<Item = S>) -> Result<()> {
        let output = self.path(&format!("{name}.output"));
        let status = self.enter("start").arg(output).args(command).status()?;
        ensure!(status.success(), "cannot start {name} in the sandbox");
        Ok(())
    }

    /// Waits, a few seconds at most, until the traces are these again: what was killed needs an instant to go.
    pub fn settles_to(&self, before: &BTreeSet<String>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let after = self.traces()?;
            if after == *before {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("new or gone: {:#?}", after.symmetric_difference(before).collect::<Vec<_>>());
            }
            sleep(Duration::from_millis(5));
        }
    }

    fn enter(&self, how: &str) -> Command {
        let mut command = Command::new(paths::fixture());
        command.arg(how).arg(&self.init_pid).stdin(Stdio::null()).current_dir(self.folder.path());
        // One test's options must not hang on the caller's configuration.
        command.env("HOME", self.folder.path()).env_remove("CRIU_CONFIG_FILE");
        command
    }

    /// What a test may have left behind: processes, mounts and firewall rules, one a line.
    pub fn traces(&self) -> Result<BTreeSet<String>> {
        let outcome = self.run([paths::fixture(), Path::new("traces")])?;
        ensure!(outcome.status.success(), "{outcome}");
        Ok(outcome.stdout.lines().map(str::to_owned).collect())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.init.stdin.take()); // the init ends on it, and all in its namespace with it
        let _ = self.init.wait();
    }
}

impl Running {
    /// Waits for its end, a minute at most.
    pub fn wait(mut self) -> Result<Outcome> {
        let end = Instant::now() + LIMIT;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() < end => sleep(Duration::from_micros(500)),
                None => {
                    self.kill()?;
                    bail!(
                        "{}: not done after {LIMIT:?}\n{}",
                        self.command,
                        fs::read_to_string(&self.stderr)?
                    );
                }
            }
        };
        Ok(Outcome {
            status,
            stdout: String::from_utf8_lossy(&fs::read(&self.stdout)?).into(),
            stderr: String::from_utf8_lossy(&fs::read(&self.stderr)?).into(),
            command: self.command,
        })
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?; // the command itself is bound to it by PR_SET_PDEATHSIG
        self.child.wait()?;
        Ok(())
    }
}

impl Outcome {
    /// Its lines of error, in the form of the log or plain.
    pub fn errors(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.contains("Error (") || line.starts_with("Error:")).collect()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}: {}", self.command, self.status)?;
        write!(f, "{}{}", self.stdout, self.stderr)
    }
}

/// Writes a file so that a reader sees all of it or nothing.
pub(crate) fn publish(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    File::create(&new)?.write_all(text.as_bytes())?;
    fs::rename(&new, path).with_context(|| path.display().to_string())
}
