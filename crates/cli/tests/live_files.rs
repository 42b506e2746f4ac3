//! Live: descriptors and terminals.

use criu_testkit::Live;

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
