//! A network namespace for a test, with its loopback device up.

use std::os::fd::AsRawFd;

/// Runs a test on a thread in a network namespace of its own; without the right to make one it is skipped,
/// and says so.
pub fn in_own_network(test: impl FnOnce() + Send + 'static) {
    let run = move || {
        if let Err(errno) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: unshare(CLONE_NEWNET): {errno}");
            return;
        }
        raise_loopback();
        test();
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

fn raise_loopback() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // struct ifreq: a name of 16 bytes, then the flags.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&(libc::IFF_UP as u16).to_ne_bytes());
    // SAFETY: the kernel reads one `struct ifreq` of 40 bytes.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, request.as_mut_ptr()) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}
