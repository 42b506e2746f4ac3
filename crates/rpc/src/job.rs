//! One request, ready to be carried out: options from all layers, directories open.

use crate::message::Message;
use crate::{Client, Failure, peer};
use criu_config::{Command, Config, LayerKind, Options, RpcLayer, Setting, Sources, load};
use criu_images::proto::CriuOpts;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// The log file of a request that names none.
const DEFAULT_LOG: &str = "criu.log";

/// One request, as the backend sees it.
///
/// `config.options` is complete: `tree` is the root to dump (the client, when the request names none),
/// `images_dir` and `work_dir` lead to the open directories below, `status_fd` is a descriptor of this process.
/// `config.provenance` keeps what the layers said.
#[derive(Debug)]
pub struct Job {
    /// The options, and where each comes from.
    pub config: Config,
    /// The images directory; a CHECK may come without one.
    pub images: Option<OwnedFd>,
    /// The directory of logs and statistics.
    pub work: Option<OwnedFd>,
    /// The client, for what is not a stage: the orphaned terminal, `status-ready`.
    pub client: Client,
    /// Whether the client wants the master of the root task's terminal
    /// ([`Client::send_orphan_pts_master`]).
    pub orphan_pts_master: bool,
    /// The command to become after a restore.
    pub(crate) exec: Vec<String>,
    /// Fields of the request that mean nothing to us.
    unknown: Vec<String>,
    /// Keeps the descriptor of `options.status_fd` open.
    _status: Option<OwnedFd>,
}

impl Job {
    /// The options in effect.
    pub fn options(&self) -> &Options {
        &self.config.options
    }

    /// The root of the tree to dump.
    pub(crate) fn root(&self) -> i32 {
        self.config.options.tree.unwrap_or(0)
    }

    /// Writes to the log where the options come from and what is odd about the request.
    pub(crate) fn log(&self) {
        self.config.log_lines().iter().for_each(|line| tracing::info!("config: {line}"));
        self.config.warnings.iter().for_each(|line| tracing::warn!("config: {line}"));
        for field in &self.unknown {
            tracing::warn!("rpc: {field} is not known to this version and has no effect");
        }
    }
}

/// Makes a job of a request's options.
///
/// `inherited`: the client started us (`swrk`), so its descriptors may be ours.
pub(crate) fn prepare(
    message: &Message,
    command: Command,
    client: &Client,
    sources: &Sources,
    inherited: bool,
) -> Result<Job, Failure> {
    let opts =
        message.request.opts.clone().unwrap_or_else(|| CriuOpts { images_dir_fd: -1, ..CriuOpts::default() });
    refuse_what_only_swrk_can(&opts, inherited)?;
    if opts.log_file.as_ref().is_some_and(|name| name.contains('/')) {
        return Err(Failure::bad_request("No subdirs are allowed in log_file name"));
    }
    let mut layer = RpcLayer::from_fields(message.fields.iter().cloned());
    for (option, fd) in [("images-dir", Some(opts.images_dir_fd)), ("work-dir", opts.work_dir_fd)] {
        if let Some(fd) = fd.filter(|fd| *fd >= 0) {
            let path = locate(client, fd, inherited);
            layer.settings.extend(Setting::with(option, path.display().to_string()));
        }
    }
    let mut unknown = message.unknown.clone();
    unknown.append(&mut layer.unknown);
    unknown.extend(opts.pidfd_store_sk.map(|_| "pidfd_store_sk".into()));
    let exec = std::mem::take(&mut layer.exec_cmd);
    let mut config = load(&Sources { command: Some(command), rpc: Some(layer), ..sources.clone() })?;

    let options = &mut config.options;
    let (images, work) = directories(options, command)?;
    let from = |option| config.provenance.get(option).map(|entry| entry.origin.layer);
    let status = match options.status_fd {
        Some(fd) if from("status-fd") == Some(LayerKind::Rpc) => Some(reopen(client, fd, inherited)?),
        _ => None,
    };
    if let Some(status) = &status {
        options.status_fd = Some(status.as_raw_fd());
    }
    let to_stderr = opts.log_to_stderr == Some(true);
    options.log_file = match options.log_file.take() {
        named @ Some(_) if matches!(from("log-file"), Some(LayerKind::Rpc | LayerKind::RpcFile)) => named,
        _ if to_stderr || command == Command::Check => None,
        other => other.or_else(|| Some(DEFAULT_LOG.into())),
    };
    if options.log_file.is_some() && work.is_none() {
        return Err(Failure::bad_request("a log file needs images_dir_fd, images_dir or work_dir_fd"));
    }
    match command {
        Command::Dump | Command::PreDump => {
            let peer = client.peer().pid;
            options.tree = options.tree.or((peer > 0).then_some(peer));
            if options.tree.is_none() {
                return Err(Failure::bad_request(
                    "pid is not set, and the client's own is not visible from here",
                ));
            }
        }
        Command::Restore => options.restore_detached = true,
        _ => {}
    }
    options.exec_cmd = false;
    Ok(Job {
        images,
        work,
        client: client.notified(opts.notify_scripts == Some(true)),
        orphan_pts_master: opts.orphan_pts_master == Some(true),
        exec,
        unknown,
        config,
        _status: status,
    })
}

fn refuse_what_only_swrk_can(opts: &CriuOpts, inherited: bool) -> Result<(), Failure> {
    let asked = [
        ("rst_sibling", opts.rst_sibling == Some(true)),
        ("inherit_fd", !opts.inherit_fd.is_empty()),
        ("ps.fd", opts.ps.as_ref().is_some_and(|ps| ps.fd.is_some())),
    ];
    match asked.iter().find(|(_, asked)| *asked && !inherited) {
        Some((field, _)) => {
            Err(Failure::bad_request(format!("{field} is not allowed in a standalone service; use swrk")))
        }
        None => Ok(()),
    }
}

/// Opens both directories and points the options to them.
fn directories(
    options: &mut Options,
    command: Command,
) -> Result<(Option<OwnedFd>, Option<OwnedFd>), Failure> {
    let images = options.images_dir.as_deref().map(|path| directory("images-dir", path)).transpose()?;
    if images.is_none() && command != Command::Check {
        return Err(Failure::bad_request("neither images_dir_fd nor images_dir is set"));
    }
    let work = match &options.work_dir {
        Some(path) => Some(directory("work-dir", path)?),
        None => {
            let copy = images.as_ref().map(OwnedFd::try_clone).transpose();
            copy.map_err(|error| Failure::because(format!("work-dir: {error}"), &error))?
        }
    };
    options.images_dir = images.as_ref().map(here);
    options.work_dir = work.as_ref().map(here);
    Ok((images, work))
}

fn here(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn directory(option: &str, path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty())
        .map_err(|errno| Failure::because(format!("{option} {}: {}", path.display(), errno.desc()), &errno))
}

/// The path to a client's descriptor of a directory: the first that leads to one.
fn locate(client: &Client, fd: RawFd, inherited: bool) -> PathBuf {
    let paths = peer::descriptor_paths(client.peer(), fd, inherited);
    let found = paths.iter().find(|path| path.is_dir()).or(paths.first());
    found
        .cloned()
        .unwrap_or_else(|| format!("descriptor {fd} of the client, which is not visible from here").into())
}

/// Opens a pipe or file behind a client's descriptor for writing.
fn reopen(client: &Client, fd: RawFd, inherited: bool) -> Result<OwnedFd, Failure> {
    // Not to wait for somebody who reads.
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let paths = peer::descriptor_paths(client.peer(), fd, inherited);
    paths
        .iter()
        .find_map(|path| open(path, flags, Mode::empty()).ok())
        .ok_or_else(|| Failure::bad_request(format!("status_fd {fd} of the client cannot be opened")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::decode;
    use criu_images::prost::Message as _;
    use criu_images::proto::{
        CgroupRoot, CriuPageServerInfo, CriuReq, CriuReqType, ExtMountMap, JoinNamespace, UnixSk,
    };
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use proptest::prelude::*;

    fn client() -> Client {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, _) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        Client::new(ours).unwrap()
    }

    fn request() -> CriuReq {
        let opts = CriuOpts {
            images_dir_fd: -1,
            images_dir: Some("/".into()),
            log_level: Some(4),
            ps: Some(CriuPageServerInfo { port: Some(80), fd: Some(7), ..CriuPageServerInfo::default() }),
            cpu_cap: Some(u32::MAX),
            ext_mnt: vec![ExtMountMap { key: "a".into(), val: "b".into() }],
            cg_root: vec![CgroupRoot { ctrl: None, path: "/x".into() }],
            join_ns: vec![JoinNamespace { ns: "net".into(), ns_file: "1".into(), extra_opt: None }],
            unix_sk_ino: vec![UnixSk { inode: 5 }],
            manage_cgroups_mode: Some(6),
            empty_ns: Some(0x4000_0000),
            config_file: Some("no.conf".into()),
            exec_cmd: vec!["true".into()],
            ..CriuOpts::default()
        };
        CriuReq { r#type: CriuReqType::Dump.into(), opts: Some(opts), ..CriuReq::default() }
    }

    #[test]
    fn the_clients_own_pid_is_the_default() {
        let opts = CriuOpts { images_dir_fd: -1, images_dir: Some("/".into()), ..CriuOpts::default() };
        let bytes = CriuReq { opts: Some(opts), ..request() }.encode_to_vec();
        let (message, client) = (decode(&bytes).unwrap(), client());
        let job = prepare(&message, Command::Dump, &client, &Sources::default(), true).unwrap();
        assert_eq!(job.root(), std::process::id() as i32);
        assert_eq!(job.options().log_file.as_deref(), Some(Path::new(DEFAULT_LOG)));
    }

    proptest! {
        #[test]
        fn damaged_requests_give_a_job_or_an_error(at: usize, byte: u8, command in 0..Command::ALL.len()) {
            let mut bytes = request().encode_to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(message) = decode(&bytes) {
                let result = prepare(&message, Command::ALL[command], &client(), &Sources::default(), true);
                if let Err(failure) = result {
                    prop_assert!(failure.errno != 0 && !failure.message.is_empty());
                }
            }
        }
    }
}
