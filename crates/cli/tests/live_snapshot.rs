//! Live: checkpoints of trees that run on, with pages written while they do.

use criu_testkit::{Criu, Sandbox, Target};

/// Snapshots a writer that runs on, ends it, and restores what it was; what the dump warned of.
fn snapshot(fixture: &[&str]) -> String {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, fixture).unwrap();
    let before = sandbox.traces().unwrap();
    let outcome = criu.dump(target.pid, "images", &["--leave-running", "--copy-on-write"]).unwrap();
    assert!(outcome.status.success(), "{outcome}{}", criu.log("images", "dump.log"));
    sandbox.settles_to(&before).expect("the copy is gone, and the tree runs on");

    sandbox.run(["kill", "-9", &target.pid.to_string()]).unwrap();
    let gone = format!("while kill -0 {} 2>/dev/null; do sleep 0.01; done", target.pid);
    sandbox.run(["sh", "-c", &gone]).unwrap();
    let outcome = criu.restore("images", &[]).unwrap();
    assert!(outcome.status.success(), "{outcome}{}", criu.log("images", "restore.log"));
    target.check().expect("the memory of one instant");
    criu.log("images", "dump.log")
}

#[test]
fn a_snapshot_is_of_one_instant() {
    for _ in 0..3 {
        let log = snapshot(&["written_memory"]);
        assert!(log.contains("memory of 1 tasks copied on write"), "{log}");
    }
}

#[test]
fn who_would_see_the_copy_stands_still() {
    let log = snapshot(&["written_memory", "adopts"]);
    assert!(log.contains("memory of 0 tasks copied on write"), "{log}");
    assert!(log.contains("stands still while its memory is written: pid"), "{log}");
}

/// The writer itself goes on, and was not disturbed.
#[test]
fn the_tree_runs_on() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["written_memory"]).unwrap();
    for images in ["first", "second"] {
        let outcome = criu.dump(target.pid, images, &["--leave-running", "--copy-on-write"]).unwrap();
        assert!(outcome.status.success(), "{outcome}{}", criu.log(images, "dump.log"));
        target.check().and_then(|()| target.ready()).unwrap();
    }
}

/// A dump that fails when the tree runs already leaves no copy and no images behind.
#[test]
fn a_late_failure_leaves_nothing_behind() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["written_memory"]).unwrap();
    let before = sandbox.traces().unwrap();
    let images = sandbox.folder("images").unwrap();
    let small = format!("mount -t tmpfs -o size=8m none {}", images.display());
    assert!(sandbox.run(["sh", "-c", &small]).unwrap().status.success());
    let (binary, pid) = (criu.binary.to_str().unwrap(), target.pid.to_string());
    let folder = images.to_str().unwrap();
    let words = [binary, "dump", "-t", &pid, "-D", folder, "-R", "--copy-on-write", "-v1"];
    let outcome = sandbox.run(words).unwrap();
    assert!(!outcome.status.success() && outcome.stderr.contains("No space left on device"), "{outcome}");
    let left = sandbox.run(["ls", folder]).unwrap().stdout;
    assert_eq!(left, "", "no half image");
    sandbox.run(["umount", folder]).unwrap();
    sandbox.settles_to(&before).expect("no copy");
    target.check().unwrap();
}
