//! Two hundred dumps, each killed at some instant of its first 50 ms: the target lives and counts on every time, and
//! the next dump works.

use criu_testkit::{Criu, Sandbox, Target};
use std::time::{Duration, Instant};

const DUMPS: u64 = 200;

/// From 0 to 50 ms, spread evenly over all dumps but in no order: a golden-ratio sequence.
fn instant_of(dump: u64) -> Duration {
    Duration::from_micros(dump * 30_902 % 50_000)
}

fn spin_until(end: Instant) {
    while Instant::now() < end {
        std::thread::sleep(Duration::from_micros(50));
    }
}

#[test]
fn a_killed_dump_leaves_the_target_alone() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["stress"]).unwrap();
    let before = sandbox.traces().unwrap();
    for dump in 0..DUMPS {
        let command = criu.dump_command(target.pid, "images", &["--leave-running"]).unwrap();
        let start = Instant::now();
        let mut running = sandbox.spawn(command).unwrap();
        spin_until(start + instant_of(dump));
        running.kill().unwrap();
        if let Err(error) = target.check().and_then(|()| target.ready()) {
            panic!(
                "dump {dump}, killed after {:?}: {error:#}\n{}",
                instant_of(dump),
                criu.log("images", "dump.log")
            );
        }
    }
    sandbox.settles_to(&before).unwrap();
    let dumped = criu.dump(target.pid, "last", &[]).unwrap();
    assert!(dumped.status.success(), "{dumped}{}", criu.log("last", "dump.log"));
    let restored = criu.restore("last", &[]).unwrap();
    assert!(restored.status.success(), "{restored}{}", criu.log("last", "restore.log"));
    target.check().unwrap();
}
