//! The listening service: many clients, bad ones and foreign ones.

use crate::client::{Connection, Process, again, request};
use criu_images::proto::{CriuOpts, CriuReqType as Kind};
use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};
use proptest::test_runner::{Config, TestRunner};
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Somebody who is not root.
const SOMEBODY: u32 = 23_456;

struct Service {
    _process: Process,
    dir: TempDir,
}

impl Service {
    fn start() -> Service {
        Service::start_in(TempDir::new().unwrap())
    }

    fn start_in(dir: TempDir) -> Service {
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let mut process = again("service", dir.path()).stderr(Stdio::piped()).spawn().unwrap();
        let mut byte = [1];
        process.stderr.take().unwrap().read_exact(&mut byte).unwrap();
        assert_eq!(byte, [0], "ready");
        assert_eq!(fs::read_to_string(dir.path().join("service.pid")).unwrap(), process.id().to_string());
        Service { _process: Process(process), dir }
    }

    fn address(&self) -> PathBuf {
        self.dir.path().join("criu_service.socket")
    }

    fn connect(&self) -> Connection {
        Connection::to(&self.address())
    }

    fn serves(&self) {
        assert!(self.connect().ask(&request(Kind::Version, None)).success);
    }
}

#[test]
fn clients_are_served_side_by_side() {
    let service = Service::start();
    let idle = service.connect();
    service.serves();
    assert!(idle.ask(&request(Kind::Version, None)).success);
    let mode = fs::metadata(service.address()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
}

#[test]
fn its_action_scripts_are_told_that_it_is_ready() {
    let dir = TempDir::new().unwrap();
    let script = dir.path().join("ready.sh");
    fs::write(&script, "#!/bin/sh\necho $CRTOOLS_SCRIPT_ACTION > told\ntest -S criu_service.socket\n")
        .unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let service = Service::start_in(dir);
    assert_eq!(fs::read_to_string(service.dir.path().join("told")).unwrap(), "status-ready\n");
    service.serves();
}

#[test]
fn no_bytes_bring_it_down() {
    let service = Service::start();
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let bytes = proptest::collection::vec(proptest::num::u8::ANY, 1..600);
    runner
        .run(&bytes, |bytes| {
            let client = service.connect();
            client.send_bytes(&bytes).unwrap();
            if let Some(reply) = client.receive() {
                // It happens to be a request; else the answer says that it is none.
                assert!(reply.success || reply.cr_errno() != 0);
            }
            Ok(())
        })
        .unwrap();
    service.serves();
}

#[test]
fn an_answer_to_garbage_says_so() {
    let service = Service::start();
    let client = service.connect();
    client.send_bytes(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let reply = client.receive().unwrap();
    assert_eq!((reply.success, reply.r#type(), reply.cr_errno), (false, Kind::Empty, Some(libc::EBADRQC)));
    assert_eq!(client.receive(), None);
    service.serves();
}

#[test]
fn large_requests_are_refused_unread() {
    let service = Service::start();
    for size in [2 << 20, 10 << 20] {
        let client = service.connect();
        // Root may have a buffer of any size.
        if setsockopt(client.fd(), SndBufForce, &(32 << 20)).is_err() {
            setsockopt(client.fd(), SndBuf, &(32 << 20)).unwrap();
        }
        match client.send_bytes(&vec![0x0a; size]) {
            // The kernel does not even carry it.
            Err(errno) => assert!([Errno::EMSGSIZE, Errno::ENOBUFS].contains(&errno), "{errno}"),
            Ok(()) => {
                let reply = client.receive().unwrap();
                assert!(reply.cr_errmsg().contains("too large"), "{reply:?}");
            }
        }
    }
    service.serves();
}

#[test]
fn clients_that_hang_up_are_no_harm() {
    let service = Service::start();
    for _ in 0..20 {
        drop(service.connect());
        let client = service.connect();
        client.send(&request(Kind::Version, None));
        drop(client);
    }
    service.serves();
}

#[test]
fn what_only_swrk_can_do_is_refused() {
    let service = Service::start();
    let images = File::open(service.dir.path()).unwrap();
    let opts = CriuOpts { images_dir_fd: images.as_raw_fd(), rst_sibling: Some(true), ..CriuOpts::default() };
    let reply = service.connect().ask(&request(Kind::Restore, opts));
    assert_eq!(reply.cr_errno, Some(libc::EBADRQC));
    assert!(reply.cr_errmsg().contains("rst_sibling"), "{reply:?}");
}

#[test]
fn a_client_dumps_its_own_tasks_with_its_own_rights() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not run: it takes root to be two users");
        return;
    }
    let service = Service::start();
    let images = TempDir::new().unwrap();
    std::os::unix::fs::chown(images.path(), Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    let dump = |pid: i32| {
        let mut client = again("dump", service.dir.path());
        client.env("PID", pid.to_string()).env("IMAGES", images.path());
        client.uid(SOMEBODY).gid(SOMEBODY).stderr(Stdio::piped());
        String::from_utf8(client.output().unwrap().stderr).unwrap()
    };
    let own = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .uid(SOMEBODY)
        .gid(SOMEBODY)
        .spawn()
        .map(Process)
        .unwrap();
    assert_eq!(dump(own.pid()), "done");
    let asked = fs::read_to_string(images.path().join("asked")).unwrap();
    assert!(asked.contains(&format!("uid {SOMEBODY}\n")), "{asked}");

    let foreign = Process::target();
    let told = dump(foreign.pid());
    assert!(told.starts_with(&format!("{} ", libc::EPERM)), "{told}");
    assert!(told.contains(&format!("pid {} belongs to user 0", foreign.pid())), "{told}");
    service.serves();
}

#[test]
fn a_client_that_dumps_itself_is_not_asked_while_it_is_frozen() {
    let service = Service::start();
    let dump = |notified: &str| {
        let mut client = again("dump", service.dir.path());
        client.env("PID", "0").env("NOTIFIED", notified).env("IMAGES", service.dir.path());
        String::from_utf8(client.stderr(Stdio::piped()).output().unwrap().stderr).unwrap()
    };
    assert_eq!(dump("false"), "done");
    let told = dump("true");
    assert!(told.contains("notify_scripts"), "{told}");
}

/// The client of the tests above.
pub fn dump_as_somebody_else() -> i32 {
    let variable = |name| std::env::var(name).ok();
    let dir = PathBuf::from(variable(crate::DIR).unwrap());
    let images = File::open(variable("IMAGES").unwrap()).unwrap();
    let opts = CriuOpts {
        images_dir_fd: images.as_raw_fd(),
        pid: variable("PID").and_then(|pid| pid.parse().ok()),
        notify_scripts: variable("NOTIFIED").and_then(|on| on.parse().ok()),
        leave_running: Some(true),
        ..CriuOpts::default()
    };
    let reply = Connection::to(&dir.join("criu_service.socket")).ask(&request(Kind::Dump, opts));
    match reply.success {
        true => eprint!("done"),
        false => eprint!("{} {}", reply.cr_errno(), reply.cr_errmsg()),
    }
    0
}
