//! What a fixture uses to talk with the harness, and to compare what it has with what it had.
//!
//! All by small files, so that a fixture owns no descriptor but those it is about. In its folder:
//! `ready.N` with the pid: the state is set up for the Nth time; `go.N`: compare now; `verdict.N`: the result.

use crate::sandbox::publish;
use anyhow::{Context, Result, ensure};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread::sleep;
use std::time::Duration;

/// A fixture's stage: before the curtain it builds, after it compares.
#[derive(Debug)]
pub struct Stage {
    folder: PathBuf,
    rooted: AtomicBool,
    round: AtomicU32,
    arguments: Vec<String>,
}

impl Stage {
    /// A stage in a folder of its own.
    pub fn new(folder: &str, arguments: &[String]) -> Result<Stage> {
        let stage = Stage {
            folder: folder.into(),
            rooted: AtomicBool::new(false),
            round: AtomicU32::new(1),
            arguments: arguments.to_vec(),
        };
        let differences = stage.path("differences");
        File::create(&differences).with_context(|| differences.display().to_string())?;
        fs::set_permissions(&differences, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        Ok(stage)
    }

    /// The `index`-th argument after the folder.
    pub fn argument(&self, index: usize) -> Result<&str> {
        self.arguments.get(index).map(String::as_str).with_context(|| format!("argument {index} is missing"))
    }

    /// The fixture's folder.
    pub fn folder(&self) -> &Path {
        if self.rooted.load(SeqCst) { Path::new("/") } else { &self.folder }
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// To be called after a chroot(2) to the folder.
    pub fn is_root_now(&self) {
        self.rooted.store(true, SeqCst);
    }

    fn numbered(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.{}", self.round.load(SeqCst)))
    }

    /// Says that all is set up, and waits for the word to compare.
    pub fn checkpoint(&self) -> Result<()> {
        publish(&self.numbered("ready"), &std::process::id().to_string())?;
        self.wait();
        Ok(())
    }

    /// Says that one more process of the fixture is done with this part of the round.
    pub fn arrive(&self, part: &str) -> Result<()> {
        publish(&self.numbered(&format!("{part}-{}", std::process::id())), "")
    }

    /// Waits until as many processes have arrived.
    pub fn assemble(&self, part: &str, processes: usize) -> Result<()> {
        let (prefix, suffix) = (format!("{part}-"), format!(".{}", self.round.load(SeqCst)));
        loop {
            let names = fs::read_dir(self.folder())?.map(|entry| entry.map(|entry| entry.file_name()));
            let names = names.collect::<Result<Vec<_>, _>>()?;
            let arrived = names.iter().filter_map(|name| name.to_str());
            if arrived.filter(|name| name.starts_with(&prefix) && name.ends_with(&suffix)).count()
                >= processes
            {
                return Ok(());
            }
            ensure!(fs::read_to_string(self.path("differences"))?.is_empty(), "a process failed");
            sleep(Duration::from_millis(1));
        }
    }

    /// [`arrive`](Self::arrive)s as set up, and waits for the word to compare; for the fixture's children.
    pub fn attend(&self) -> Result<()> {
        self.arrive("up")?;
        self.wait();
        Ok(())
    }

    /// [`checkpoint`](Self::checkpoint) once as many children attend.
    pub fn checkpoint_with(&self, children: usize) -> Result<()> {
        self.assemble("up", children)?;
        self.checkpoint()
    }

    /// Waits for the word to compare; for the fixture's children and threads.
    pub fn wait(&self) {
        while !self.told() {
            sleep(Duration::from_millis(2));
        }
    }

    /// Whether the word to compare was given.
    pub fn told(&self) -> bool {
        self.numbered("go").exists()
    }

    /// Notes a difference.
    pub fn differs(&self, text: impl AsRef<str>) {
        let line = format!("{}\n", text.as_ref());
        let written = File::options().append(true).open(self.path("differences"));
        if let Err(error) = written.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("{line}and cannot note it: {error}");
            std::process::abort();
        }
    }

    /// Notes a difference unless both are equal.
    pub fn same<T: PartialEq + Debug>(&self, what: &str, before: T, after: T) {
        if before != after {
            self.differs(format!("{what}: was {before:?}, is {after:?}"));
        }
    }

    /// Notes a difference unless it holds.
    pub fn holds(&self, what: &str, condition: bool) {
        if !condition {
            self.differs(format!("does not hold: {what}"));
        }
    }

    /// Gives the verdict of this round, and goes on to the next one.
    pub fn verdict(&self, result: Result<()>) -> Result<()> {
        if let Err(error) = result {
            self.differs(format!("{error:#}"));
        }
        let differences = fs::read_to_string(self.path("differences"))?;
        publish(&self.numbered("verdict"), if differences.is_empty() { "ok" } else { &differences })?;
        self.next();
        Ok(())
    }

    /// Goes on to the next round, in a child of the fixture.
    pub fn next(&self) {
        self.round.fetch_add(1, SeqCst);
    }

    /// Forks a child. It ends after `work`, whose error counts as a difference.
    pub fn fork(&self, work: impl FnOnce() -> Result<()>) -> Result<Pid> {
        // SAFETY: fixtures fork before they start threads.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => {
                if let Err(error) = work() {
                    self.differs(format!("child {}: {error:#}", std::process::id()));
                }
                std::process::exit(0)
            }
        }
    }

    /// Waits for the end of such a child.
    pub fn join(&self, child: Pid) -> Result<()> {
        let end = waitpid(child, None)?;
        ensure!(end == WaitStatus::Exited(child, 0), "child {child} ended so: {end:?}");
        Ok(())
    }
}
