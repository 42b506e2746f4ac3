//! `cargo xtask demo`: the founding story, told by what criu-rs really prints.
//!
//! A program that talks over TCP and runs on a terminal needs two options. Whoever calls criu-rs for the user may
//! not know them; a configuration file does. All happens in namespaces and a folder of the demo's own.

pub mod programs;

use crate::cargo::criu;
use anyhow::{Context, Result, bail, ensure};
use criu_testkit::{Outcome, Sandbox, fixture};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Builds criu-rs and tells the story; an error when it is not true.
pub fn run() -> Result<()> {
    let story = Story { criu: criu()?, sandbox: Sandbox::new()? };
    story.tell()
}

struct Story {
    criu: PathBuf,
    sandbox: Sandbox,
}

fn narrate(text: &str) {
    println!("\n# {text}");
}

impl Story {
    fn tell(&self) -> Result<()> {
        narrate("A server and a client that count together over TCP, each on a terminal of its own.");
        let port = self.sandbox.path("port");
        self.on_terminal("server", &["demo-server", &port.display().to_string()])?;
        let port = self.appears(&port)?;
        self.on_terminal("client", &["demo-client", &port])?;
        self.counts_past("client", 3)?;
        self.show("server")?;
        self.show("client")?;
        let pid = self.pid_of("demo-client")?;

        narrate("The client is to be frozen and stored. criu-rs refuses, and says what it needs:");
        self.refuses(&pid, "tcp-established")?;
        narrate(
            "The client did not notice. The option goes into a configuration file, for whoever calls criu-rs:",
        );
        self.counts_on()?;
        self.configure("tcp-established")?;

        narrate("Again:");
        self.refuses(&pid, "shell-job")?;
        narrate("It runs on a terminal whose shell stays outside. A second line:");
        self.counts_on()?;
        self.configure("shell-job")?;

        narrate("And now:");
        let dumped = self.dump(&pid)?;
        ensure!(dumped.status.success(), "the third dump failed");
        println!("(exit code 0; {})", self.images()?);
        narrate("The client is gone. The server still waits for it; nothing has told it of an end:");
        ensure!(self.pid_of("demo-client").is_err(), "the client is still there");
        let before = self.last("server")?;
        sleep(Duration::from_millis(500));
        ensure!(self.last("server")? == before, "the server counts without its client");
        self.show("server")?;

        narrate("The client comes back on another terminal:");
        println!("$ criu-rs restore -d");
        self.restore()?;
        let (count, _) = self.counts_past("restore", before + 3)?;
        self.show("restore")?;
        self.show("server")?;
        self.has_no_gap()?;
        narrate(&format!("Both counted from 1 to {count}, without a gap on either side."));
        Ok(())
    }

    /// Starts a program of the demo as the foreground job of a shell on a terminal.
    fn on_terminal(&self, name: &str, words: &[&str]) -> Result<()> {
        let this = std::env::current_exe()?;
        println!("$ {name} &");
        let command = [&[this.to_str().context("path of xtask")?], words].concat();
        self.terminal(name, &command)
    }

    fn terminal(&self, name: &str, command: &[&str]) -> Result<()> {
        let (status, screen) = (self.sandbox.path(&format!("{name}.status")), self.screen(name));
        let shell = [fixture(), Path::new("terminal"), &status, &screen]
            .map(|word| word.to_string_lossy().into_owned());
        self.sandbox.start(name, shell.iter().map(String::as_str).chain(command.iter().copied()))
    }

    fn screen(&self, name: &str) -> PathBuf {
        self.sandbox.path(&format!("{name}.screen"))
    }

    fn appears(&self, file: &Path) -> Result<String> {
        let end = Instant::now() + Duration::from_secs(10);
        while !file.exists() {
            ensure!(Instant::now() < end, "{} does not appear", file.display());
            sleep(Duration::from_millis(2));
        }
        Ok(fs::read_to_string(file)?.trim().into())
    }

    /// Numbers on a terminal's screen.
    fn numbers(&self, name: &str) -> Result<Vec<u64>> {
        let screen = fs::read_to_string(self.screen(name)).unwrap_or_default();
        let lines = screen.lines().filter_map(|line| line.trim().split_once(": "));
        Ok(lines.filter_map(|(_, number)| number.parse().ok()).collect())
    }

    fn last(&self, name: &str) -> Result<u64> {
        self.numbers(name)?.last().copied().with_context(|| format!("the {name} has not counted"))
    }

    fn counts_past(&self, name: &str, number: u64) -> Result<(u64, Duration)> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            match self.last(name) {
                Ok(last) if last >= number => return Ok((last, start.elapsed())),
                _ => sleep(Duration::from_millis(5)),
            }
        }
        bail!(
            "the {name} does not count to {number}: {}",
            fs::read_to_string(self.screen(name)).unwrap_or_default()
        )
    }

    fn counts_on(&self) -> Result<()> {
        self.counts_past("client", self.last("client")? + 2)?;
        self.show("client")
    }

    /// The last lines of a screen.
    fn show(&self, name: &str) -> Result<()> {
        let screen = fs::read_to_string(self.screen(name))?;
        let lines: Vec<_> = screen.lines().collect();
        lines[lines.len().saturating_sub(2)..].iter().for_each(|line| println!("    {}", line.trim()));
        Ok(())
    }

    fn pid_of(&self, word: &str) -> Result<String> {
        // The terminal and its shell have the word in their command lines too, but not as the second one.
        let script = format!(
            "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q '^[^ ]*xtask {word} ' && echo ${{p#/proc/}}; done"
        );
        let outcome = self.sandbox.run(["sh", "-c", &script])?;
        let pid = outcome.stdout.lines().next().with_context(|| format!("{word} does not run"))?;
        Ok(pid.into())
    }

    fn folder(&self) -> Result<String> {
        Ok(self.sandbox.folder("images")?.display().to_string())
    }

    fn dump(&self, pid: &str) -> Result<Outcome> {
        println!("$ criu-rs dump -t {pid}");
        let criu = self.criu.display().to_string();
        let outcome = self.sandbox.run(["env", "-C", &self.folder()?, &criu, "dump", "-t", pid])?;
        print!("{}{}", outcome.stdout, outcome.stderr);
        Ok(outcome)
    }

    fn refuses(&self, pid: &str, remedy: &str) -> Result<()> {
        let outcome = self.dump(pid)?;
        ensure!(!outcome.status.success(), "the dump was to be refused for want of {remedy}");
        ensure!(outcome.stderr.contains(remedy), "the error does not name {remedy}");
        Ok(())
    }

    /// A line into the user's own file; the sandbox has a home of its own.
    fn configure(&self, option: &str) -> Result<()> {
        println!("$ echo {option} >> ~/.criu/default.conf");
        let file = self.sandbox.folder(".criu")?.join("default.conf");
        let text = fs::read_to_string(&file).unwrap_or_default();
        fs::write(file, format!("{text}{option}\n"))?;
        Ok(())
    }

    fn images(&self) -> Result<String> {
        let (mut count, mut bytes) = (0, 0);
        for entry in fs::read_dir(self.sandbox.path("images"))? {
            (count, bytes) = (count + 1, bytes + entry?.metadata()?.len());
        }
        Ok(format!("{count} image files, {} KiB", bytes / 1024))
    }

    fn restore(&self) -> Result<()> {
        let criu = self.criu.display().to_string();
        self.terminal("restore", &["env", "-C", &self.folder()?, &criu, "restore", "-d"])?;
        let status = self.appears(&self.sandbox.path("restore.status"))?;
        let screen = fs::read_to_string(self.screen("restore")).unwrap_or_default();
        ensure!(status == "0", "the restore failed: {screen}");
        Ok(())
    }

    fn has_no_gap(&self) -> Result<()> {
        let client = [self.numbers("client")?, self.numbers("restore")?].concat();
        let gap =
            |numbers: &[u64]| numbers.windows(2).find(|pair| pair[1] != pair[0] + 1).map(<[u64]>::to_vec);
        let server = self.numbers("server")?;
        ensure!(client[0] == 1 && gap(&client).is_none(), "the client lost count: {:?}", gap(&client));
        ensure!(server[0] == 1 && gap(&server).is_none(), "the server lost count: {:?}", gap(&server));
        Ok(())
    }
}
