//! A target that counts is seized, infected, cured and released; it must not notice.

use criu_parasite::{Seized, Verdict};
use criu_script::{Arg, Check, Script};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// `threads` threads count and sleep in turn; SIGCHLD and friends untouched; prints a line now and then.
const COUNTER: &str = r#"
import threading, time, sys
counts = [0] * THREADS
def work(i):
    while True:
        counts[i] += 1
        time.sleep(0.001)
for i in range(THREADS):
    threading.Thread(target=work, args=(i,), daemon=True).start()
while True:
    before = counts[:]
    time.sleep(0.05)
    print("ok" if all(a > b for a, b in zip(counts, before)) else "stuck", flush=True)
"#;

struct Target {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Target {
    fn start(threads: usize) -> Target {
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", &COUNTER.replace("THREADS", &threads.to_string())])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut target = Target { child, lines };
        target.counts_on();
        target
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits for three fresh reports that all threads go on.
    fn counts_on(&mut self) {
        let mut fine = 0;
        for _ in 0..200 {
            let mut line = String::new();
            self.lines.read_line(&mut line).unwrap();
            assert_ne!(line, "", "the target died");
            fine = if line == "ok\n" { fine + 1 } else { 0 };
            if fine == 3 {
                return;
            }
        }
        panic!("the target is stuck");
    }

    fn mappings(&self) -> String {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap();
        maps.lines().filter(|line| line.contains("rwxs")).collect()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn who_am_i() -> (Script, criu_script::StepId, criu_script::Data) {
    let mut script = Script::new("test");
    let name = script.zeroed(16);
    script.syscall(libc::SYS_prctl, [Arg::from(libc::PR_GET_NAME), name.into()]);
    let pid = script.syscall(libc::SYS_getpid, []).check(Check::Any).id();
    (script, pid, name)
}

#[test]
fn scripts_run_in_all_threads_and_leave_no_trace() {
    let mut target = Target::start(5);
    for _ in 0..20 {
        let seized = Seized::seize(target.pid()).unwrap();
        assert_eq!(seized.threads().len(), 6);
        let (script, pid, name) = who_am_i();
        let mut infected = seized.infect(vec![Some(script); 6]).unwrap();
        for outcome in infected.run().unwrap() {
            let outcome = outcome.unwrap();
            assert_eq!(outcome.failed(), None);
            assert_eq!(outcome.ret(pid), i64::from(target.pid()));
            assert_eq!(&outcome.bytes(name)[..7], b"python3");
        }
        infected.cure().unwrap().release(Verdict::Run).unwrap();
    }
    assert_eq!(target.mappings(), "");
    target.counts_on();
}

#[test]
fn a_failing_step_is_named() {
    let mut target = Target::start(1);
    let mut script = Script::new("test");
    script.syscall(libc::SYS_getpid, []);
    script.syscall(libc::SYS_close, [Arg::from(-1)]);
    let last = script.syscall(libc::SYS_getpid, []).id();
    let mut infected = Seized::seize(target.pid()).unwrap().infect(vec![Some(script)]).unwrap();
    let outcome = infected.run().unwrap().remove(0).unwrap();
    assert_eq!(outcome.failed(), Some(1));
    assert_eq!(outcome.ret(last), 0, "not run");
    drop(infected);
    assert_eq!(target.mappings(), "");
    target.counts_on();
}

/// The tracer is killed at every step of the way; the target goes on by itself.
#[test]
fn target_outlives_its_tracer() {
    let mut target = Target::start(3);
    let pid = target.pid();
    for step in 0..4 {
        // SAFETY: the child of this fork only traces, then dies by its own hand.
        let tracer = match unsafe { libc::fork() } {
            0 => {
                let seized = Seized::seize(pid).unwrap();
                if step > 0 {
                    let (script, ..) = who_am_i();
                    let mut infected = seized.infect(vec![Some(script); 4]).unwrap();
                    match step {
                        1 => {}
                        2 => infected.start_only(),
                        _ => drop(infected.run()),
                    }
                    std::mem::forget(infected);
                } else {
                    std::mem::forget(seized);
                }
                std::thread::sleep(Duration::from_millis(20));
                // SAFETY: kills this process itself.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
                unreachable!()
            }
            tracer => tracer,
        };
        let mut status = 0;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(tracer, &mut status, 0) };
        assert_eq!(libc::WTERMSIG(status), libc::SIGKILL, "step {step}: {status:x}");
        target.counts_on();
    }
}

#[test]
fn refusals_say_why() {
    let refusal = |pid| Seized::seize(pid).err().unwrap().to_string();
    assert!(refusal(std::process::id() as i32).contains("criu-rs itself"));
    assert!(refusal(2).contains("kernel thread"));
    let mut gone = Command::new("true").arg0("true").spawn().unwrap();
    gone.wait().unwrap();
    assert!(refusal(gone.id() as i32).contains("no such process"));
    let target = Target::start(1);
    let held = Seized::seize(target.pid()).unwrap();
    let pid = target.pid();
    let other = std::thread::spawn(move || Seized::seize(pid).err().unwrap().to_string()).join().unwrap();
    assert!(other.contains("is traced by pid"), "{other}");
    drop(held);
}

#[test]
fn a_copy_of_the_memory_ends_with_its_handle() {
    let mut target = Target::start(3);
    let seized = Seized::seize(target.pid()).unwrap();
    let (seized, copy) = seized.copy_memory().unwrap();
    let copy = copy.unwrap();
    let at = seized.threads()[0].regs.rsp;
    let word = |pid: i32| {
        let mut word = [0; 8];
        criu_kernel::memory::read_exact(criu_kernel::Pid::from_raw(pid), at, &mut word).unwrap();
        word
    };
    assert_eq!(word(copy.pid()), word(target.pid()), "the same stack");
    let parent = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split(' ').nth(2)?.parse::<i32>().ok()
    };
    assert_ne!(parent(copy.pid()), Some(target.pid()), "no child of the target");
    let open = std::fs::read_dir(format!("/proc/{}/fd", copy.pid())).unwrap().count();
    assert_eq!(open, 0, "no file of the target is held");
    seized.release(Verdict::Run).unwrap();
    target.counts_on();
    let pid = copy.pid();
    drop(copy);
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let ended = || state().is_none_or(|stat| stat.contains(") Z "));
    assert!((0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        ended()
    }));
    target.counts_on();
}
