//! Notifications and their answers.

use crate::client::{Process, Swrk, kept_open, request};
use crate::fake::ROOT;
use criu_images::proto::{CriuOpts, CriuReq, CriuReqType as Kind, CriuResp};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn answer(success: bool) -> CriuReq {
    CriuReq { notify_success: Some(success), ..request(Kind::Notify, None) }
}

fn notified(opts: CriuOpts) -> CriuOpts {
    CriuOpts { notify_scripts: Some(true), ..opts }
}

/// The name of a stage and the pid.
fn stage(reply: &CriuResp) -> (String, Option<i32>) {
    assert!(reply.success && reply.r#type() == Kind::Notify, "{reply:?}");
    let notify = reply.notify.clone().expect("a stage");
    (notify.script().to_owned(), notify.pid)
}

#[test]
fn every_stage_is_told_and_answered() {
    let (target, swrk) = (Process::target(), Swrk::start());
    swrk.connection.send(&request(Kind::Dump, notified(swrk.opts(target.pid()))));
    let mut stages = Vec::new();
    let last = loop {
        let reply = swrk.connection.receive().unwrap();
        if reply.r#type() == Kind::Dump {
            break reply;
        }
        stages.push(stage(&reply).0);
        swrk.connection.send(&answer(true));
    };
    assert!(last.success, "{last:?}");
    assert_eq!(stages, ["query-ext-files", "pre-dump", "network-lock", "post-dump"]);
}

#[test]
fn restore_tells_the_pid_and_hands_over_the_terminal() {
    let swrk = Swrk::start();
    let opts = CriuOpts { orphan_pts_master: Some(true), ..notified(swrk.opts(1)) };
    swrk.connection.send(&request(Kind::Restore, opts));
    let mut stages = Vec::new();
    let mut terminal = None;
    loop {
        let (reply, fd) = swrk.connection.receive_with_fd().unwrap();
        if reply.r#type() == Kind::Restore {
            assert!(reply.success);
            break;
        }
        let (name, pid) = stage(&reply);
        assert!(pid == Some(ROOT) || name == "orphan-pts-master");
        assert_eq!(fd.is_some(), name == "orphan-pts-master");
        terminal = terminal.or(fd);
        stages.push(name);
        swrk.connection.send(&answer(true));
    }
    let all =
        ["pre-restore", "setup-namespaces", "post-restore", "orphan-pts-master", "pre-resume", "post-resume"];
    assert_eq!(stages, all);
    assert!(terminal.is_some());
}

#[test]
fn no_terminal_without_notifications() {
    let swrk = Swrk::start();
    let opts = CriuOpts { orphan_pts_master: Some(true), ..swrk.opts(1) };
    let reply = swrk.ask(&request(Kind::Restore, opts));
    assert!(reply.cr_errmsg().contains("notify_scripts"), "{reply:?}");
    assert_eq!(reply.restore.unwrap().pid, -1);
}

#[test]
fn the_client_may_add_external_resources() {
    let (target, swrk) = (Process::target(), Swrk::start());
    let opts = CriuOpts { external: vec!["mnt[a]:b".into()], ..notified(swrk.opts(target.pid())) };
    swrk.connection.send(&request(Kind::Dump, opts));
    assert_eq!(stage(&swrk.connection.receive().unwrap()).0, "query-ext-files");
    let more = CriuOpts { images_dir_fd: -1, external: vec!["file[1:2]".into()], ..CriuOpts::default() };
    let mut reply = swrk.ask(&CriuReq { opts: Some(more), ..answer(true) });
    while reply.r#type() == Kind::Notify {
        reply = swrk.ask(&answer(true));
    }
    assert!(reply.success && swrk.file("asked").contains("external mnt[a]:b file[1:2]"));
}

#[test]
fn a_client_that_disagrees_fails_the_action() {
    let (target, swrk) = (Process::target(), Swrk::start());
    let request = request(Kind::Dump, notified(swrk.opts(target.pid())));
    swrk.connection.send(&kept_open(request));
    let mut reply = swrk.connection.receive().unwrap();
    while reply.r#type() == Kind::Notify {
        reply = swrk.ask(&answer(stage(&reply).0 != "network-lock"));
    }
    assert!(!reply.success && reply.r#type() == Kind::Dump);
    assert!(reply.cr_errmsg().starts_with("network-lock: the RPC client reports"), "{reply:?}");
    assert!(swrk.file("undone").contains("network-lock"));
    assert!(swrk.ask(&crate::client::request(Kind::Version, None)).success);
}

#[test]
fn an_answer_of_another_type_fails_the_action() {
    let (target, swrk) = (Process::target(), Swrk::start());
    swrk.connection.send(&request(Kind::Dump, notified(swrk.opts(target.pid()))));
    stage(&swrk.connection.receive().unwrap());
    let reply = swrk.ask(&request(Kind::Version, None));
    assert_eq!((reply.success, reply.r#type(), reply.cr_errno), (false, Kind::Dump, Some(libc::EBADRQC)));

    let swrk = Swrk::start();
    swrk.connection.send(&request(Kind::Dump, notified(swrk.opts(target.pid()))));
    stage(&swrk.connection.receive().unwrap());
    swrk.connection.send_bytes(&[0xff; 40]).unwrap();
    assert!(!swrk.connection.receive().unwrap().success);
}

#[test]
fn a_client_that_hangs_up_between_stages_undoes_the_action() {
    let (target, swrk) = (Process::target(), Swrk::start());
    swrk.connection.send(&request(Kind::Dump, notified(swrk.opts(target.pid()))));
    swrk.connection.receive().unwrap();
    swrk.connection.send(&answer(true));
    assert_eq!(stage(&swrk.connection.receive().unwrap()).0, "pre-dump");
    let Swrk { connection, mut server, dir, .. } = swrk;
    drop(connection);
    assert_eq!(server.code(), Some(1));
    let undone = std::fs::read_to_string(dir.path().join("undone")).unwrap();
    assert!(undone.contains("hung up"), "{undone}");
}

#[test]
fn a_client_that_hangs_up_stops_a_dump_in_its_course() {
    let (target, swrk) = (Process::target(), Swrk::start());
    let opts = CriuOpts { external: vec!["wait".into()], ..swrk.opts(target.pid()) };
    swrk.connection.send(&request(Kind::Dump, opts));
    let Swrk { connection, mut server, dir, .. } = swrk;
    while !dir.path().join("asked").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(connection);
    assert_eq!(server.code(), Some(1));
    assert_eq!(std::fs::read_to_string(dir.path().join("undone")).unwrap(), "true");
}

#[test]
fn a_signal_ends_the_wait_for_a_silent_client() {
    let (target, swrk) = (Process::target(), Swrk::start());
    swrk.connection.send(&request(Kind::Dump, notified(swrk.opts(target.pid()))));
    stage(&swrk.connection.receive().unwrap());
    kill(Pid::from_raw(swrk.server.pid()), Signal::SIGTERM).unwrap();
    let reply = swrk.connection.receive().unwrap();
    assert_eq!((reply.success, reply.r#type(), reply.cr_errno), (false, Kind::Dump, Some(libc::EINTR)));
}
