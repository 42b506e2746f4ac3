use super::*;

#[test]
fn own_directory() {
    let dir = ProcDir::current().unwrap();
    let stat = dir.stat().unwrap();
    assert_eq!(stat.pid, Pid::this().as_raw());
    assert!(!stat.is_zombie() && !stat.is_kernel_thread() && stat.start_code != 0);
    let status = dir.status().unwrap();
    assert_eq!(status.uid[1], nix::unistd::geteuid().as_raw());
    assert_eq!(status.tgid, stat.pid);
    assert_eq!(dir.read_link("exe").unwrap(), std::env::current_exe().unwrap());
    assert!(dir.mountinfo().unwrap().iter().any(|m| m.mount_point == Path::new("/proc")));
    assert!(dir.auxv().unwrap().iter().any(|&(kind, value)| kind == 6 && value == 4096));
    assert!(dir.maps().unwrap().iter().any(|vma| vma.start == stat.start_code / 4096 * 4096));
    assert!(dir.oom_score_adj().unwrap() >= -1000);
    match dir.timer_slack_ns() {
        Err(ProcError::Io { source, .. }) => assert_eq!(source.raw_os_error(), Some(libc::EPERM)),
        answer => assert!(answer.unwrap() > 0),
    }
    dir.personality().unwrap();
}

#[test]
fn descriptors_and_threads() {
    use std::os::fd::AsRawFd;
    let dir = ProcDir::current().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut file, b"12345").unwrap();
    let fd = file.as_raw_fd();
    assert!(dir.descriptors().unwrap().contains(&fd));
    let info = dir.fdinfo(fd).unwrap();
    assert_eq!(info.pos, 5);
    assert_eq!(info.flags & (libc::O_ACCMODE | libc::O_CLOEXEC), libc::O_RDWR | libc::O_CLOEXEC);
    let tid = nix::unistd::gettid();
    assert!(dir.threads().unwrap().contains(&tid));
    let thread = dir.thread(tid).unwrap();
    assert_eq!(thread.stat().unwrap().pid, tid.as_raw());
    assert!(!thread.comm().unwrap().is_empty());
}

#[test]
fn a_child_is_seen_until_it_is_gone() {
    let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    let me = ProcDir::current().unwrap();
    assert!(me.children().unwrap().contains(&pid));
    assert!(me.children_of(nix::unistd::gettid()).unwrap().contains(&pid));
    let dir = ProcDir::open(pid).unwrap();
    dir.write("oom_score_adj", "500").unwrap();
    assert_eq!(dir.oom_score_adj().unwrap(), 500);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(dir.stat().unwrap_err().is_gone());
    let error = ProcDir::open(pid).unwrap_err();
    assert!(error.is_gone());
    assert!(error.to_string().starts_with(&format!("cannot open /proc/{pid}: ")));
}

#[test]
fn own_timer() {
    // SAFETY: a sigevent of zeros is valid: SIGEV_SIGNAL is 0.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_NONE;
    event.sigev_signo = libc::SIGUSR2;
    event.sigev_value.sival_ptr = 0x7fff_1234_5678 as *mut libc::c_void;
    let mut id = 0i32;
    // SAFETY: the event is initialised; the kernel stores an int id.
    let r = unsafe { libc::syscall(libc::SYS_timer_create, libc::CLOCK_MONOTONIC, &mut event, &mut id) };
    assert_eq!(r, 0);
    let timers = ProcDir::current().unwrap().timers().unwrap();
    let seen = timers.iter().find(|timer| timer.id == id).unwrap();
    let expected = TimerInfo {
        id,
        signal: libc::SIGUSR2,
        value: 0x7fff_1234_5678,
        notify: TimerNotify::None,
        thread: false,
        target: Pid::this().as_raw(),
        clock: libc::CLOCK_MONOTONIC,
    };
    assert_eq!(*seen, expected);
    // SAFETY: the timer is ours.
    assert_eq!(unsafe { libc::syscall(libc::SYS_timer_delete, id) }, 0);
}

#[test]
fn own_eventfd_and_epoll() {
    use std::os::fd::AsRawFd;
    let dir = ProcDir::current().unwrap();
    let event = nix::sys::eventfd::EventFd::from_value(42).unwrap();
    let info = dir.fdinfo(event.as_raw_fd()).unwrap();
    assert_eq!(info.hex("eventfd-count").unwrap(), 42);
    let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).unwrap();
    let wanted = nix::sys::epoll::EpollEvent::new(nix::sys::epoll::EpollFlags::EPOLLIN, 0xabc);
    epoll.add(&event, wanted).unwrap();
    let info = dir.fdinfo(epoll.0.as_raw_fd()).unwrap();
    let pairs: Vec<_> = parse_pairs(info.get("tfd").unwrap()).collect();
    assert!(pairs.contains(&("data", "abc")), "{pairs:?}");
}
