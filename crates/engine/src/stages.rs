//! How long each stage of a dump or restore took, for the log (`-v4`).

use std::fmt::Display;
use std::time::Instant;

/// Measures one stage after the other.
pub(crate) struct Stages {
    action: &'static str,
    since: Instant,
}

impl Stages {
    /// `action` heads each line: `dump`, `restore`.
    pub(crate) fn start(action: &'static str) -> Stages {
        Stages { action, since: Instant::now() }
    }

    /// What was done since the last call took this long.
    pub(crate) fn done(&mut self, stage: impl Display) {
        let now = Instant::now();
        tracing::debug!("{}: {} us: {stage}", self.action, (now - self.since).as_micros());
        self.since = now;
    }
}
