//! What the service needs done, and by whom.

use crate::{Failure, Job};
use criu_engine::Hooks;

/// Does what clients ask for.
///
/// Nothing here logs or prints a failure: the service does that, once, and tells the client.
pub trait Backend {
    /// Starts the log that the job's options ask for, and gives up an earlier one. Called once a request, in the
    /// process that serves it, before anything else.
    ///
    /// # Errors
    /// The log file cannot be created.
    fn start_log(&self, job: &Job) -> Result<(), Failure>;

    /// Writes out what the log holds back: before a fork and before the end.
    fn flush_log(&self);

    /// Dumps the tree below the option `tree`, which is set. The process has one thread and is the worker.
    ///
    /// # Errors
    /// Whatever ends the dump; the tree then runs as before.
    fn dump(&self, job: &Job, hooks: &mut dyn Hooks) -> Result<(), Failure>;

    /// Copies memory ahead of a dump.
    ///
    /// # Errors
    /// Whatever ends it; the tree then runs as before.
    fn pre_dump(&self, job: &Job, hooks: &mut dyn Hooks) -> Result<(), Failure>;

    /// Clears up what a killed worker left outside of its targets: the network lock of the tree below `root`.
    fn rescue(&self, root: i32);

    /// Restores, detached, and gives the root task's pid. Runs in the serving process, whose child (or
    /// sibling) the root becomes.
    ///
    /// # Errors
    /// Whatever ends the restore; no task of it is left.
    fn restore(&self, job: &Job, hooks: &mut dyn Hooks) -> Result<i32, Failure>;

    /// Tells whether the kernel has what is needed.
    ///
    /// # Errors
    /// The first thing that it lacks.
    fn check(&self, job: &Job) -> Result<(), Failure>;

    /// Writes the CPU's features into an image.
    ///
    /// # Errors
    /// The image cannot be written.
    fn cpuinfo_dump(&self, job: &Job) -> Result<(), Failure>;

    /// Compares the CPU's features with those of an image.
    ///
    /// # Errors
    /// The CPU lacks some, or the image cannot be read.
    fn cpuinfo_check(&self, job: &Job) -> Result<(), Failure>;

    /// Starts a page server and returns while it runs: a child of this process, for which the client may wait.
    ///
    /// # Errors
    /// The server cannot be started.
    fn page_server(&self, job: &Job) -> Result<PageServer, Failure>;

    /// What this kernel and this version can do.
    fn features(&self) -> Features;
}

/// A page server that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageServer {
    /// Its process.
    pub pid: i32,
    /// The TCP port on which it listens.
    pub port: u16,
}

/// What FEATURE_CHECK tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Memory changes can be tracked between dumps.
    pub mem_track: bool,
    /// Pages can be restored on demand.
    pub lazy_pages: bool,
    /// Tasks of an earlier pre-dump can be told from later ones with the same pid.
    pub pidfd_store: bool,
}
