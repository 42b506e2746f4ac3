//! A fixture as the harness sees it, and the binary under test.

use crate::{Outcome, Sandbox, paths, sandbox::publish};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a fixture may take to come up or to compare.
const LIMIT: Duration = Duration::from_secs(20);

/// A fixture that runs in a sandbox.
pub struct Target<'a> {
    sandbox: &'a Sandbox,
    folder: PathBuf,
    round: u32,
    /// Its pid inside.
    pub pid: i32,
}

impl<'a> Target<'a> {
    /// Starts a fixture, with its arguments, as the leader of a session and a child of init.
    pub fn start(sandbox: &'a Sandbox, fixture: &[&str]) -> Result<Target<'a>> {
        Target::prepare(sandbox, fixture, |command| sandbox.start(fixture[0], command))
    }

    /// Starts a fixture as the foreground job of a shell on a terminal.
    pub fn on_terminal(sandbox: &'a Sandbox, fixture: &[&str]) -> Result<Target<'a>> {
        Target::prepare(sandbox, fixture, |command| {
            sandbox.start("terminal", terminal(sandbox, "job", command))
        })
    }

    fn prepare(
        sandbox: &'a Sandbox,
        fixture: &[&str],
        start: impl FnOnce(Vec<OsString>) -> Result<()>,
    ) -> Result<Target<'a>> {
        let folder = sandbox.folder(fixture[0])?;
        let mut command: Vec<OsString> = vec![paths::fixture().into(), "run".into(), fixture[0].into()];
        command.push(folder.clone().into());
        command.extend(fixture[1..].iter().map(Into::into));
        start(command)?;
        let mut target = Target { sandbox, folder, round: 1, pid: 0 };
        target.ready()?;
        Ok(target)
    }

    /// Waits until its state is set up for this round.
    pub fn ready(&mut self) -> Result<()> {
        self.pid = self.said("ready")?.parse().context("pid of the fixture")?;
        Ok(())
    }

    /// The fixture's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lets the fixture compare, and gives its verdict.
    pub fn check(&mut self) -> Result<()> {
        publish(&self.numbered("go"), "")?;
        let verdict = self.said("verdict")?;
        self.round += 1;
        ensure!(verdict == "ok", "{}:\n{verdict}", self.name());
        Ok(())
    }

    fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into()
    }

    fn numbered(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{what}.{}", self.round))
    }

    fn said(&self, what: &str) -> Result<String> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Ok(text) = fs::read_to_string(self.numbered(what)) {
                return Ok(text.trim().into());
            }
            if what == "ready" && self.numbered("verdict").exists() {
                bail!(
                    "{} cannot set up its state: {}",
                    self.name(),
                    fs::read_to_string(self.numbered("verdict"))?
                );
            }
            if Instant::now() > end {
                let output = fs::read_to_string(self.sandbox.path(&format!("{}.output", self.name())));
                let differences = fs::read_to_string(self.folder.join("differences")).unwrap_or_default();
                let traces = self.sandbox.traces()?.into_iter().filter(|line| line.starts_with("process"));
                bail!(
                    "{} says nothing of {what} after {LIMIT:?}\n{}{differences}{}",
                    self.name(),
                    output.unwrap_or_default(),
                    traces.collect::<Vec<_>>().join("\n")
                );
            }
            sleep(Duration::from_millis(1));
        }
    }

    /// Whether its process exists and is no zombie.
    pub fn alive(&self) -> Result<bool> {
        let pid = self.pid.to_string();
        Ok(self.sandbox.run(["grep", "-q", "^State:.[^Z]", &format!("/proc/{pid}/status")])?.status.success())
    }
}

/// The binary under test, in a sandbox.
pub struct Criu<'a> {
    /// Where it runs.
    pub sandbox: &'a Sandbox,
    /// The binary.
    pub binary: PathBuf,
}

impl<'a> Criu<'a> {
    /// The binary that [`paths::criu`] tells.
    pub fn new(sandbox: &'a Sandbox) -> Criu<'a> {
        Criu { sandbox, binary: paths::criu() }
    }

    /// `dump -t PID -D IMAGES -v4 -o dump.log …`
    pub fn dump(&self, pid: i32, images: &str, options: &[&str]) -> Result<Outcome> {
        self.sandbox.run(self.dump_command(pid, images, options)?)
    }

    /// Its words.
    pub fn dump_command(&self, pid: i32, images: &str, options: &[&str]) -> Result<Vec<OsString>> {
        let images = self.sandbox.folder(images)?;
        let mut command: Vec<OsString> = vec![self.binary.clone().into(), "dump".into()];
        command.extend(["-t".into(), pid.to_string().into(), "-D".into(), images.into()]);
        command.extend(["-v4", "-o", "dump.log"].map(Into::into));
        command.extend(options.iter().map(Into::into));
        Ok(command)
    }

    /// `restore -d -D IMAGES -v4 -o restore.log --pidfile pid …`
    pub fn restore(&self, images: &str, options: &[&str]) -> Result<Outcome> {
        self.sandbox.run(self.restore_command(images, options))
    }

    /// The same on a new terminal, whose shell stays alive.
    pub fn restore_on_terminal(&self, images: &str, options: &[&str]) -> Result<i32> {
        self.on_terminal("restore", self.restore_command(images, options))
    }

    /// Any command on a terminal: its exit code. The file `NAME.screen` has what it showed.
    pub fn on_terminal(&self, name: &str, command: Vec<OsString>) -> Result<i32> {
        self.sandbox.start("terminal", terminal(self.sandbox, name, command))?;
        let end = Instant::now() + LIMIT;
        loop {
            if let Ok(status) = fs::read_to_string(self.sandbox.path(&format!("{name}.status"))) {
                return Ok(status.trim().parse()?);
            }
            ensure!(Instant::now() < end, "{name} on a terminal: not done after {LIMIT:?}");
            sleep(Duration::from_millis(1));
        }
    }

    /// Its words.
    pub fn restore_command(&self, images: &str, options: &[&str]) -> Vec<OsString> {
        let images = self.sandbox.path(images);
        let pidfile = images.join("pid");
        let _ = fs::remove_file(&pidfile); // of an earlier restore from the same images
        let mut command: Vec<OsString> = vec![self.binary.clone().into(), "restore".into(), "-d".into()];
        command.extend(["-D".into(), images.into(), "--pidfile".into(), pidfile.into()]);
        command.extend(["-v4", "-o", "restore.log"].map(Into::into));
        command.extend(options.iter().map(Into::into));
        command
    }

    /// The log of an action, or why there is none.
    pub fn log(&self, images: &str, name: &str) -> String {
        let path = self.sandbox.path(images).join(name);
        match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into(),
            Err(error) => format!("{}: {error}", path.display()),
        }
    }
}

fn terminal(sandbox: &Sandbox, name: &str, command: Vec<OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![paths::fixture().into(), "terminal".into()];
    words.push(sandbox.path(&format!("{name}.status")).into());
    words.push(sandbox.path(&format!("{name}.screen")).into());
    words.extend(command);
    words
}
