//! One fixture, dumped, restored and asked.

use crate::{Criu, Sandbox, Target};
use anyhow::{Context, Result, ensure};
use std::fs;

/// A live test of one fixture.
#[derive(Clone, Debug)]
pub struct Live {
    fixture: Vec<&'static str>,
    peer: Option<&'static [&'static str]>,
    peer_first: bool,
    terminal: bool,
    options: Vec<&'static str>,
}

impl Live {
    /// Of the fixture of that name.
    pub fn of(fixture: &'static str) -> Live {
        Live { fixture: vec![fixture], peer: None, peer_first: true, terminal: false, options: Vec::new() }
    }

    /// With an argument for the fixture.
    pub fn with(mut self, argument: &'static str) -> Live {
        self.fixture.push(argument);
        self
    }

    /// With another fixture outside of the dumped tree, which starts first and has its say at the end.
    pub fn beside(mut self, peer: &'static [&'static str]) -> Live {
        self.peer = Some(peer);
        self
    }

    /// The same, but it starts second.
    pub fn followed_by(mut self, peer: &'static [&'static str]) -> Live {
        self.peer_first = false;
        self.beside(peer)
    }

    /// As a job on a terminal; the restore is then one on another terminal.
    pub fn on_terminal(mut self) -> Live {
        self.terminal = true;
        self
    }

    /// With options for both dump and restore.
    pub fn options(mut self, options: &[&'static str]) -> Live {
        self.options.extend(options);
        self
    }

    /// Dumps it and lets it run on; then dumps and restores it; then lets it compare. Panics, with the logs, when
    /// anything is not as it was.
    #[track_caller]
    pub fn survives(&self) {
        let sandbox = Sandbox::new().expect("a sandbox");
        let criu = Criu::new(&sandbox);
        if let Err(error) = self.through(&criu) {
            let logs = ["0/dump.log", "1/dump.log", "1/restore.log"].map(|path| {
                let (images, name) = path.split_once('/').expect("constant");
                format!("--- {path}\n{}", last_lines(&criu.log(images, name), 40))
            });
            panic!("{}: {error:#}\n{}", self.fixture.join(" "), logs.join("\n"));
        }
    }

    fn through(&self, criu: &Criu) -> Result<()> {
        let sandbox = criu.sandbox;
        let start_peer = |now| match self.peer {
            Some(peer) if now => Target::start(sandbox, peer).context("peer").map(Some),
            _ => Ok(None),
        };
        let first = start_peer(self.peer_first)?;
        let mut target = match self.terminal {
            true => Target::on_terminal(sandbox, &self.fixture)?,
            false => Target::start(sandbox, &self.fixture)?,
        };
        let mut peer = first.or(start_peer(!self.peer_first)?);

        let before = sandbox.traces()?;
        let mut options = self.options.clone();
        options.push("--leave-running");
        let dumped = criu.dump(target.pid, "0", &options).context("dump that leaves it running")?;
        ensure!(dumped.status.success(), "dump that leaves it running: {dumped}");
        ensure!(target.alive()?, "it is dead after a dump with --leave-running");
        sandbox.settles_to(&before).context("left behind by the dump")?;

        let dumped = criu.dump(target.pid, "1", &self.options)?;
        ensure!(dumped.status.success(), "dump: {dumped}");
        ensure!(!target.alive()?, "it is alive after the dump");

        if self.terminal {
            let code = criu.restore_on_terminal("1", &self.options)?;
            let screen = fs::read_to_string(sandbox.path("restore.screen"));
            ensure!(code == 0, "restore on a terminal: exit code {code}: {}", screen.unwrap_or_default());
        } else {
            let restored = criu.restore("1", &self.options)?;
            ensure!(restored.status.success(), "restore: {restored}");
        }
        let pid = fs::read_to_string(sandbox.path("1/pid")).context("--pidfile")?;
        ensure!(pid.trim() == target.pid.to_string(), "the pidfile says {pid:?} instead of {}", target.pid);

        // Who started last ends first: a client before its server.
        match &mut peer {
            Some(peer) if self.peer_first => target.check().and_then(|()| peer.check()),
            Some(peer) => peer.check().and_then(|()| target.check()),
            None => target.check(),
        }
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
