//! What the RPC asks for, carried out as the command line would.

use crate::actions::{self, Caller};
use crate::{check, log, one_line, workplace::Workplace};
use criu_engine::Hooks;
use criu_resource::BoxError;
use criu_rpc::{Backend, Client, Failure, Features, Job, PageServer};
use criu_tty::OrphanMaster;
use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The command line's functions, for RPC clients.
pub struct CommandLine;

impl Backend for CommandLine {
    fn start_log(&self, job: &Job) -> Result<(), Failure> {
        let place = place(job)?;
        crate::open_log(job.options(), &place).map_err(failure)
    }

    fn flush_log(&self) {
        log::flush();
    }

    fn dump(&self, job: &Job, hooks: &mut dyn Hooks) -> Result<(), Failure> {
        let stats = actions::dump(job.options(), &caller(job), &place(job)?, hooks).map_err(failure)?;
        log_stats(job, &stats);
        Ok(())
    }

    fn pre_dump(&self, job: &Job, hooks: &mut dyn Hooks) -> Result<(), Failure> {
        actions::pre_dump(job.options(), &place(job)?, hooks).map(drop).map_err(failure)
    }

    fn rescue(&self, root: i32) {
        actions::rescue(root);
    }

    fn restore(&self, job: &Job, hooks: &mut dyn Hooks) -> Result<i32, Failure> {
        let restored = actions::restore(job.options(), &caller(job), &place(job)?, hooks).map_err(failure)?;
        log_stats(job, &restored.stats);
        Ok(restored.root)
    }

    fn check(&self, job: &Job) -> Result<(), Failure> {
        match check::look(job.options()).map_err(failure)?.missing.first() {
            None => Ok(()),
            Some(line) => Err(Failure::new(line)),
        }
    }

    fn cpuinfo_dump(&self, job: &Job) -> Result<(), Failure> {
        crate::cpuinfo::dump(&place(job)?).map(drop).map_err(failure)
    }

    fn cpuinfo_check(&self, job: &Job) -> Result<(), Failure> {
        crate::cpuinfo::check(job.options(), &place(job)?).map(drop).map_err(failure)
    }

    fn page_server(&self, job: &Job) -> Result<PageServer, Failure> {
        let place = place(job)?;
        crate::page_server::start_for_client(job.options(), &place, || job.client.leave()).map_err(failure)
    }

    fn features(&self) -> Features {
        Features {
            mem_track: check::has("mem_dirty_track"),
            lazy_pages: check::has("uffd-noncoop"),
            pidfd_store: check::has("pidfd_store"),
        }
    }
}

/// A client reads the log, not what the service prints.
fn log_stats(job: &Job, stats: &dyn Display) {
    if job.options().display_stats {
        stats.to_string().lines().for_each(|line| tracing::info!("{line}"));
    }
}

fn caller(job: &Job) -> Caller {
    let orphans = || Arc::new(Console(job.client.clone())) as Arc<dyn OrphanMaster>;
    Caller { socket: job.client.socket_inode(), orphans: job.orphan_pts_master.then(orphans) }
}

/// A client that provides the other end of a container's console.
struct Console(Client);

impl OrphanMaster for Console {
    fn take(&self, _: u32, master: OwnedFd) -> Result<(), BoxError> {
        Ok(self.0.send_orphan_pts_master(master.as_fd())?)
    }
}

fn place(job: &Job) -> Result<Workplace, Failure> {
    Workplace::open(job.options()).map_err(failure)
}

fn failure(error: anyhow::Error) -> Failure {
    let text = one_line(&error);
    match error.downcast::<criu_engine::Error>() {
        Ok(error) => Failure { message: text, ..Failure::from(error) },
        Err(error) => Failure::because(text, error.as_ref()),
    }
}
