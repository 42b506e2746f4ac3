//! Asks the calling process for its signal actions, timers, limits and scheduling, and prints them as JSON.
//!
//! ```text
//! $ cargo run -q -p criu-task --example snapshot
//! ```
//!
//! The same steps can run in any process that one can make run a script (see `criu-parasite`): only
//! [`here::run`] would be another call.

use criu_images::proto::ThreadCoreEntry;
use criu_kernel::proc::ProcDir;
use criu_script::Script;
use criu_task::{here, limits, sched, signals, timers};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Something to see.
    let two_minutes = libc::timeval { tv_sec: 120, tv_usec: 0 };
    let alarm = libc::itimerval { it_interval: two_minutes, it_value: two_minutes };
    // SAFETY: starts a timer that this process does not live to see, and ignores a signal.
    unsafe {
        libc::setitimer(libc::ITIMER_REAL, &alarm, std::ptr::null_mut());
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
    }

    // The questions: one script.
    let mut script = Script::new("snapshot");
    let asked_actions = signals::ask_actions(&mut script);
    let asked_timers = timers::ask(ProcDir::current()?.timers()?, &mut script);
    let asked_limits = limits::ask(&mut script);
    let asked_scheduling = sched::ask(&mut script);

    // SAFETY: all of the steps only ask.
    let outcome = unsafe { here::run(&script) };
    if let Some(step) = outcome.failed() {
        return Err(format!("{:?} failed", script.steps()[step]).into());
    }

    // The answers: messages of the image format, ready to be stored.
    let actions = asked_actions.entries(&outcome);
    let timers = asked_timers.entry(&outcome, Some)?;
    let limits = asked_limits.entry(&outcome).rlimits;
    let mut thread = ThreadCoreEntry::default();
    asked_scheduling.fill(&outcome, &mut thread)?;

    let not_default = actions.iter().filter(|action| action.sigaction != 0).count();
    println!("{{");
    println!(r#"  "signals": {{ "actions": {}, "not default": {not_default} }},"#, actions.len());
    println!(
        r#"  "alarm": {{ "interval": {}, "left": {}.{:06} }},"#,
        timers.real.isec, timers.real.vsec, timers.real.vusec
    );
    println!(r#"  "posix timers": {},"#, timers.posix.len());
    println!(r#"  "open files": {{ "soft": {}, "hard": {} }},"#, limits[7].cur, limits[7].max);
    println!(r#"  "scheduling": {{ "policy": {}, "nice": {} }}"#, thread.sched_policy(), thread.sched_nice());
    println!("}}");
    Ok(())
}
