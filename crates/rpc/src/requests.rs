//! What each kind of request does.

use crate::client::reply;
use crate::job::{self, Job};
use crate::message::Message;
use crate::{Backend, Client, ClientHooks, Failure, HookChain, ScriptHooks, SignalHooks, peer};
use criu_config::{Command, Sources};
use criu_engine::{Hooks, guard};
use criu_images::proto::{
    CriuDumpResp, CriuFeatures, CriuPageServerInfo, CriuReqType as Kind, CriuResp, CriuRestoreResp,
    CriuVersion,
};
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The interface that this is: clients compare it with the versions of CRIU.
const VERSION: (i32, i32) = (4, 2);

/// What a worker's exit code says: the client has its answer, or it is gone.
mod code {
    pub const DONE: i32 = 0;
    pub const FAILED: i32 = 1;
    pub const UNTOLD: i32 = 2;
}

/// A connection and what serves it.
pub(crate) struct Session<'a> {
    pub client: Client,
    pub backend: &'a dyn Backend,
    /// The layers below a request's options.
    pub sources: Sources,
    /// The client started us, so that its descriptors may be ours.
    pub inherited: bool,
}

/// What became of a request.
pub(crate) struct Done {
    pub success: bool,
    pub next: Next,
}

/// What may come after a request.
pub(crate) enum Next {
    /// Nothing: the connection ends.
    End,
    /// Any request.
    Any,
    /// One of these.
    OneOf(&'static [Kind]),
}

impl Session<'_> {
    /// Does what is asked and replies.
    pub fn handle(&self, message: &Message) -> Done {
        let Some(kind) = message.kind() else {
            let failure = Failure::bad_request(format!("no request has type {}", message.request.r#type));
            return Done { next: Next::End, ..self.answer(Kind::Empty, Err(failure)) };
        };
        tracing::debug!("rpc: request {}", kind.as_str_name());
        let keep_open = message.request.keep_open == Some(true);
        let mut done = match kind {
            Kind::Version => self.version(),
            Kind::FeatureCheck => self.features(message),
            Kind::WaitPid => self.wait_pid(message),
            Kind::Dump => self.in_worker(message, kind, Command::Dump),
            Kind::PreDump | Kind::SinglePreDump => self.in_worker(message, kind, Command::PreDump),
            Kind::Check => self.in_worker(message, kind, Command::Check),
            Kind::CpuinfoDump => self.in_worker(message, kind, Command::CpuinfoDump),
            Kind::CpuinfoCheck => self.in_worker(message, kind, Command::CpuinfoCheck),
            Kind::PageServer | Kind::PageServerChld => self.page_server(message),
            // It leaves this process with more than it came with, threads among it.
            Kind::Restore if keep_open => {
                self.answer(kind, Err(Failure::bad_request("keep_open is not possible with RESTORE")))
            }
            Kind::Restore => self.restore(message),
            Kind::Empty | Kind::Notify => {
                let name = kind.as_str_name();
                self.answer(Kind::Empty, Err(Failure::bad_request(format!("{name} is not a request"))))
            }
        };
        if kind == Kind::PreDump && done.success {
            done.next = Next::OneOf(&[Kind::PreDump, Kind::Dump]);
        } else if !keep_open || matches!(kind, Kind::Restore | Kind::Empty | Kind::Notify) {
            done.next = Next::End;
        }
        done
    }

    fn version(&self) -> Done {
        let version = CriuVersion {
            major_number: VERSION.0,
            minor_number: VERSION.1,
            name: Some(concat!("criu-rs ", env!("CARGO_PKG_VERSION")).into()),
            ..CriuVersion::default()
        };
        self.send(CriuResp { version: Some(version), ..reply(Kind::Version, &Ok(())) })
    }

    /// Success means that it was looked; each feature is told only if it was asked for.
    fn features(&self, message: &Message) -> Done {
        let asked = message.request.features.unwrap_or_default();
        let (result, found) = match caught(|| Ok(self.backend.features())) {
            Ok(found) => (Ok(()), found),
            Err(failure) => (Err(failure), Default::default()),
        };
        let features = CriuFeatures {
            mem_track: Some(asked.mem_track() && found.mem_track),
            lazy_pages: Some(asked.lazy_pages() && found.lazy_pages),
            pidfd_store: Some(asked.pidfd_store() && found.pidfd_store),
        };
        self.send(CriuResp { features: Some(features), ..reply(Kind::FeatureCheck, &result) })
    }

    /// Waits for a page server that is our child.
    fn wait_pid(&self, message: &Message) -> Done {
        let pid = i32::try_from(message.request.pid()).unwrap_or(0);
        if pid <= 0 {
            return self.answer(Kind::WaitPid, Err(Failure::bad_request("WAIT_PID needs a pid")));
        }
        let mut status = 0;
        let waited = loop {
            // SAFETY: waitpid(2) writes one int, which outlives the call.
            match Errno::result(unsafe { libc::waitpid(pid, &raw mut status, 0) }) {
                Err(Errno::EINTR) => {}
                result => break result,
            }
        };
        let result = waited
            .map(drop)
            .map_err(|errno| Failure::because(format!("waiting for pid {pid}: {}", errno.desc()), &errno));
        let status = result.is_ok().then_some(status);
        self.send(CriuResp { status, ..reply(Kind::WaitPid, &result) })
    }

    /// Dumps and checks: in a process of their own, which answers the client itself.
    fn in_worker(&self, message: &Message, kind: Kind, command: Command) -> Done {
        let job = match job::prepare(message, command, &self.client, &self.sources, self.inherited) {
            Ok(job) => job,
            Err(failure) => return self.answer(kind, Err(failure)),
        };
        let root = job.root();
        self.backend.flush_log();
        let mut rescued = None;
        let worker = guard::guarded(
            || {
                let result = caught(|| self.work(kind, job));
                log(&result);
                let sent = self.client.send(&finished(kind, &result));
                self.backend.flush_log();
                match (sent, &result) {
                    // A client that dumped itself is gone by now, as it wished.
                    (Err(_), Ok(())) if self.client.peer().pid == root => code::DONE,
                    (Err(errno), _) => {
                        tracing::error!("rpc: the client cannot be told: {errno}");
                        code::UNTOLD
                    }
                    (Ok(()), Ok(())) => code::DONE,
                    (Ok(()), Err(_)) => code::FAILED,
                }
            },
            || {
                if command == Command::Dump {
                    self.backend.rescue(root);
                }
                rescued = Some(Failure::new("the worker process was killed; its targets run on"));
            },
        );
        let lost = default_signals().err().map(|errno| Failure::because("sigaction", &errno));
        match (worker, rescued.or(lost)) {
            (Err(error), _) => self.answer(kind, Err(error.into())),
            (_, Some(failure)) => self.answer(kind, Err(failure)),
            (Ok(code::UNTOLD), _) => Done { success: false, next: Next::End },
            (Ok(code), _) => Done { success: code == code::DONE, next: Next::Any },
        }
    }

    fn work(&self, kind: Kind, mut job: Job) -> Result<(), Failure> {
        self.backend.start_log(&job)?;
        job.log();
        match kind {
            Kind::Dump | Kind::PreDump | Kind::SinglePreDump => {
                self.may_dump(&job)?;
                let more = job.client.query_external()?;
                job.config.options.external.extend(more);
                let mut hooks = hooks(&job)?;
                match kind {
                    Kind::Dump => self.backend.dump(&job, &mut hooks),
                    _ => self.backend.pre_dump(&job, &mut hooks),
                }
            }
            Kind::CpuinfoDump => self.backend.cpuinfo_dump(&job),
            Kind::CpuinfoCheck => self.backend.cpuinfo_check(&job),
            _ => self.backend.check(&job),
        }
    }

    fn may_dump(&self, job: &Job) -> Result<(), Failure> {
        let (root, client) = (job.root(), self.client.peer());
        client.may_dump(root)?;
        if peer::is_within(std::process::id() as i32, root) {
            // A sentence that the reference's tests look for.
            let message =
                format!("The criu itself is within dumped tree (below pid {root}); start it elsewhere");
            return Err(Failure::new(message));
        }
        if job.client.wants_notifications() && peer::is_within(client.pid, root) {
            let message =
                "notify_scripts: the client is within the dumped tree and cannot answer while frozen";
            return Err(Failure::bad_request(message));
        }
        Ok(())
    }

    fn restore(&self, message: &Message) -> Done {
        let mut exec = None;
        let result = caught(|| {
            let job = job::prepare(message, Command::Restore, &self.client, &self.sources, self.inherited)?;
            self.backend.start_log(&job)?;
            job.log();
            let pid = self.backend.restore(&job, &mut hooks(&job)?)?;
            exec = Some(job);
            Ok(pid)
        });
        log(&result);
        let pid = *result.as_ref().unwrap_or(&-1);
        let restore = Some(CriuRestoreResp { pid });
        let mut done = self.send(CriuResp { restore, ..reply(Kind::Restore, &result.map(drop)) });
        self.backend.flush_log();
        if let Some(job) = exec.filter(|job| done.success && !job.exec.is_empty()) {
            tracing::error!("rpc: {}", become_command(&job));
            done.success = false;
        }
        done
    }

    fn page_server(&self, message: &Message) -> Done {
        let result = caught(|| {
            let job =
                job::prepare(message, Command::PageServer, &self.client, &self.sources, self.inherited)?;
            self.backend.start_log(&job)?;
            job.log();
            self.backend.page_server(&job)
        });
        log(&result);
        let ps = result.as_ref().ok().map(|server| CriuPageServerInfo {
            pid: Some(server.pid),
            port: Some(server.port.into()),
            ..CriuPageServerInfo::default()
        });
        self.send(CriuResp { ps, ..reply(Kind::PageServer, &result.map(drop)) })
    }

    fn answer(&self, kind: Kind, result: Result<(), Failure>) -> Done {
        log(&result);
        self.send(finished(kind, &result))
    }

    fn send(&self, reply: CriuResp) -> Done {
        match self.client.send(&reply) {
            Ok(()) => Done { success: reply.success, next: Next::Any },
            Err(errno) => {
                tracing::warn!("rpc: the client cannot be told: {errno}");
                Done { success: false, next: Next::End }
            }
        }
    }
}

/// The reply to a request of this kind, with what the kind adds.
fn finished(kind: Kind, result: &Result<(), Failure>) -> CriuResp {
    let dump = (kind == Kind::Dump).then_some(CriuDumpResp { restored: Some(false) });
    CriuResp { dump, ..reply(kind, result) }
}

fn hooks(job: &Job) -> Result<HookChain<'static>, Failure> {
    let mut chain: Vec<Box<dyn Hooks>> =
        vec![Box::new(SignalHooks), Box::new(ClientHooks(job.client.clone()))];
    let options = job.options();
    if let (false, Some(images)) = (options.action_script.is_empty(), &job.images) {
        let scripts = ScriptHooks::new(options.action_script.clone(), images.as_fd(), options.work_dir());
        let scripts = scripts.map_err(|error| Failure::because(format!("action-script: {error}"), &error))?;
        chain.push(Box::new(scripts));
    }
    Ok(HookChain(chain))
}

/// A defect of ours must not take the connection along.
fn caught<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
        Err(Failure::new(format!("internal error: {text}; please report it")))
    })
}

fn log<T>(result: &Result<T, Failure>) {
    if let Err(failure) = result {
        tracing::error!("{failure}");
    }
}

/// Becomes the command that the client named, with the log as its output; the error if it cannot.
fn become_command(job: &Job) -> String {
    let mut command = std::process::Command::new(&job.exec[0]);
    command.args(&job.exec[1..]);
    if let Some(file) = &job.options().log_file {
        let log = OpenOptions::new().append(true).open(job.options().work_dir().join(file));
        if let Ok((out, err)) = log.and_then(|log| Ok((log.try_clone()?, log))) {
            command.stdout(out).stderr(err);
        }
    }
    format!("exec_cmd {}: {}", job.exec[0], command.exec())
}

/// Takes back the handlers that [`guard::guarded`] leaves: the worker they pass signals to is gone.
fn default_signals() -> Result<(), Errno> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the default action runs no code of ours.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}
