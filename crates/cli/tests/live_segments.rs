//! Live: System V shared memory.

use criu_testkit::{Criu, Live, Sandbox, Target};

/// The segment with a key outlives the tree, and is taken again.
#[test]
fn segments() {
    Live::of("segments").survives();
}

/// It is gone, and made again.
#[test]
fn segments_that_are_gone() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["segments"]).unwrap();
    let dumped = criu.dump(target.pid, "images", &[]).unwrap();
    assert!(dumped.status.success(), "{dumped}{}", criu.log("images", "dump.log"));
    let removed = sandbox.run(["ipcrm", "--all=shm"]).unwrap();
    assert!(removed.status.success(), "{removed}");
    let restored = criu.restore("images", &[]).unwrap();
    assert!(restored.status.success(), "{restored}{}", criu.log("images", "restore.log"));
    target.check().unwrap();
}

/// Another has its key, or its id: the error names it, and it stays.
#[test]
fn segments_in_the_way() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["segments"]).unwrap();
    let dumped = criu.dump(target.pid, "images", &[]).unwrap();
    assert!(dumped.status.success(), "{dumped}{}", criu.log("images", "dump.log"));
    let remove = || assert!(sandbox.run(["ipcrm", "--all=shm"]).unwrap().status.success());
    let list = || sandbox.run(["ipcs", "-m"]).unwrap().stdout;
    let key = "int(0x47110815)";
    for (make, words) in [
        (format!("import ctypes; c=ctypes.CDLL(None); c.shmget(1, 100, 0o1000); c.shmget({key}, 100, 0o1000)"), "has this key"),
        ("open('/proc/sys/kernel/shm_next_id', 'w').write('0'); import ctypes; ctypes.CDLL(None).shmget(77, 100, 0o1000)".into(), "with this id"),
    ] {
        remove();
        let made = sandbox.run(["python3", "-c", &make]).unwrap();
        assert!(made.status.success(), "{made}");
        let before = list();
        let restored = criu.restore("images", &[]).unwrap();
        let log = criu.log("images", "restore.log");
        assert!(!restored.status.success() && log.contains(words), "{restored}{before}{log}");
        assert_eq!(list(), before);
    }
    remove();
    let restored = criu.restore("images", &[]).unwrap();
    assert!(restored.status.success(), "{restored}");
    target.check().unwrap();
}

/// Its parent has it attached, too, and is not part of the tree.
#[test]
fn segments_of_others() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["segments"]).unwrap();
    let child = sandbox.run(["pgrep", "-P", &target.pid.to_string()]).unwrap();
    let dumped = criu.dump(child.stdout.trim().parse().unwrap(), "images", &["--shell-job"]).unwrap();
    let log = criu.log("images", "dump.log");
    assert!(!dumped.status.success(), "{dumped}");
    assert!(log.contains("(key 0x47110815): processes outside of the tree have it attached"), "{log}");
    target.check().unwrap();
}
