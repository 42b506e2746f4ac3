//! What the RPC asks for, carried out as the command line would.

use crate::{actions, log, one_line, workplace::Workplace};
use criu_engine::Hooks;
use criu_kernel::features::Feature;
use criu_rpc::{Backend, Failure, Features, Job, PageServer};

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
        actions::dump(job.options(), job.client.socket_inode(), &place(job)?, hooks)
            .map(drop)
            .map_err(failure)
    }

    fn pre_dump(&self, _: &Job, _: &mut dyn Hooks) -> Result<(), Failure> {
        Err(Failure::not_supported("pre-dump"))
    }

    fn rescue(&self, root: i32) {
        actions::rescue(root);
    }

    fn restore(&self, job: &Job, hooks: &mut dyn Hooks) -> Result<i32, Failure> {
        let restored = actions::restore(job.options(), &place(job)?, hooks).map_err(failure)?;
        Ok(restored.root)
    }

    fn check(&self, job: &Job) -> Result<(), Failure> {
        match crate::check::run(job.options()).map_err(failure)? {
            0 => Ok(()),
            _ => Err(Failure::new("the kernel lacks a feature; `criu-rs check` names it")),
        }
    }

    fn cpuinfo_dump(&self, job: &Job) -> Result<(), Failure> {
        crate::cpuinfo::dump(&place(job)?).map(drop).map_err(failure)
    }

    fn cpuinfo_check(&self, job: &Job) -> Result<(), Failure> {
        match crate::cpuinfo::check(job.options(), &place(job)?).map_err(failure)? {
            0 => Ok(()),
            _ => Err(Failure::new("the processor lacks what the image asks for; the log names it")),
        }
    }

    fn page_server(&self, _: &Job, _: bool) -> Result<PageServer, Failure> {
        Err(Failure::not_supported("the page server"))
    }

    fn features(&self) -> Features {
        // What this version can do, which is less than what the kernel can.
        Features { mem_track: false, lazy_pages: false, pidfd_store: Feature::PidfdGetfd.is_available() }
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
