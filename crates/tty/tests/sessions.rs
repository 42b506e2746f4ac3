//! Controlling terminals, foreground groups, jobs of a shell.

mod common;

use common::{Child, Open, Task, alone, built, dump, infos, restore, run};
use criu_resource::{Fate, Options};
use criu_tty::{Pty, Terminals};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getpid, setpgid, setsid, tcgetpgrp};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

fn pty(index: u32) -> Pty {
    Pty::open(Path::new("/dev/ptmx"), Some(index)).unwrap()
}

fn take(terminal: &OwnedFd) {
    // SAFETY: takes no pointer.
    assert_eq!(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }, 0);
}

fn set_foreground(terminal: &OwnedFd, group: i32) {
    let stop = nix::sys::signal::SigSet::from(nix::sys::signal::Signal::SIGTTOU);
    stop.thread_block().unwrap();
    nix::unistd::tcsetpgrp(terminal, Pid::from_raw(group)).unwrap();
}

fn tty() -> nix::Result<OwnedFd> {
    open("/dev/tty", OFlag::O_RDWR | OFlag::O_NOCTTY, Mode::empty())
}

fn session_of(master: &impl AsFd) -> i32 {
    let mut session = 0;
    // SAFETY: fills one int.
    let done = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGSID, &raw mut session) };
    if done == 0 { session } else { -1 }
}

/// A session leader with `/dev/tty` at 100.
fn leader(master: &Pty) -> Child {
    Child::start(None, || {
        setsid().unwrap();
        take(&master.slave(OFlag::O_RDWR, None).unwrap());
        let tty = tty().unwrap();
        // SAFETY: 100 is nobody's.
        assert_eq!(unsafe { libc::dup2(tty.as_raw_fd(), 100) }, 100);
    })
}

#[test]
fn a_leader_takes_its_terminal_again() {
    let _alone = alone();
    let master = pty(331);
    let leader = leader(&master);
    let sid = leader.0;
    assert_eq!(session_of(&master.master()), sid);
    let tasks = [Task::new(sid)];
    let tty = tasks[0].fetch(100);
    let here = Open(1, master.master(), std::process::id() as i32, master.master().as_raw_fd());
    let files = [Open(2, tty.as_fd(), sid, 100), here];
    let store = dump(&tasks, &files, &Options::default(), Fate::Kill).unwrap();
    for info in infos(&store) {
        assert_eq!((info.sid as i32, info.pgrp as i32), (sid, sid), "{:?}", info.r#type());
    }
    drop((tty, tasks, leader, master));

    let tree = built(&[(sid, sid, sid)]);
    let work = |scripts: &[criu_script::Script]| {
        Child::start(Some(sid), || {
            setsid().unwrap();
            run(&scripts[0]).unwrap();
            let tty = self::tty().expect("the leader has a controlling terminal");
            assert_eq!(tcgetpgrp(&tty).unwrap(), getpid());
        })
    };
    let (files, child) = restore(&Terminals::new(), &store, &tree, &Options::default(), work).unwrap();
    assert_eq!(session_of(&files[&1]), child.0);
    assert_eq!(child.0, sid);
    let link = std::fs::read_link(format!("/proc/self/fd/{}", files[&2].as_raw_fd())).unwrap();
    assert_eq!(link, Path::new("/dev/tty"));
    nix::unistd::write(&files[&1], b"word\n").unwrap();
    let mut line = [0; 16];
    assert_eq!(nix::unistd::read(&files[&2], &mut line).unwrap(), 5, "through /dev/tty");
}

#[test]
fn a_job_of_the_session_is_in_the_foreground_again() {
    let _alone = alone();
    let master = pty(332);
    // The leader bears the job, which inherits its terminal.
    let leader = Child::start(None, || {
        setsid().unwrap();
        let slave = master.slave(OFlag::O_RDWR, None).unwrap();
        take(&slave);
        let job = Child::start(None, || setpgid(Pid::from_raw(0), Pid::from_raw(0)).unwrap());
        set_foreground(&slave, job.0);
        std::mem::forget(job);
    });
    let sid = leader.0;
    let job = tcgetpgrp(master.master()).unwrap().as_raw();
    assert_ne!(job, sid);
    let tasks = [Task::new(sid), Task::new(job)];
    let file = [Open(1, master.master(), std::process::id() as i32, master.master().as_raw_fd())];
    let store = dump(&tasks, &file, &Options::default(), Fate::Kill).unwrap();
    assert_eq!(infos(&store)[0].pgrp as i32, job);
    nix::sys::signal::kill(Pid::from_raw(job), nix::sys::signal::Signal::SIGKILL).unwrap();
    drop((tasks, leader, master));

    // Any group of the session will do here.
    let tree = built(&[(sid, sid, sid), (job, sid, job)]);
    let work = |scripts: &[criu_script::Script]| {
        assert_eq!(scripts[0].steps().len(), 2, "TIOCSCTTY, TIOCSPGRP");
        assert_eq!(scripts[1].steps().len(), 0);
    };
    restore(&Terminals::new(), &store, &tree, &Options::default(), work).unwrap();
}

#[test]
fn the_terminal_of_a_foreign_session_takes_the_option() {
    let _alone = alone();
    let master = pty(333);
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    // Shell and job: only the job is dumped.
    let shell = Child::start(None, || {
        setsid().unwrap();
        let slave = master.slave(OFlag::O_RDWR, None).unwrap();
        take(&slave);
        // SAFETY: 100 is nobody's.
        assert_eq!(unsafe { libc::dup2(slave.as_raw_fd(), 100) }, 100);
        let job = Child::start(None, || setpgid(Pid::from_raw(0), Pid::from_raw(0)).unwrap());
        set_foreground(&slave, job.0);
        std::mem::forget(job);
    });
    let job = tcgetpgrp(master.master()).unwrap().as_raw();
    let tasks = [Task::new(job)];
    let slave = tasks[0].fetch(100);
    let file = || [Open(1, slave.as_fd(), job, 100)];
    let error = dump(&tasks, &file(), &Options::default(), Fate::Kill).unwrap_err().to_string();
    let expected = format!(
        "terminal /dev/pts/333 belongs to session {}, whose leader lies outside of the tree; use --shell-job (or \
         the line `shell-job` in /etc/criu/default.conf)",
        shell.0
    );
    assert_eq!(error, expected);

    let options = Options { shell_job: true, ..Options::default() };
    let store = dump(&tasks, &file(), &options, Fate::Kill).unwrap();
    let info = &infos(&store)[0];
    assert_eq!((info.sid as i32, info.pgrp as i32), (shell.0, job));
    drop((tasks, slave));
    nix::sys::signal::kill(Pid::from_raw(job), nix::sys::signal::Signal::SIGKILL).unwrap();
    drop((shell, master));
    // Its pid is free only now.
    nix::sys::wait::waitpid(Pid::from_raw(job), None).unwrap();

    // Restored from another terminal, by a process that has it as standard input.
    let other = pty(334);
    let restorer = Child::start(None, || {
        setsid().unwrap();
        let terminal = other.slave(OFlag::O_RDWR, None).unwrap();
        take(&terminal);
        // SAFETY: standard input is replaced.
        assert_eq!(unsafe { libc::dup2(terminal.as_raw_fd(), 0) }, 0);
        drop(terminal);
        let session = getpid().as_raw();
        let tree = built(&[(job, session, job)]);
        let work = |scripts: &[criu_script::Script]| {
            std::mem::forget(Child::start(Some(job), || {
                nix::sys::signal::SigSet::all().thread_block().unwrap();
                setpgid(Pid::from_raw(0), Pid::from_raw(0)).unwrap();
                run(&scripts[0]).unwrap();
            }));
        };
        let (files, ()) = restore(&Terminals::new(), &store, &tree, &options, work).unwrap();
        assert_eq!(nix::unistd::ttyname(&files[&1]).unwrap(), Path::new("/dev/pts/334"));
    });
    assert_eq!(tcgetpgrp(other.master()).unwrap().as_raw(), job, "in the foreground");
    nix::sys::signal::kill(Pid::from_raw(job), nix::sys::signal::Signal::SIGKILL).unwrap();
    drop(restorer);
}

#[test]
fn a_shell_job_needs_a_terminal_to_go_to() {
    let _alone = alone();
    let master = pty(335);
    let slave = master.slave(OFlag::O_RDWR, None).unwrap();
    let options = Options { shell_job: true, ..Options::default() };
    let file = [Open(1, slave.as_fd(), std::process::id() as i32, slave.as_raw_fd())];
    let store = dump(&[], &file, &options, Fate::Kill).unwrap();
    Child::start(None, || {
        setsid().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: standard input is replaced.
        assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), 0) }, 0);
        let error = restore(&Terminals::new(), &store, &built(&[]), &options, |_| ()).unwrap_err();
        assert!(error.to_string().contains("has no terminal for it"), "{error}");
    });
}

#[test]
fn a_terminal_that_only_the_session_has_is_refused() {
    let _alone = alone();
    let master = pty(336);
    let leader = Child::start(None, || {
        setsid().unwrap();
        take(&master.slave(OFlag::O_RDWR, None).unwrap());
    });
    let tasks = [Task::new(leader.0)];
    let error = dump(&tasks, &[], &Options::default(), Fate::Kill).unwrap_err().to_string();
    let expected = format!("the controlling terminal /dev/pts/336 of pid {} is open nowhere", leader.0);
    assert!(error.starts_with(&expected), "{error}");
}
