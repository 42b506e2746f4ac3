//! Times and counts of a dump or restore: `stats-dump`, `stats-restore` and `--display-stats`.

use criu_images::proto;
use std::fmt;
use std::time::Duration;

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// What a dump took.
#[derive(Clone, Debug, Default)]
pub struct DumpStats {
    /// From the first task seized to the last one stopped.
    pub freezing: Duration,
    /// From the first task seized to the first one let go.
    pub frozen: Duration,
    /// Reading and writing memory, the larger part of it.
    pub memory: Duration,
    /// Counted by the resources.
    pub counts: proto::DumpStatsEntry,
}

impl DumpStats {
    /// The message of `stats-dump`.
    pub fn entry(&self) -> proto::StatsEntry {
        let dump = proto::DumpStatsEntry {
            freezing_time: micros(self.freezing),
            frozen_time: micros(self.frozen),
            memdump_time: micros(self.memory),
            memwrite_time: micros(self.memory),
            ..self.counts
        };
        proto::StatsEntry { dump: Some(dump), ..Default::default() }
    }
}

impl fmt::Display for DumpStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Displaying dump stats:")?;
        writeln!(f, "Freezing time: {} us", self.freezing.as_micros())?;
        writeln!(f, "Frozen time: {} us", self.frozen.as_micros())?;
        writeln!(f, "Memory dump time: {} us", self.memory.as_micros())?;
        writeln!(f, "Memory write time: {} us", self.memory.as_micros())?;
        writeln!(f, "Memory pages scanned: {}", self.counts.pages_scanned)?;
        writeln!(f, "Memory pages skipped from parent: {}", self.counts.pages_skipped_parent)?;
        write!(f, "Memory pages written: {}", self.counts.pages_written)
    }
}

/// What a restore took.
#[derive(Clone, Debug, Default)]
pub struct RestoreStats {
    /// Creating the tasks.
    pub forking: Duration,
    /// All of it.
    pub restore: Duration,
}

impl RestoreStats {
    /// The message of `stats-restore`.
    pub fn entry(&self) -> proto::StatsEntry {
        let restore = proto::RestoreStatsEntry {
            forking_time: micros(self.forking),
            restore_time: micros(self.restore),
            ..Default::default()
        };
        proto::StatsEntry { restore: Some(restore), ..Default::default() }
    }
}

impl fmt::Display for RestoreStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Displaying restore stats:")?;
        writeln!(f, "Forking time: {} us", self.forking.as_micros())?;
        write!(f, "Restore time: {} us", self.restore.as_micros())
    }
}
