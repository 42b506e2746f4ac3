//! Live: dumps and restores over RPC, with the public crate `rust-criu` and as a container runtime does it.
//!
//! The clients are this very program, started again inside of a sandbox.

#[path = "rpc/migration.rs"]
mod migration;

use anyhow::{Context, Result, ensure};
use criu_images::prost::Message;
use criu_images::proto::{CriuFeatures, CriuOpts, CriuReq, CriuReqType as Kind, CriuResp};
use criu_testkit::{Sandbox, Target, criu};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, recvmsg, send,
    socket, socketpair,
};
use rust_criu::Criu;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What a program started again is to do, in its environment.
const ROLE: &str = "LIVE_ROLE";

/// Not a test: the way in for the programs started again.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let result = match role.as_str() {
        "version" => version(),
        "dump" => dump(),
        "restore" => restore(),
        "runtime" => runtime(),
        "migration" => migration::migration(),
        "given-socket" => migration::given_socket(),
        "console" => console(),
        "somebody" => somebody(),
        _ => Err(anyhow::anyhow!("no such role")),
    };
    if let Err(error) = result {
        eprintln!("{role}: {error:#}");
        std::process::exit(1);
    }
}

/// Runs a role inside, with variables; panics with what it said when it fails.
#[track_caller]
fn play(sandbox: &Sandbox, role: &str, variables: &[(&str, OsString)]) {
    play_as(sandbox, Vec::new(), &std::env::current_exe().unwrap(), role, variables);
}

/// The same by a copy of this program, behind some words that start it.
#[track_caller]
fn play_as(
    sandbox: &Sandbox,
    mut command: Vec<OsString>,
    program: &Path,
    role: &str,
    variables: &[(&str, OsString)],
) {
    command.extend(["env".into(), format!("{ROLE}={role}").into()]);
    for (name, value) in variables {
        let mut word = OsString::from(format!("{name}="));
        word.push(value);
        command.push(word);
    }
    command.push(program.into());
    command.extend(["--exact", "role", "--nocapture", "--test-threads=1"].map(Into::into));
    let outcome = sandbox.run(command).unwrap();
    let logs = ["dump.log", "restore.log", "over.log"].map(|name| {
        let text = fs::read_to_string(sandbox.path("images").join(name)).unwrap_or_default();
        format!("--- {name}\n{text}")
    });
    assert!(outcome.status.success(), "{outcome}{}", logs.join("\n"));
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| name.to_owned())
}

fn images() -> Result<(PathBuf, File)> {
    let path = PathBuf::from(variable("IMAGES")?);
    let file = File::open(&path)?;
    Ok((path, file))
}

#[test]
fn rust_criu_reads_the_version() {
    let sandbox = Sandbox::new().unwrap();
    play(&sandbox, "version", &[]);
}

fn version() -> Result<()> {
    let version = client()?.get_criu_version()?;
    ensure!(version == 40_200, "{version}");
    Ok(())
}

fn client() -> Result<Criu> {
    Ok(Criu::new_with_criu_path(criu().to_str().context("path of the binary")?.into())?)
}

/// rust-criu has no words for these two requests.
#[test]
fn check_and_features_are_those_of_the_command_line() {
    let request = CriuReq { r#type: Kind::Check.into(), ..CriuReq::default() };
    let told = Runtime::start().unwrap().ask(&request, true).unwrap();
    let check = Command::new(criu()).arg("check").output().unwrap();
    assert_eq!(check.status.success(), told.success, "{told:?}");

    let asked = CriuFeatures { mem_track: Some(true), lazy_pages: Some(true), pidfd_store: Some(true) };
    let kind = Kind::FeatureCheck.into();
    let request = CriuReq { r#type: kind, features: Some(asked), ..CriuReq::default() };
    let told = Runtime::start().unwrap().ask(&request, true).unwrap().features.unwrap();
    for (name, told) in [
        ("mem_dirty_track", told.mem_track()),
        ("uffd-noncoop", told.lazy_pages()),
        ("pidfd_store", told.pidfd_store()),
    ] {
        let check = Command::new(criu()).args(["check", "--feature", name]).output().unwrap();
        assert_eq!(check.status.success(), told, "{name}: {}", String::from_utf8_lossy(&check.stderr));
    }
}

#[test]
fn rust_criu_dumps_and_restores() {
    let sandbox = Sandbox::new().unwrap();
    let images = sandbox.folder("images").unwrap();
    let mut target = Target::start(&sandbox, &["pipes"]).unwrap();
    let variables = [("PID", target.pid.to_string().into()), ("IMAGES", images.into_os_string())];
    play(&sandbox, "dump", &variables);
    assert!(!target.alive().unwrap(), "alive after the dump");
    play(&sandbox, "restore", &variables);
    target.check().unwrap();
}

static STAGES: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn noted() -> Vec<String> {
    STAGES.lock().unwrap().clone()
}

fn dump() -> Result<()> {
    let (_, images) = images()?;
    let mut criu = client()?;
    criu.set_pid(variable("PID")?.parse()?);
    criu.set_images_dir_fd(images.as_raw_fd());
    criu.set_log_level(4);
    criu.set_log_file("dump.log".into());
    criu.set_notify_scripts(true);
    criu.set_notify_cb(|stage, _, _| {
        STAGES.lock().unwrap().push(stage.into());
        0
    });
    criu.dump()?;
    let stages = noted();
    ensure!(stages == ["query-ext-files", "pre-dump", "network-lock", "post-dump"], "{stages:?}");
    Ok(())
}

fn restore() -> Result<()> {
    let (_, images) = images()?;
    let mut criu = client()?;
    criu.set_images_dir_fd(images.as_raw_fd());
    criu.set_log_level(4);
    criu.set_log_file("restore.log".into());
    criu.set_rst_sibling(true);
    criu.set_notify_scripts(true);
    criu.set_notify_cb(|stage, notify, _| {
        let pid = notify.has_pid().then(|| format!(" {}", notify.pid()));
        STAGES.lock().unwrap().push(stage.to_owned() + &pid.unwrap_or_default());
        0
    });
    criu.restore()?;
    let pid = variable("PID")?;
    let stages = noted();
    let (first, others) = stages.split_first().context("no stage")?;
    ensure!(first == "pre-restore", "{stages:?}");
    let names = [
        "setup-namespaces",
        "post-setup-namespaces",
        "post-restore",
        "network-unlock",
        "pre-resume",
        "post-resume",
    ];
    ensure!(others == names.map(|name| format!("{name} {pid}")), "{stages:?}");
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = format!("PPid:\t{}\n", std::process::id());
    ensure!(status.contains(&parent), "with rst_sibling the root is not the client's child: {status}");
    Ok(())
}

/// An operator's file reaches criu-rs through a runtime that knows nothing of the options in it.
#[test]
fn a_runtimes_options_are_overridden_by_the_operators_file() {
    let sandbox = Sandbox::new().unwrap();
    let images = sandbox.folder("images").unwrap();
    let mut server = Target::start(&sandbox, &["tcp_server", "127.0.0.1:0"]).unwrap();
    let mut target = Target::start(&sandbox, &["tcp_client"]).unwrap();
    let file = sandbox.path("runtime.conf");
    fs::write(&file, "# for all containers\ntcp-established\nno-shell-job\nlog-file over.log\n").unwrap();
    let variables = [
        ("PID", target.pid.to_string().into()),
        ("IMAGES", images.clone().into_os_string()),
        ("FILE", file.into_os_string()),
    ];
    play(&sandbox, "runtime", &variables);
    target.check().unwrap();
    server.check().unwrap();
}

fn runtime() -> Result<()> {
    let (path, images) = images()?;
    let pid = variable("PID")?.parse()?;
    let request = |kind: Kind, log: &str| CriuReq {
        r#type: kind.into(),
        opts: Some(CriuOpts {
            images_dir_fd: images.as_raw_fd(),
            pid: Some(pid),
            log_level: Some(4),
            log_file: Some(log.into()),
            tcp_established: Some(false),
            shell_job: Some(true),
            notify_scripts: Some(true),
            // What runc and crun always send.
            manage_cgroups: Some(true),
            ext_unix_sk: Some(false),
            file_locks: Some(false),
            ..CriuOpts::default()
        }),
        ..CriuReq::default()
    };

    // Without the file the runtime's word counts.
    let mut runtime = Runtime::start()?;
    let refused = runtime.ask(&request(Kind::Dump, "dump.log"), true)?;
    ensure!(!refused.success && refused.cr_errmsg().contains("tcp-established"), "{refused:?}");
    ensure!(refused.cr_errno() != 0, "{refused:?}");
    ensure!(log_has(&path, "dump.log", refused.cr_errmsg())?, "the log lacks {:?}", refused.cr_errmsg());
    ensure!(Path::new(&format!("/proc/{pid}")).exists(), "the target is gone after a refusal");

    let with_file = |mut request: CriuReq| -> Result<CriuReq> {
        if let Some(opts) = &mut request.opts {
            opts.config_file = Some(variable("FILE")?);
        }
        Ok(request)
    };
    // A runtime that disagrees with a stage fails the dump, and may try again.
    let mut runtime = Runtime::start()?;
    let refused = runtime.ask(&with_file(request(Kind::Dump, "dump.log"))?, false)?;
    ensure!(!refused.success, "{refused:?}");

    // So does one that is gone when it is asked.
    let runtime = Runtime::start()?;
    ensure!(!runtime.hang_up_at(&with_file(request(Kind::Dump, "dump.log"))?, "post-dump")?);
    ensure!(!path.join("inventory.img").exists(), "images of a dump that nobody wants any more");
    ensure!(Path::new(&format!("/proc/{pid}")).exists(), "the target is gone with the runtime");

    let mut runtime = Runtime::start()?;
    let dumped = runtime.ask(&with_file(request(Kind::Dump, "unused.log"))?, true)?;
    ensure!(dumped.success, "{dumped:?}");
    ensure!(runtime.stages.iter().any(|stage| stage == "network-lock"), "{:?}", runtime.stages);
    ensure!(log_has(&path, "over.log", "tcp-established is on")?, "over.log does not tell of the override");
    ensure!(!path.join("unused.log").exists(), "the runtime's log file won");

    let runtime = Runtime::start()?;
    ensure!(!runtime.hang_up_at(&with_file(request(Kind::Restore, "unused.log"))?, "pre-resume")?);
    ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "a restore that nobody wants any more is there");

    let mut runtime = Runtime::start()?;
    let restored = runtime.ask(&with_file(request(Kind::Restore, "unused.log"))?, true)?;
    ensure!(restored.success, "{restored:?}");
    ensure!(restored.restore.map(|restore| restore.pid) == Some(pid), "{restored:?}");
    ensure!(runtime.stages.iter().any(|stage| stage == "network-unlock"), "{:?}", runtime.stages);
    Ok(())
}

/// A container whose console's master its runtime holds: dumped with the session on it, restored on a new one.
#[test]
fn a_runtime_gets_the_other_end_of_the_console() {
    let sandbox = Sandbox::new().unwrap();
    let images = sandbox.folder("images").unwrap();
    let mut job = Target::on_terminal(&sandbox, &["shell_job"]).unwrap();
    // The tree is the shell and its job: a session with a terminal, but not with the terminal's master.
    let found = sandbox.run(["sed", "-n", "s/^PPid:\t//p", &format!("/proc/{}/status", job.pid)]).unwrap();
    let shell = found.stdout.trim();
    let variables = [("PID", shell.into()), ("IMAGES", images.clone().into_os_string())];
    std::thread::scope(|scope| {
        let checked = scope.spawn(move || {
            wait_for(|| images.join("restored").exists())?;
            let verdict = job.check();
            fs::write(images.join("checked"), "")?;
            verdict
        });
        play(&sandbox, "console", &variables);
        checked.join().unwrap().unwrap();
    });
}

fn console() -> Result<()> {
    let (path, images) = images()?;
    let pid = variable("PID")?.parse()?;
    let request = |kind: Kind, orphan: bool| CriuReq {
        r#type: kind.into(),
        opts: Some(CriuOpts {
            images_dir_fd: images.as_raw_fd(),
            pid: Some(pid),
            log_level: Some(4),
            log_file: Some(if kind == Kind::Dump { "dump.log" } else { "restore.log" }.into()),
            notify_scripts: Some(true),
            orphan_pts_master: Some(orphan),
            ..CriuOpts::default()
        }),
        ..CriuReq::default()
    };
    let refused = Runtime::start()?.ask(&request(Kind::Dump, false), true)?;
    ensure!(!refused.success && refused.cr_errmsg().contains("master"), "{refused:?}");
    let dumped = Runtime::start()?.ask(&request(Kind::Dump, true), true)?;
    ensure!(dumped.success, "{dumped:?}");
    // Whoever had the old master may not have noticed yet.
    wait_for(|| !Path::new("/dev/pts/0").exists())?;

    let mut runtime = Runtime::start()?;
    let restored = runtime.ask(&request(Kind::Restore, true), true)?;
    ensure!(restored.success, "{restored:?}");
    ensure!(runtime.stages[..2] == ["pre-restore", "orphan-pts-master"], "{:?}", runtime.stages);
    let mut master = runtime.received.take().context("no master")?;
    fs::write(path.join("restored"), "")?;
    let (mut screen, mut buffer) = (String::new(), [0; 256]);
    while !screen.contains("the job writes") {
        let mut wanted = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        ensure!(poll(&mut wanted, 20_000_u16)? == 1, "the job is silent: {screen:?}");
        let length = master.read(&mut buffer)?;
        screen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    // Without its master the terminal would hang up.
    wait_for(|| path.join("checked").exists())
}

#[track_caller]
fn wait_for(there: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while !there() {
        ensure!(Instant::now() < end, "{}: it does not come", std::panic::Location::caller());
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Somebody who is not root, at a service of root's: his own task is dumped and restored, root's is not.
#[test]
fn a_user_dumps_and_restores_his_own_task() {
    const SOMEBODY: &str = "23456";
    let sandbox = Sandbox::new().unwrap();
    let images = sandbox.folder("images").unwrap();
    let target = Target::start(&sandbox, &["pipes"]).unwrap();
    let folder = sandbox.path("");
    let work = ["service", "-W", folder.to_str().unwrap(), "--address", "socket", "--pidfile", "ready"];
    sandbox.start("service", [&[criu().to_str().unwrap()], &work[..]].concat()).unwrap();
    wait_for(|| sandbox.path("ready").exists()).unwrap();
    // Where the build lies may be closed to others.
    let program = sandbox.path("client");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let ids = ["setpriv", "--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups"].map(OsString::from);
    let variables = [
        ("ROOTS", target.pid.to_string().into()),
        ("IMAGES", images.into_os_string()),
        ("SOCKET", sandbox.path("socket").into_os_string()),
    ];
    play_as(&sandbox, ids.to_vec(), &program, "somebody", &variables);
    assert!(target.alive().unwrap());
}

fn somebody() -> Result<()> {
    let (_, images) = images()?;
    let ask = |kind: Kind, pid: Option<i32>| -> Result<CriuResp> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(Path::new(&variable("SOCKET")?))?)?;
        let log_file = Some(if kind == Kind::Dump { "dump.log" } else { "restore.log" }.into());
        let images_dir_fd = images.as_raw_fd();
        let opts = CriuOpts { images_dir_fd, pid, log_file, log_level: Some(4), ..CriuOpts::default() };
        let request = CriuReq { r#type: kind.into(), opts: Some(opts), ..CriuReq::default() };
        send(socket.as_raw_fd(), &request.encode_to_vec(), MsgFlags::MSG_NOSIGNAL)?;
        let mut buffer = [0; 4096];
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        Ok(CriuResp::decode(&buffer[..length])?)
    };
    let refused = ask(Kind::Dump, Some(variable("ROOTS")?.parse()?))?;
    ensure!(!refused.success && refused.cr_errmsg().contains("belongs to user 0"), "{refused:?}");

    let mut sleep = Command::new("setsid");
    sleep.args(["sleep", "1000"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut own = sleep.spawn()?;
    let pid = own.id() as i32;
    let name = format!("/proc/{pid}/comm");
    wait_for(|| fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"))?;
    let dumped = ask(Kind::Dump, Some(pid))?;
    ensure!(dumped.success, "{dumped:?}");
    own.wait()?;
    let restored = ask(Kind::Restore, None)?;
    ensure!(restored.restore.map(|restore| restore.pid) == Some(pid), "{restored:?}");
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(status.contains("Uid:\t23456\t23456\t23456\t23456\n"), "{status}");
    ensure!(status.contains("CapPrm:\t0000000000000000\n"), "{status}");
    Ok(())
}

fn log_has(images: &Path, name: &str, text: &str) -> Result<bool> {
    Ok(fs::read_to_string(images.join(name)).with_context(|| name.to_owned())?.contains(text))
}

/// A container runtime and the `swrk` that it started.
struct Runtime {
    socket: OwnedFd,
    swrk: Child,
    stages: Vec<String>,
    /// The last descriptor that came with a stage.
    received: Option<File>,
}

impl Runtime {
    fn start() -> Result<Runtime> {
        let (socket, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let swrk = Command::new(criu()).args(["swrk", "0"]).stdin(Stdio::from(theirs)).spawn()?;
        Ok(Runtime { socket, swrk, stages: Vec::new(), received: None })
    }

    /// Makes the last request of a connection.
    fn ask(&mut self, request: &CriuReq, agree: bool) -> Result<CriuResp> {
        let reply = self.ask_more(request, agree)?;
        self.swrk.wait()?;
        Ok(reply)
    }

    /// Sends a request, agrees with every stage or with none, and gives the answer.
    fn ask_more(&mut self, request: &CriuReq, agree: bool) -> Result<CriuResp> {
        self.send(request)?;
        loop {
            let mut buffer = vec![0; 4096];
            let length = self.receive(&mut buffer)?;
            ensure!(length > 0, "swrk hung up after the stages {:?}", self.stages);
            let reply = CriuResp::decode(&buffer[..length])?;
            if reply.r#type() != Kind::Notify {
                return Ok(reply);
            }
            self.stages.extend(reply.notify.map(|notify| notify.script().to_owned()));
            let kind = Kind::Notify.into();
            self.send(&CriuReq { r#type: kind, notify_success: Some(agree), ..CriuReq::default() })?;
        }
    }

    /// Sends a request, agrees until a stage comes, and hangs up; whether `swrk` calls that success.
    fn hang_up_at(mut self, request: &CriuReq, stage: &str) -> Result<bool> {
        self.send(request)?;
        loop {
            let mut buffer = vec![0; 4096];
            let length = self.receive(&mut buffer)?;
            let reply = CriuResp::decode(&buffer[..length])?;
            ensure!(reply.r#type() == Kind::Notify, "no stage {stage}: {reply:?}");
            if reply.notify.is_some_and(|notify| notify.script() == stage) {
                self.socket = File::open("/dev/null")?.into();
                return Ok(self.swrk.wait()?.success());
            }
            let kind = Kind::Notify.into();
            self.send(&CriuReq { r#type: kind, notify_success: Some(true), ..CriuReq::default() })?;
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut control = nix::cmsg_space!([i32; 1]);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let packet = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        for message in packet.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = message {
                // SAFETY: the kernel made this descriptor just now, for us alone.
                self.received = Some(unsafe { File::from_raw_fd(fds[0]) });
            }
        }
        Ok(packet.bytes)
    }

    fn send(&self, request: &CriuReq) -> Result<()> {
        send(self.socket.as_raw_fd(), &request.encode_to_vec(), MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.swrk.kill();
        let _ = self.swrk.wait();
    }
}
