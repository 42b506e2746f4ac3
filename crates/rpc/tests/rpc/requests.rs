//! Every type of request, over `swrk`.

use crate::client::{Process, Swrk, kept_open, request};
use crate::fake::ROOT;
use criu_images::prost::Message;
use criu_images::proto::{CriuFeatures, CriuOpts, CriuReq, CriuReqType as Kind, InheritFd};
use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

#[test]
fn version_is_that_of_the_interface() {
    let mut swrk = Swrk::start();
    let reply = swrk.ask(&kept_open(request(Kind::Version, None)));
    let version = reply.version.expect("a version");
    assert_eq!((version.major_number, version.minor_number, version.gitid), (4, 2, None));
    assert!(swrk.ask(&request(Kind::Version, None)).success, "keep_open");
    assert_eq!(swrk.connection.receive(), None, "not kept open");
    assert_eq!(swrk.server.code(), Some(0));
}

#[test]
fn features_are_told_when_asked_for() {
    let swrk = Swrk::start();
    let features = CriuFeatures { lazy_pages: Some(true), pidfd_store: Some(true), mem_track: None };
    let asked = CriuReq { features: Some(features), ..request(Kind::FeatureCheck, None) };
    let found = swrk.ask(&kept_open(asked)).features.unwrap();
    assert_eq!(found.mem_track, Some(false), "was not asked for");
    assert_eq!((found.lazy_pages, found.pidfd_store), (Some(true), Some(false)));
    assert!(swrk.ask(&request(Kind::FeatureCheck, None)).success, "nothing asked for");
}

#[test]
fn check_needs_no_directory_and_names_what_is_missing() {
    let swrk = Swrk::start();
    let none = CriuOpts { images_dir_fd: -1, ..CriuOpts::default() };
    assert!(swrk.ask(&kept_open(request(Kind::Check, none.clone()))).success);
    assert!(swrk.ask(&kept_open(request(Kind::Check, None))).success);
    let opts = CriuOpts { external: vec!["fail".into()], ..none };
    let reply = swrk.ask(&request(Kind::Check, opts));
    assert!(!reply.success && reply.r#type() == Kind::Check);
    assert_eq!(reply.cr_errno, Some(libc::ENOSYS));
    assert_eq!(reply.cr_errmsg(), "the kernel lacks clone3");
}

#[test]
fn dump_gets_its_options() {
    let (target, swrk) = (Process::target(), Swrk::start());
    let opts = CriuOpts {
        tcp_established: Some(true),
        log_level: Some(4),
        log_file: Some("d.log".into()),
        ..swrk.opts(target.pid())
    };
    let reply = swrk.ask(&request(Kind::Dump, opts));
    assert!(reply.success, "{reply:?}");
    assert_eq!((reply.r#type(), reply.dump.unwrap().restored), (Kind::Dump, Some(false)));
    let asked = swrk.file("asked");
    for line in [&format!("tree Some({})", target.pid()), "tcp-established true", "verbosity 4"] {
        assert!(asked.lines().any(|have| have == line), "{line} in {asked}");
    }
    assert!(swrk.file("d.log").contains("options read from: default < rpc"), "{}", swrk.file("d.log"));
}

#[test]
fn the_cause_of_a_failure_is_told_and_logged() {
    let (target, mut swrk) = (Process::target(), Swrk::start());
    let opts = CriuOpts { external: vec!["fail".into()], ..swrk.opts(target.pid()) };
    let reply = swrk.ask(&request(Kind::Dump, opts));
    assert!(!reply.success);
    assert_eq!(reply.cr_errno, Some(libc::EBUSY));
    assert_eq!(reply.cr_errmsg(), "fd 5: connection to 10.0.0.1:80; use --tcp-established");
    assert!(swrk.file("criu.log").contains(reply.cr_errmsg()));
    assert_eq!(swrk.server.code(), Some(1));
}

#[test]
fn a_client_cannot_have_the_server_dump_the_server() {
    let swrk = Swrk::start();
    let opts = CriuOpts { pid: None, ..swrk.opts(0) };
    let reply = swrk.ask(&request(Kind::Dump, opts));
    assert!(reply.cr_errmsg().contains("The criu itself is within dumped tree"), "{reply:?}");
    assert!(swrk.file("criu.log").contains("The criu itself is within dumped tree"));
}

#[test]
fn a_process_that_is_not_there_is_esrch() {
    let swrk = Swrk::start();
    let reply = swrk.ask(&request(Kind::Dump, swrk.opts(0x3fff_ffff)));
    assert_eq!(reply.cr_errno, Some(libc::ESRCH));
}

#[test]
fn a_crash_or_a_defect_is_an_answer_and_the_next_request_is_served() {
    let (target, swrk) = (Process::target(), Swrk::start());
    let told = |what: &str| {
        let opts = CriuOpts { external: vec![what.into()], ..swrk.opts(target.pid()) };
        swrk.ask(&kept_open(request(Kind::Dump, opts)))
    };
    let reply = told("die");
    assert!(reply.cr_errmsg().contains("worker process was killed"), "{reply:?}");
    assert_eq!(swrk.file("rescued"), target.pid().to_string());
    let reply = told("panic");
    assert!(reply.cr_errmsg().contains("internal error: as told"), "{reply:?}");
    assert!(swrk.ask(&request(Kind::Version, None)).success);
}

#[test]
fn pre_dumps_come_before_a_dump_and_nothing_else() {
    let (target, swrk) = (Process::target(), Swrk::start());
    for kind in [Kind::PreDump, Kind::PreDump, Kind::Dump] {
        let reply = swrk.ask(&request(kind, swrk.opts(target.pid())));
        assert!(reply.success && reply.r#type() == kind, "{reply:?}");
    }
    assert_eq!(swrk.connection.receive(), None);

    let swrk = Swrk::start();
    assert!(swrk.ask(&request(Kind::PreDump, swrk.opts(target.pid()))).success);
    let reply = swrk.ask(&request(Kind::Version, None));
    assert!(!reply.success && reply.r#type() == Kind::Empty);

    let swrk = Swrk::start();
    let reply = swrk.ask(&request(Kind::SinglePreDump, swrk.opts(target.pid())));
    assert!(reply.success && reply.r#type() == Kind::SinglePreDump);
    assert_eq!(swrk.connection.receive(), None);
}

#[test]
fn restore_is_detached_and_gives_the_pid() {
    let swrk = Swrk::start();
    let opts = CriuOpts { rst_sibling: Some(true), pid: None, ..swrk.opts(0) };
    let reply = swrk.ask(&request(Kind::Restore, opts));
    assert_eq!(reply.restore.unwrap().pid, ROOT);
    let asked = swrk.file("asked");
    assert!(asked.contains("detached true\nsibling true"), "{asked}");

    let swrk = Swrk::start();
    let reply = swrk.ask(&kept_open(request(Kind::Restore, swrk.opts(1))));
    assert_eq!((reply.success, reply.cr_errno), (false, Some(libc::EBADRQC)));
}

#[test]
fn after_a_restore_the_clients_command_runs() {
    let swrk = Swrk::start();
    let words = ["sh", "-c", "echo from the command"].map(String::from).to_vec();
    assert!(swrk.ask(&request(Kind::Restore, CriuOpts { exec_cmd: words, ..swrk.opts(1) })).success);
    assert_eq!(swrk.connection.receive(), None);
    let mut server = swrk.server;
    assert_eq!(server.code(), Some(0));
    let log = fs::read_to_string(swrk.dir.path().join("criu.log")).unwrap();
    assert!(log.contains("from the command"), "{log}");
}

#[test]
fn status_fd_is_the_clients() {
    let swrk = Swrk::start();
    let (mut read, write) = std::io::pipe().unwrap();
    let opts = CriuOpts { status_fd: Some(write.as_raw_fd()), ..swrk.opts(1) };
    assert!(swrk.ask(&request(Kind::Restore, opts)).success);
    drop(write);
    let mut bytes = Vec::new();
    read.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, [0]);
}

#[test]
fn a_page_server_can_be_waited_for() {
    let swrk = Swrk::start();
    let reply = swrk.ask(&kept_open(request(Kind::PageServerChld, swrk.opts(1))));
    let server = reply.ps.unwrap();
    assert_eq!(server.port, Some(9876));
    let wait = CriuReq { pid: Some(server.pid() as u32), ..request(Kind::WaitPid, None) };
    let reply = swrk.ask(&kept_open(wait));
    assert_eq!((reply.success, reply.status), (true, Some(5 << 8)));
    let reply = swrk.ask(&kept_open(wait_for(server.pid() as u32)));
    assert_eq!((reply.success, reply.cr_errno), (false, Some(libc::ECHILD)));
    assert!(!swrk.ask(&wait_for(u32::MAX)).success);

    let swrk = Swrk::start();
    assert_eq!(swrk.ask(&request(Kind::PageServer, swrk.opts(1))).r#type(), Kind::PageServer);
}

fn wait_for(pid: u32) -> CriuReq {
    CriuReq { pid: Some(pid), ..request(Kind::WaitPid, None) }
}

#[test]
fn cpu_features() {
    let swrk = Swrk::start();
    assert!(swrk.ask(&kept_open(request(Kind::CpuinfoDump, swrk.opts(1)))).success);
    let reply = swrk.ask(&request(Kind::CpuinfoCheck, swrk.opts(1)));
    assert_eq!(reply.cr_errno, Some(libc::ENOTSUP));
    assert_eq!(reply.cr_errmsg(), "CPUINFO_CHECK is not supported yet");
}

#[test]
fn what_is_no_request_is_refused() {
    let number = |r#type| CriuReq { r#type, ..CriuReq::default() };
    for odd in [request(Kind::Empty, None), request(Kind::Notify, None), number(77), number(-1)] {
        let swrk = Swrk::start();
        let reply = swrk.ask(&odd);
        assert_eq!((reply.success, reply.r#type()), (false, Kind::Empty));
        assert_eq!(reply.cr_errno, Some(libc::EBADRQC));
        assert_eq!(swrk.connection.receive(), None);
    }
}

#[test]
fn bad_options_are_refused_by_name() {
    let target = Process::target();
    let refused = |change: &dyn Fn(&mut CriuOpts), word: &str| {
        let swrk = Swrk::start();
        let mut opts = swrk.opts(target.pid());
        change(&mut opts);
        let reply = swrk.ask(&request(Kind::Dump, opts));
        assert!(!reply.success && reply.r#type() == Kind::Dump);
        assert_eq!(reply.cr_errno.filter(|errno| *errno != libc::ENOENT), Some(libc::EBADRQC), "{reply:?}");
        assert!(reply.cr_errmsg().contains(word), "{word} in {}", reply.cr_errmsg());
        assert!(!swrk.dir.path().join("asked").exists());
    };
    refused(&|opts| opts.log_file = Some("../x.log".into()), "No subdirs are allowed in log_file name");
    refused(&|opts| opts.images_dir_fd = -1, "images_dir");
    refused(&|opts| opts.network_lock = Some(99), "network_lock");
    refused(&|opts| opts.inherit_fd = vec![InheritFd { key: String::new(), fd: -4 }], "inherit-fd");
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let (target, swrk) = (Process::target(), Swrk::start());
    let opts = CriuOpts { images_dir_fd: 987, ..swrk.opts(target.pid()) };
    let reply = swrk.ask(&request(Kind::Dump, opts));
    assert_eq!(reply.cr_errno, Some(libc::ENOENT));
    assert!(reply.cr_errmsg().contains("/fd/987"), "{reply:?}");
}

#[test]
fn a_directory_may_come_by_name() {
    let (target, swrk) = (Process::target(), Swrk::start());
    let images_dir = Some(swrk.dir.path().to_str().unwrap().to_owned());
    let opts = CriuOpts { images_dir_fd: -1, images_dir, ..swrk.opts(target.pid()) };
    assert!(swrk.ask(&request(Kind::Dump, opts)).success);
    assert!(swrk.file("asked").starts_with("dump\n"));
}

#[test]
fn the_clients_file_overrides_its_options_and_files_below_do_not() {
    let (target, scripts) = (Process::target(), tempfile::TempDir::new().unwrap());
    let script = scripts.path().join("action.sh");
    fs::write(&script, "#!/bin/sh\necho $CRTOOLS_SCRIPT_ACTION >> $CRTOOLS_IMAGE_DIR/actions\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let file = scripts.path().join("x.conf");
    let text = format!("log-file other.log\nno-tcp-established\naction-script {}\n", script.display());
    fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let opts = |swrk: &Swrk| CriuOpts {
        tcp_established: Some(true),
        log_file: Some("rpc.log".into()),
        ..swrk.opts(target.pid())
    };

    let swrk = Swrk::start();
    let with_file = CriuOpts { config_file: Some(path.into()), ..opts(&swrk) };
    let reply = swrk.ask(&request(Kind::Dump, with_file));
    assert!(reply.success, "{reply:?}");
    assert!(swrk.file("asked").contains("tcp-established false"));
    let log = swrk.file("other.log");
    assert!(log.contains("tcp-established is off") && log.contains("overriding on (rpc)"), "{log}");
    assert!(!swrk.dir.path().join("rpc.log").exists());
    assert_eq!(swrk.file("actions"), "pre-dump\nnetwork-lock\npost-dump\n");

    let swrk = Swrk::start_with(|command| {
        command.env("CRIU_CONFIG_FILE", path);
    });
    assert!(swrk.ask(&request(Kind::Dump, opts(&swrk))).success);
    assert!(swrk.file("asked").contains("tcp-established true"));
    assert!(swrk.dir.path().join("rpc.log").exists());
}

#[test]
fn a_missing_file_of_the_client_is_a_warning() {
    let (target, swrk) = (Process::target(), Swrk::start());
    let opts = CriuOpts { config_file: Some("/no/such.conf".into()), ..swrk.opts(target.pid()) };
    assert!(swrk.ask(&request(Kind::Dump, opts)).success);
    let log = swrk.file("criu.log");
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("/no/such.conf")), "{log}");
}

#[test]
fn a_broken_file_of_the_client_fails_the_request() {
    let (target, swrk) = (Process::target(), Swrk::start());
    let file = swrk.dir.path().join("x.conf");
    fs::write(&file, "tcp-establishd\n").unwrap();
    let config_file = Some(file.to_str().unwrap().to_owned());
    let reply = swrk.ask(&request(Kind::Dump, CriuOpts { config_file, ..swrk.opts(target.pid()) }));
    assert_eq!(reply.cr_errno, Some(libc::EBADRQC));
    assert!(reply.cr_errmsg().contains("x.conf:1"), "{reply:?}");
}

#[test]
fn unknown_fields_are_reported() {
    let (target, swrk) = (Process::target(), Swrk::start());
    let mut opts = swrk.opts(target.pid()).encode_to_vec();
    opts.extend([0xa0, 0x3f, 1]); // field 1012, varint
    let mut bytes = request(Kind::Dump, None).encode_to_vec();
    bytes.extend([2 << 3 | 2, u8::try_from(opts.len()).unwrap()]);
    bytes.extend(opts);
    swrk.connection.send_bytes(&bytes).unwrap();
    assert!(swrk.connection.receive().unwrap().success);
    let log = swrk.file("criu.log");
    assert!(log.contains("field 1012 of criu_opts"), "{log}");
}

#[test]
fn swrk_wants_a_socket() {
    let mut swrk = Swrk::start_with(|command| {
        command.stdin(Stdio::null());
    });
    assert_eq!(swrk.server.code(), Some(7));
}
