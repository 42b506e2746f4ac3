//! Fifty rounds of dump and restore of one tree: five processes of eight threads, pipes between them, vector
//! arithmetic in every thread. Nothing is lost.

use criu_testkit::{Criu, Sandbox, Target};

const ROUNDS: usize = 50;

#[test]
fn fifty_rounds_lose_nothing() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["stress"]).unwrap();
    for round in 0..ROUNDS {
        let images = format!("images-{round}");
        let dumped = criu.dump(target.pid, &images, &[]).unwrap();
        assert!(dumped.status.success(), "round {round}: {dumped}{}", criu.log(&images, "dump.log"));
        let restored = criu.restore(&images, &[]).unwrap();
        assert!(restored.status.success(), "round {round}: {restored}{}", criu.log(&images, "restore.log"));
        if let Err(error) = target.check().and_then(|()| target.ready()) {
            panic!("round {round}: {error:#}\n{}", criu.log(&images, "restore.log"));
        }
    }
}
