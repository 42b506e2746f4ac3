//! Live: descriptors and terminals.

use criu_testkit::{Criu, Live, Sandbox, Target};
use std::ffi::OsString;

macro_rules! survive {
    ($($fixture:ident)*) => {
        $(#[test]
        fn $fixture() {
            Live::of(stringify!($fixture)).survives();
        })*
    };
}

survive! {
    files unlinked_file odd_names shared_descriptions
    pipes pipe_to_child many_pipes
    in_flight closed_targets many_descriptors bpf_map
    own_ptys own_session job_of_own_session
}

#[test]
fn shell_job() {
    Live::of("shell_job").on_terminal().options(&["--shell-job"]).survives();
}

/// A dump holds as many descriptors as its own limit allows, and fetches the others again.
#[test]
fn more_descriptors_than_criu_rs_may_hold() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["many_descriptors"]).unwrap();
    let mut limited: Vec<OsString> = vec!["prlimit".into(), "--nofile=2500:2500".into()];
    limited.extend(criu.dump_command(target.pid, "images", &["--leave-running"]).unwrap());
    let outcome = sandbox.run(limited).unwrap();
    assert!(outcome.status.success(), "{outcome}{}", criu.log("images", "dump.log"));
    target.check().unwrap();
}
