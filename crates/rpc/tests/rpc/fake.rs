//! A backend that writes down what it is asked for. What it does beside is told by `external` options.

use criu_config::{Options, Sources};
use criu_engine::{Action, Hooks};
use criu_rpc::{Backend, Failure, Features, Job, PageServer};
use nix::sys::signal::{Signal, raise};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd, FromRawFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// The root task of every restore.
pub const ROOT: i32 = 4711;

pub struct Fake {
    dir: PathBuf,
}

/// The server end is on descriptor 0.
pub fn swrk() -> i32 {
    let sources = Sources { system_file: None, home: None, ..Sources::system() };
    match criu_rpc::swrk(0, &sources, &Fake::new()) {
        Ok(success) => i32::from(!success),
        Err(error) => {
            eprintln!("{error}");
            7
        }
    }
}

/// Says that it is ready on descriptor 2.
pub fn service() -> i32 {
    let dir = PathBuf::from(std::env::var_os(crate::DIR).unwrap());
    let script = dir.join("ready.sh");
    let options = Options {
        action_script: if script.exists() { vec![script.display().to_string()] } else { Vec::new() },
        work_dir: Some(dir),
        status_fd: Some(2),
        pidfile: Some("service.pid".into()),
        ..Options::default()
    };
    let Err(error) = criu_rpc::service(&options, &Sources::default(), &Fake::new());
    fs::write(options.work_dir().join("service.error"), error.to_string()).unwrap();
    1
}

impl Fake {
    fn new() -> Fake {
        Fake { dir: std::env::var_os(crate::DIR).unwrap().into() }
    }

    fn does(job: &Job, what: &str) -> bool {
        job.options().external.iter().any(|external| external == what)
    }

    /// Writes what it was asked for into the images directory.
    fn note(&self, what: &str, job: &Job) {
        let options = job.options();
        let mut text = format!("{what}\nuid {}\n", nix::unistd::geteuid());
        for (name, value) in [
            ("tree", format!("{:?}", options.tree)),
            ("tcp-established", options.tcp_established.to_string()),
            ("shell-job", options.shell_job.to_string()),
            ("detached", options.restore_detached.to_string()),
            ("sibling", options.restore_sibling.to_string()),
            ("verbosity", options.verbosity.to_string()),
            ("external", options.external.join(" ")),
            ("orphan", job.orphan_pts_master.to_string()),
        ] {
            let _ = writeln!(text, "{name} {value}");
        }
        fs::write(options.images_dir().join("asked"), text).unwrap();
    }

    fn stages(hooks: &mut dyn Hooks, stages: &[Action], pid: i32) -> Result<(), Failure> {
        stages.iter().try_for_each(|stage| {
            hooks
                .notify(*stage, Some(pid))
                .map_err(|source| Failure::from(criu_engine::Error::Hook { action: stage.name(), source }))
        })
    }
}

impl Backend for Fake {
    fn start_log(&self, job: &Job) -> Result<(), Failure> {
        let Some(name) = &job.options().log_file else { return Ok(()) };
        let file = File::create(job.options().work_dir().join(name))
            .map_err(|error| Failure::because(format!("log-file: {error}"), &error))?;
        let lines = tracing_subscriber::fmt().with_writer(file).without_time().with_ansi(false);
        tracing::subscriber::set_global_default(lines.finish())
            .map_err(|error| Failure::new(error.to_string()))
    }

    fn flush_log(&self) {}

    fn dump(&self, job: &Job, hooks: &mut dyn Hooks) -> Result<(), Failure> {
        self.note("dump", job);
        let pid = job.options().tree.unwrap();
        if Self::does(job, "die") {
            raise(Signal::SIGKILL).unwrap();
        }
        if Self::does(job, "panic") {
            panic!("as told");
        }
        if Self::does(job, "fail") {
            return Err(Failure::new("fd 5: connection to 10.0.0.1:80; use --tcp-established")
                .with_errno(libc::EBUSY));
        }
        if Self::does(job, "wait") {
            let start = Instant::now();
            while !hooks.cancelled() && start.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(5));
            }
            fs::write(job.options().images_dir().join("undone"), hooks.cancelled().to_string()).unwrap();
            return Err(criu_engine::Error::Cancelled.into());
        }
        let stages = [Action::PreDump, Action::NetworkLock, Action::PostDump];
        Self::stages(hooks, &stages, pid).inspect_err(|failure| {
            fs::write(job.options().images_dir().join("undone"), failure.to_string()).unwrap();
        })
    }

    fn pre_dump(&self, job: &Job, _: &mut dyn Hooks) -> Result<(), Failure> {
        self.note("pre-dump", job);
        Ok(())
    }

    fn rescue(&self, root: i32) {
        fs::write(self.dir.join("rescued"), root.to_string()).unwrap();
    }

    fn restore(&self, job: &Job, hooks: &mut dyn Hooks) -> Result<i32, Failure> {
        self.note("restore", job);
        Self::stages(hooks, &[Action::PreRestore, Action::SetupNamespaces, Action::PostRestore], ROOT)?;
        if job.orphan_pts_master {
            let master = File::open("/dev/null").unwrap();
            job.client.send_orphan_pts_master(master.as_fd())?;
        }
        if let Some(fd) = job.options().status_fd {
            // SAFETY: the job holds it open, and the copy is made at once and the original let be.
            let status = unsafe { std::mem::ManuallyDrop::new(File::from_raw_fd(fd)).try_clone() };
            status.unwrap().write_all(&[0]).unwrap();
        }
        Self::stages(hooks, &[Action::PreResume, Action::PostResume], ROOT)?;
        Ok(ROOT)
    }

    fn check(&self, job: &Job) -> Result<(), Failure> {
        if job.options().images_dir.is_some() {
            self.note("check", job);
        }
        match Self::does(job, "fail") {
            true => Err(Failure::new("the kernel lacks clone3").with_errno(libc::ENOSYS)),
            false => Ok(()),
        }
    }

    fn cpuinfo_dump(&self, job: &Job) -> Result<(), Failure> {
        self.note("cpuinfo-dump", job);
        Ok(())
    }

    fn cpuinfo_check(&self, _: &Job) -> Result<(), Failure> {
        Err(Failure::not_supported("CPUINFO_CHECK"))
    }

    #[allow(clippy::zombie_processes, reason = "the client waits for it, by WAIT_PID")]
    fn page_server(&self, _: &Job) -> Result<PageServer, Failure> {
        let server = Command::new("sh").args(["-c", "exit 5"]).spawn().unwrap();
        Ok(PageServer { pid: server.id() as i32, port: 9876 })
    }

    fn features(&self) -> Features {
        Features { mem_track: true, lazy_pages: true, pidfd_store: false }
    }
}
