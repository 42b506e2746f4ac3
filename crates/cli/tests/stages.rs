//! Action scripts: which stages there are, what each finds, and what becomes of the tree when one disagrees.

use criu_testkit::{Criu, Outcome, Sandbox, Target};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const DUMP: [&str; 3] = ["pre-dump", "network-lock", "post-dump"];
const RESTORE: [&str; 7] = [
    "pre-restore",
    "setup-namespaces",
    "post-setup-namespaces",
    "post-restore",
    "network-unlock",
    "pre-resume",
    "post-resume",
];

/// A sandbox with a script that notes each stage as `STAGE PID WHAT…`, and fails at the one in the file `refuse`.
struct Case {
    sandbox: Sandbox,
    script: PathBuf,
}

impl Case {
    fn new() -> Case {
        let sandbox = Sandbox::new().unwrap();
        let (script, here) = (sandbox.path("script"), sandbox.path(""));
        let text = format!(
            "#!/bin/sh\n\
             test -e $CRTOOLS_IMAGE_DIR/inventory.img && inventory=inventory\n\
             test -e $CRTOOLS_IMAGE_DIR/pid && pidfile=pidfile\n\
             test -e /proc/$CRTOOLS_INIT_PID/stat && test -n \"$CRTOOLS_INIT_PID\" && task=task\n\
             echo $CRTOOLS_SCRIPT_ACTION ${{CRTOOLS_INIT_PID:-none}} $inventory $pidfile $task >> {0}/stages\n\
             ! grep -qx $CRTOOLS_SCRIPT_ACTION {0}/refuse\n",
            here.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let case = Case { sandbox, script };
        case.refuse("");
        case
    }

    fn refuse(&self, stage: &str) {
        fs::write(self.sandbox.path("refuse"), stage).unwrap();
        fs::write(self.sandbox.path("stages"), "").unwrap();
    }

    fn dump(&self, target: &Target<'_>, options: &[&str]) -> Outcome {
        let options = [&["--action-script", self.script.to_str().unwrap()], options].concat();
        Criu::new(&self.sandbox).dump(target.pid, "images", &options).unwrap()
    }

    fn restore(&self) -> Outcome {
        let options = ["--action-script", self.script.to_str().unwrap()];
        Criu::new(&self.sandbox).restore("images", &options).unwrap()
    }

    fn noted(&self) -> Vec<String> {
        fs::read_to_string(self.sandbox.path("stages")).unwrap().lines().map(str::to_owned).collect()
    }

    /// The stages alone.
    fn stages(&self) -> Vec<String> {
        self.noted().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }
}

#[test]
fn come_in_the_order_of_the_reference() {
    let case = Case::new();
    let mut target = Target::start(&case.sandbox, &["pipes"]).unwrap();
    let pid = target.pid;
    let dumped = case.dump(&target, &["--leave-running"]);
    assert!(dumped.status.success(), "{dumped}");
    assert_eq!(
        case.noted(),
        [
            format!("pre-dump {pid} task"),
            format!("network-lock {pid} task"),
            format!("post-dump {pid} inventory task"),
            format!("network-unlock {pid} inventory task"),
        ]
    );
    case.refuse("");
    let dumped = case.dump(&target, &[]);
    assert!(dumped.status.success(), "{dumped}");
    assert_eq!(case.stages(), DUMP);

    case.refuse("");
    let restored = case.restore();
    assert!(restored.status.success(), "{restored}");
    assert_eq!(case.stages(), RESTORE);
    let noted = case.noted();
    assert_eq!(noted[0], "pre-restore none inventory");
    assert!(noted[1..4].iter().all(|line| line.ends_with(&format!(" {pid} inventory task"))), "{noted:?}");
    let complete = format!(" {pid} inventory pidfile task");
    assert!(noted[4..].iter().all(|line| line.ends_with(&complete)), "{noted:?}");
    target.check().unwrap();
}

#[test]
fn a_server_is_ready() {
    let case = Case::new();
    let (images, script) = (case.sandbox.folder("images").unwrap(), case.script.to_str().unwrap());
    let server = [criu_testkit::criu().to_str().unwrap(), "page-server", "--daemon", "-D"].map(str::to_owned);
    let options = [images.to_str().unwrap(), "--action-script", script].map(str::to_owned);
    let started = case.sandbox.run(server.into_iter().chain(options)).unwrap();
    assert!(started.status.success(), "{started}");
    let end = Instant::now() + Duration::from_secs(20);
    while case.noted() != ["status-ready none"] {
        assert!(Instant::now() < end, "{:?}", case.noted());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_refusal_undoes_a_dump() {
    let case = Case::new();
    let mut target = Target::start(&case.sandbox, &["pipes"]).unwrap();
    let before = case.sandbox.traces().unwrap();
    for (at, stage) in DUMP.iter().enumerate() {
        case.refuse(stage);
        let dumped = case.dump(&target, &[]);
        assert!(!dumped.status.success(), "{stage}: {dumped}");
        let [error] = dumped.errors()[..] else { panic!("one line of error, please: {dumped}") };
        assert!(
            error.contains(&format!("{stage}: action script ")) && error.contains("exited with 1"),
            "{error}"
        );
        // Whoever may have locked the network is told that it is over.
        let mut told = DUMP[..=at].to_vec();
        told.extend((at > 0).then_some("network-unlock"));
        assert_eq!(case.stages(), told);
        let left: Vec<_> = fs::read_dir(case.sandbox.path("images")).unwrap().flatten().collect();
        assert!(left.iter().all(|file| file.file_name() == "dump.log"), "{stage}: {left:?}");
        case.sandbox.settles_to(&before).unwrap();
    }
    target.check().unwrap();
}

#[test]
fn a_refusal_undoes_a_restore_unless_the_tasks_run() {
    let case = Case::new();
    let mut target = Target::start(&case.sandbox, &["pipes"]).unwrap();
    assert!(case.dump(&target, &[]).status.success());
    let before = case.sandbox.traces().unwrap();
    let (last, others) = RESTORE.split_last().unwrap();
    for (at, stage) in others.iter().enumerate() {
        case.refuse(stage);
        let restored = case.restore();
        assert!(!restored.status.success(), "{stage}: {restored}");
        assert!(restored.stderr.contains(stage), "{restored}");
        assert_eq!(case.stages(), RESTORE[..=at]);
        case.sandbox.settles_to(&before).unwrap();
        assert!(!case.sandbox.path("images/pid").exists(), "{stage}: a pid file without a task");
    }
    case.refuse(last);
    let restored = case.restore();
    assert!(restored.status.success(), "{restored}");
    let log = Criu::new(&case.sandbox).log("images", "restore.log");
    assert!(log.lines().any(|line| line.contains("Warn") && line.contains("post-resume")), "{log}");
    target.check().unwrap();
}
