//! The line on the terminal while a dump or restore takes longer than a second.

use criu_testkit::{Criu, Sandbox, Target};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread::sleep;
use std::time::Duration;

/// What the line is cleared with.
const CLEAR: &str = "\r\u{1b}[K";

/// An action script that takes its time at a stage.
fn slow(sandbox: &Sandbox, stage: &str) -> String {
    let script = sandbox.path(&format!("slow-{stage}"));
    fs::write(&script, format!("#!/bin/sh\ntest $CRTOOLS_SCRIPT_ACTION != {stage} || sleep 1.6\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script.display().to_string()
}

/// What a command shows on a terminal.
fn screen(criu: &Criu<'_>, name: &str, command: Vec<OsString>) -> String {
    let code = criu.on_terminal(name, command).unwrap();
    sleep(Duration::from_millis(100)); // the terminal may still have something to show
    let screen = fs::read_to_string(criu.sandbox.path(&format!("{name}.screen"))).unwrap_or_default();
    assert_eq!(code, 0, "{name}: {screen}");
    screen
}

#[test]
fn is_shown_and_taken_away_again() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["pipes"]).unwrap();
    let (storing, building) = (slow(&sandbox, "network-lock"), slow(&sandbox, "pre-restore"));
    let dump = criu.dump_command(target.pid, "images", &["--action-script", &storing]).unwrap();
    let shown = screen(&criu, "dump", dump);
    assert!(shown.starts_with(&format!("{CLEAR}dump: storing, 1 s")), "{shown:?}");
    assert!(shown.ends_with(CLEAR), "{shown:?}");

    let restore = criu.restore_command("images", &["--action-script", &building]);
    let shown = screen(&criu, "restore", restore);
    assert!(shown.starts_with(&format!("{CLEAR}restore: building, 1 s")), "{shown:?}");
    assert!(shown.ends_with(CLEAR), "{shown:?}");
    target.check().unwrap();
}

#[test]
fn is_not_shown_for_what_is_quick_or_logged_there_or_no_terminal() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let target = Target::start(&sandbox, &["pipes"]).unwrap();
    let script = slow(&sandbox, "network-lock");
    let dump = |options: &[&str]| {
        let options = [&["--leave-running"], options].concat();
        criu.dump_command(target.pid, "images", &options).unwrap()
    };
    assert_eq!(screen(&criu, "quick", dump(&[])), "");

    // Lines of a log, each whole.
    let words = dump(&["--action-script", &script]);
    let to_stderr = words.into_iter().filter(|word| word != "-o" && word != "dump.log").collect();
    let logged = screen(&criu, "logged", to_stderr);
    assert!(logged.contains("tasks frozen"), "{logged}");
    assert!(logged.lines().all(|line| line.starts_with("(0")), "{logged:?}");

    let piped = sandbox.run(dump(&["--action-script", &script])).unwrap();
    assert!(piped.status.success() && piped.stderr.is_empty() && piped.stdout.is_empty(), "{piped}");
}
