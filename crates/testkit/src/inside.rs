//! The parts of `criu-fixture` that a [`crate::Sandbox`] consists of.

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, execvp, fork, setsid};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWPID
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC);

/// `criu-fixture init`: makes the namespaces, prints the pid of their init, stays until standard input ends.
pub fn init() -> Result<()> {
    unshare(NAMESPACES).context("unshare")?;
    let (ready, done) = nix::unistd::pipe()?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(ready);
            become_init()?;
            drop(done);
            reap_until_stdin_ends()
        }
        ForkResult::Parent { child } => {
            drop(done);
            nix::unistd::read(&ready, &mut [0])?;
            println!("{child}");
            waitpid(child, None)?;
            Ok(())
        }
    }
}

fn become_init() -> Result<()> {
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("private mounts")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), nothing).context("/proc")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), nothing).context("/run")?;
    let options = "newinstance,ptmxmode=0666,mode=0620";
    mount(Some("devpts"), "/dev/pts", Some("devpts"), MsFlags::empty(), Some(options)).context("/dev/pts")?;
    mount(Some("/dev/pts/ptmx"), "/dev/ptmx", nothing, MsFlags::MS_BIND, nothing).context("/dev/ptmx")?;
    raise_loopback().context("loopback device")
}

fn raise_loopback() -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as _;
    request.ifr_name[1] = b'o' as _;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as _;
    // SAFETY: the kernel reads one ifreq.
    nix::errno::Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) })?;
    Ok(())
}

fn reap_until_stdin_ends() -> Result<()> {
    extern "C" fn wake(_: i32) {}
    let child_signal = SigSet::from(Signal::SIGCHLD);
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&child_signal), Some(&mut before))?;
    let action = SigAction::new(SigHandler::Handler(wake), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGCHLD, &action) }?;
    let input = std::io::stdin();
    loop {
        while !matches!(
            waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)),
            Err(_) | Ok(WaitStatus::StillAlive)
        ) {}
        let mut poll = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        if ppoll(&mut poll, None, Some(before)).is_ok() {
            return Ok(());
        }
    }
}

fn join(init: &str) -> Result<()> {
    let pid: i32 = init.parse().context("pid of the sandbox's init")?;
    // SAFETY: pidfd_open gives a descriptor of our own or an error.
    let pidfd = unsafe {
        OwnedFd::from_raw_fd(nix::errno::Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0))? as i32)
    };
    let here = std::env::current_dir()?;
    setns(&pidfd, NAMESPACES).context("setns")?;
    std::env::set_current_dir(here)?;
    Ok(())
}

fn replace_stdio(input: impl AsFd, output: Option<impl AsFd>) -> Result<()> {
    dup2_stdin(input)?;
    if let Some(output) = output {
        dup2_stdout(&output)?;
        dup2_stderr(&output)?;
    }
    Ok(())
}

fn exec(command: &[String]) -> Result<()> {
    // What the caller inherited from elsewhere is no part of a test.
    crate::sys::call(
        libc::SYS_close_range,
        [3, u64::from(u32::MAX), libc::CLOSE_RANGE_CLOEXEC.into(), 0, 0, 0],
    )?;
    let words = command.iter().map(|word| CString::new(word.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    execvp(words.first().context("no command given")?, &words).with_context(|| command[0].clone())?;
    Ok(())
}

/// `criu-fixture enter PID COMMAND…`: runs a command in the namespaces of PID to its end.
pub fn enter(init: &str, command: &[String]) -> Result<()> {
    join(init)?;
    let (lifeline, held) = nix::unistd::pipe()?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(held);
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            let mut parent = [PollFd::new(lifeline.as_fd(), PollFlags::empty())];
            if nix::poll::poll(&mut parent, nix::poll::PollTimeout::ZERO)? > 0 {
                return Ok(()); // it ended before this one was bound to it
            }
            replace_stdio(File::open("/dev/null")?, None::<File>)?;
            exec(command)
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, code) => std::process::exit(code),
            end => bail!("{}: {end:?}", command.join(" ")),
        },
    }
}

/// `criu-fixture start PID OUTPUT COMMAND…`: leaves a command to the init of the namespaces of PID.
pub fn start(init: &str, output: &str, command: &[String]) -> Result<()> {
    join(init)?;
    // Orphans go to the init of their parent's namespace, so that the parent has to be inside as well.
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        // SAFETY: as above.
        ForkResult::Child => match unsafe { fork() }? {
            ForkResult::Child => {
                let output = File::options().create(true).append(true).open(output)?;
                replace_stdio(File::open("/dev/null")?, Some(output))?;
                setsid()?;
                exec(command)
            }
            ForkResult::Parent { .. } => Ok(()),
        },
        ForkResult::Parent { child } => {
            waitpid(child, None)?;
            Ok(())
        }
    }
}

/// `criu-fixture terminal STATUS SCREEN COMMAND…`: plays a terminal with a shell on it, whose foreground job is the
/// command. When that ends, its exit code is in the file STATUS; what it printed is in SCREEN. Never ends.
pub fn terminal(status: &str, screen: &str, command: &[String]) -> Result<()> {
    let pty = nix::pty::openpty(None, None)?;
    // SAFETY: this process has one thread.
    if let ForkResult::Child = unsafe { fork() }? {
        drop(pty.master);
        return shell(pty.slave, status, command);
    }
    drop(pty.slave);
    let mut screen = File::options().create(true).append(true).open(screen)?;
    let mut buffer = [0; 4096];
    loop {
        match nix::unistd::read(&pty.master, &mut buffer) {
            Ok(length) if length > 0 => screen.write_all(&buffer[..length])?,
            _ => return Ok(()),
        }
    }
}

fn shell(terminal: OwnedFd, status: &str, command: &[String]) -> Result<()> {
    setsid()?;
    let path = nix::unistd::ttyname(&terminal)?;
    drop(open(&path, OFlag::O_RDWR, Mode::empty())?); // becomes the controlling terminal
    replace_stdio(&terminal, Some(&terminal))?;
    drop(terminal);
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            // A background group may set the foreground group while it blocks SIGTTOU.
            let stop = SigSet::from(Signal::SIGTTOU);
            sigprocmask(SigmaskHow::SIG_BLOCK, Some(&stop), None)?;
            nix::unistd::tcsetpgrp(std::io::stdin(), nix::unistd::getpid())?;
            sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&stop), None)?;
            exec(command)
        }
        ForkResult::Parent { child } => {
            let code = match waitpid(child, None)? {
                WaitStatus::Exited(_, code) => code,
                WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
                _ => -1,
            };
            crate::sandbox::publish(status.as_ref(), &code.to_string())?;
            loop {
                nix::unistd::pause();
            }
        }
    }
}

/// `criu-fixture traces`: processes, mounts and firewall rules of the sandbox, one a line.
pub fn traces() -> Result<()> {
    let own = std::process::id();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if name.parse::<u32>().is_ok_and(|pid| pid != own) {
            // A process may end while one looks.
            let Ok(stat) = fs::read_to_string(format!("/proc/{name}/stat")) else { continue };
            let (command, rest) = stat.split_at(stat.rfind(')').map_or(stat.len(), |end| end + 1));
            // One that was killed from outside waits for the init out there.
            if rest.starts_with(" Z 0 ") {
                continue;
            }
            println!("process {command}");
        }
    }
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        println!("mount {}", line.split(' ').skip(3).take(2).collect::<Vec<_>>().join(" "));
    }
    if let Ok(rules) = std::process::Command::new("nft").args(["list", "ruleset"]).output() {
        let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
        rules
            .lines()
            .map(str::trim)
            .filter(|line| !is_empty_shell(line))
            .for_each(|line| println!("nft {line}"));
    }
    Ok(())
}

/// Chains without rules, and the two tables that iptables makes by being called.
fn is_empty_shell(line: &str) -> bool {
    let shells = ["chain ", "type ", "table ip filter ", "table ip6 filter ", "}", "#"];
    line.is_empty() || shells.iter().any(|shell| line.starts_with(shell))
}

/// `criu-fixture trace PID`: traces a process until it is killed.
pub fn trace(pid: &str, said: &str) -> Result<()> {
    nix::sys::ptrace::seize(Pid::from_raw(pid.parse()?), nix::sys::ptrace::Options::empty())?;
    crate::sandbox::publish(said.as_ref(), "tracing")?;
    loop {
        nix::unistd::pause();
    }
}

/// `criu-fixture vfork END OVER`: stands in vfork(2), where nothing but SIGKILL reaches it, until there is a file END;
/// then makes OVER.
pub fn vfork(end: &str, over: &str) -> Result<()> {
    let end = CString::new(end)?;
    let mut stack = vec![0; 64 << 10];
    let child = Box::new(|| {
        // SAFETY: a path that outlives the call; no memory of the parent's changes.
        while unsafe { libc::access(end.as_ptr(), libc::F_OK) } != 0 {
            // SAFETY: takes no pointer.
            unsafe { libc::usleep(1000) };
        }
        0
    });
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: the parent stands still while the child uses its memory, and the child has a stack of its own.
    let child = unsafe { nix::sched::clone(child, &mut stack, flags, Some(libc::SIGCHLD)) }?;
    waitpid(child, None)?;
    crate::sandbox::publish(over.as_ref(), "over")
}

/// `criu-fixture measure FILE COMMAND…`: runs a command and writes how many microseconds it took, and the KiB of
/// memory that its largest process had.
pub fn measure(file: &str, command: &[String]) -> Result<()> {
    let (program, arguments) = command.split_first().context("no command given")?;
    let start = std::time::Instant::now();
    let status = std::process::Command::new(program).args(arguments).status()?;
    let took = start.elapsed().as_micros();
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)?;
    fs::write(file, format!("{took} {}", usage.max_rss()))?;
    std::process::exit(status.code().unwrap_or(255))
}
