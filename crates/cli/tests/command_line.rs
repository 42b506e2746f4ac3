//! The binary as people and programs call it: what it prints, and its exit code.

use criu_images::prost::Message;
use criu_images::proto::{CriuReq, CriuReqType as Kind, CriuResp};
use criu_testkit::{Sandbox, criu};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A command with a home of its own.
fn command(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(criu());
    command.args(words).current_dir(home).env("HOME", home).env_remove("CRIU_CONFIG_FILE");
    command
}

fn run(home: &Path, words: &[&str]) -> Output {
    command(home, words).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn it_is_the_same_under_the_name_criu() {
    let home = TempDir::new().unwrap();
    let link = home.path().join("criu");
    symlink(criu(), &link).unwrap();
    for words in
        [&["--version"][..], &["--help"], &["dump", "--help"], &["config", "show"], &["dump"], &["x"]]
    {
        let [one, other] = [&criu(), &link].map(|program| {
            let output = Command::new(program).args(words).env("HOME", home.path()).output().unwrap();
            let error = stderr(&output).split_once(')').map(|(_, text)| text.to_owned()); // without the time
            (output.status.code(), stdout(&output), error)
        });
        assert_eq!(one, other, "{words:?}");
    }
    assert!(stdout(&run(home.path(), &["--version"])).starts_with("Version: 4.2\ncriu-rs "));
}

#[test]
fn help_fits_eighty_columns() {
    let home = TempDir::new().unwrap();
    let general = stdout(&run(home.path(), &["--help"]));
    let listed = general.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<_> = listed.map_while(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() >= 11, "{general}");
    let two = ["cpuinfo dump", "cpuinfo check", "config show", "config check", ""];
    for name in commands.into_iter().chain(two) {
        let words: Vec<_> = name.split_whitespace().chain(["-h"]).collect();
        let output = run(home.path(), &words);
        assert!(output.status.success(), "{name}");
        let help = stdout(&output);
        let long: Vec<_> = help.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(help.contains("Usage: criu-rs") && long.is_empty(), "{name}: {long:?}");
    }
}

#[test]
fn config_show_names_the_winner_and_the_loser() {
    let home = TempDir::new().unwrap();
    fs::create_dir(home.path().join(".criu")).unwrap();
    let file = home.path().join(".criu/default.conf");
    fs::write(&file, "# mine\ntcp-established\nexternal \"mnt[/a b]:c\"\n").unwrap();
    let mut show = command(home.path(), &["config", "show", "--no-tcp-established"]);
    show.env("CRIU_TIMEOUT", "7").env("CRIU_TIMEOUTS", "8");
    let output = show.output().unwrap();
    assert!(output.status.success());
    let place = file.display();
    let lines = stdout(&output);
    let first: Vec<_> = lines.lines().take(4).map(str::trim_end).collect();
    assert_eq!(
        first,
        [
            "timeout                  7            environment".to_owned(),
            format!("tcp-established          off          argument; overrides on ({place}:2)"),
            format!("external                 mnt[/a b]:c  {place}:3 [user-file]"),
            "tree                     -            default".to_owned(),
        ]
    );
    assert_eq!(
        stderr(&output),
        "Warning: the variable CRIU_TIMEOUTS names no option; did you mean CRIU_TIMEOUT?\n"
    );

    let output = show.args(["--format", "json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let option = json.as_array().unwrap().iter().find(|option| option["name"] == "tcp-established").unwrap();
    let value = |value, layer, path, line| serde_json::json!({ "value": value, "layer": layer, "path": path, "line": line });
    let mut expected = value(false, "argument", None, None);
    expected["name"] = "tcp-established".into();
    let path = Some(file.display().to_string());
    expected["overrides"] =
        [value(false, "default", None, None), value(true, "user-file", path, Some(2))].into();
    assert_eq!(*option, expected);
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("bad"), "shel-job\ntimeout soon\nlog-file \"x\n").unwrap();
    let problems = "Error: bad:1: unknown option «shel-job», did you mean «shell-job»?\n\
                    Error: bad:2: timeout: «soon» is not a whole number\n\
                    Error: bad:3: the closing quote is missing\n";
    for words in [&["config", "check", "bad"][..], &["check", "--config", "bad"]] {
        let output = run(home.path(), words);
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(1), problems), "{words:?}");
    }
    let output = run(home.path(), &["check", "--config", "gone"]);
    assert!(!output.status.success() && stderr(&output).contains("gone: No such file"), "{output:?}");
}

#[test]
fn the_log_tells_layers_and_what_was_overridden_in_both_forms() {
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("conf"), "shell-job\nverbosity 4\n").unwrap();
    let words =
        ["dump", "-t", "2147483647", "--no-shell-job", "--config", "conf", "-o", "log", "--log-format"];
    let told = [
        "config: options read from: default < config-file conf < argument",
        "config: option shell-job is off (argument), overriding on (conf:1)",
        "parasite: pid 2147483647: no such process; check the number given with --tree",
    ];
    let output = run(home.path(), &[&words[..], &["text"]].concat());
    assert_eq!((output.status.code(), stderr(&output)), (Some(1), format!("Error: {}\n", told[2])));
    let log = fs::read_to_string(home.path().join("log")).unwrap();
    let ends: Vec<_> = log.lines().filter(|line| told.iter().any(|text| line.ends_with(text))).collect();
    assert_eq!(ends.len(), 3, "{log}");
    assert!(ends.iter().all(|line| line.starts_with("(00.")) && ends[2].contains(") Error ("), "{log}");

    run(home.path(), &[&words[..], &["json"]].concat());
    let log = fs::read_to_string(home.path().join("log")).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let levels = told.map(|text| {
        lines.iter().find(|line| line["message"] == text).map_or("-", |line| line["level"].as_str().unwrap())
    });
    assert_eq!(levels, ["info", "info", "error"], "{log}");
}

#[test]
fn descriptors_are_closed_before_anything_is_opened() {
    let home = TempDir::new().unwrap();
    let held = File::create(home.path().join("held")).unwrap();
    let mut words = vec!["check", "--close", "77", "--close", "78", "--log-file", "log", "--action-script"];
    words.push("/bin/true");
    let mut check = command(home.path(), &words);
    let number = held.as_raw_fd();
    // SAFETY: dup2(2) is async-signal-safe.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut check, move || {
            nix::errno::Errno::result(libc::dup2(number, 77)).map(drop).map_err(Into::into)
        });
    }
    assert!(check.output().unwrap().status.code().is_some());
    let log = fs::read_to_string(home.path().join("log")).unwrap();
    assert!(log.contains("--close 78: Bad file number") && !log.contains("--close 77"), "{log}");
}

#[test]
fn deprecated_commands_say_so() {
    let home = TempDir::new().unwrap();
    for (words, told) in [(&["exec"][..], "deprecated"), (&["show", "x.img"], "crit show")] {
        let output = run(home.path(), words);
        assert!(!output.status.success() && stderr(&output).contains(told), "{output:?}");
    }
}

#[test]
fn a_service_in_the_background_serves() {
    let sandbox = Sandbox::new().unwrap();
    let script = format!(
        "exec {} service --daemon -W {} -o service.log --address its.socket --pidfile its.pid \
         --status-fd 9 9>{}",
        criu().display(),
        sandbox.path("").display(),
        sandbox.path("status").display()
    );
    let started = sandbox.run(["sh", "-c", &script]).unwrap();
    assert!(started.status.success(), "{started}");
    // It has gone to the background before.
    let end = Instant::now() + Duration::from_secs(20);
    while fs::read(sandbox.path("status")).unwrap() != [0] {
        assert!(
            Instant::now() < end,
            "not ready: {}",
            fs::read_to_string(sandbox.path("service.log")).unwrap()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = fs::read_to_string(sandbox.path("its.pid")).unwrap();
    let name = sandbox.run(["cat", &format!("/proc/{pid}/comm")]).unwrap();
    assert_eq!(name.stdout, "criu-rs\n");

    let client = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(client.as_raw_fd(), &UnixAddr::new(&sandbox.path("its.socket")).unwrap()).unwrap();
    let request = CriuReq { r#type: Kind::Version.into(), ..CriuReq::default() };
    send(client.as_raw_fd(), &request.encode_to_vec(), MsgFlags::empty()).unwrap();
    let mut buffer = [0; 1024];
    let length = recv(client.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    let version = CriuResp::decode(&buffer[..length]).unwrap().version.unwrap();
    assert_eq!((version.major_number, version.minor_number), (4, 2));
}
