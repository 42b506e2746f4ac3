//! Live: process trees, threads, registers, system calls, signals, timers, credentials, attributes.
//!
//! Each test is one fixture of `criu-testkit`: dumped once while it runs on, dumped and restored, and then asked.

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
    sessions zombies orphans exit_signal parent_death_signal many_processes
    threads rseq vectors interrupted_calls
    signal_actions pending_signals alternate_stacks
    interval_timers posix_timers
    other_uid plain_user capabilities securebits no_new_privs not_dumpable
    seccomp_filters seccomp_strict
    rlimits attributes scheduling root
}
