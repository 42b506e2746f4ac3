//! `sk_opts_entry`: the options of level `SOL_SOCKET`, common to all kinds of sockets (socket(7)).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use criu_images::proto::{FownEntry, SkOptsEntry, SkShutdown};
use criu_kernel::sockopt;
use criu_resource::Descriptor;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, shutdown};

use crate::error::{Called, Error, Result};
use crate::sys;

const SO_BUF_LOCK: i32 = 72;

pub(crate) fn get(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32> {
    sockopt::get(fd, level, name).called(format!("getsockopt({level}, {name})"))
}

pub(crate) fn set(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<()> {
    sockopt::set(fd, level, name, &value).called(format!("setsockopt({level}, {name}, {value})"))
}

/// The domain (`AF_*`), type (`SOCK_*`) and protocol of a socket; `None` for what is no socket.
pub(crate) fn identity(fd: BorrowedFd<'_>) -> Option<(i32, i32, i32)> {
    let get = |name| sockopt::get::<i32>(fd, libc::SOL_SOCKET, name).ok();
    Some((get(libc::SO_DOMAIN)?, get(libc::SO_TYPE)?, get(libc::SO_PROTOCOL)?))
}

/// The domain (`AF_*`) of a descriptor that is a socket.
pub(crate) fn domain(descriptor: &Descriptor<'_>) -> Option<i32> {
    let is_socket = descriptor.mode & libc::S_IFMT == libc::S_IFSOCK;
    is_socket.then(|| sockopt::get(descriptor.fd, libc::SOL_SOCKET, libc::SO_DOMAIN).ok())?
}

/// Reads all options. `local` tells that it is a unix or netlink socket, which can pass credentials.
pub(crate) fn dump(fd: BorrowedFd<'_>, local: bool) -> Result<SkOptsEntry> {
    let number = |name| get(fd, libc::SOL_SOCKET, name).map(|value| value as u32);
    let flag = |name| get(fd, libc::SOL_SOCKET, name).map(|value| Some(value != 0));
    let time = |name| {
        sockopt::get::<[u64; 2]>(fd, libc::SOL_SOCKET, name).called(format!("getsockopt(timeout {name})"))
    };
    let [send_sec, send_usec] = time(libc::SO_SNDTIMEO)?;
    let [recv_sec, recv_usec] = time(libc::SO_RCVTIMEO)?;
    let [linger_on, linger] =
        sockopt::get::<[i32; 2]>(fd, libc::SOL_SOCKET, libc::SO_LINGER).called("getsockopt(SO_LINGER)")?;
    let device = sockopt::get_bytes(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, libc::IFNAMSIZ)
        .called("getsockopt(SO_BINDTODEVICE)")?;
    let device = device.split(|byte| *byte == 0).next().unwrap_or_default();

    Ok(SkOptsEntry {
        so_sndbuf: number(libc::SO_SNDBUF)?,
        so_rcvbuf: number(libc::SO_RCVBUF)?,
        so_snd_tmo_sec: send_sec,
        so_snd_tmo_usec: send_usec,
        so_rcv_tmo_sec: recv_sec,
        so_rcv_tmo_usec: recv_usec,
        reuseaddr: flag(libc::SO_REUSEADDR)?,
        so_reuseport: flag(libc::SO_REUSEPORT)?,
        so_priority: Some(number(libc::SO_PRIORITY)?),
        so_rcvlowat: Some(number(libc::SO_RCVLOWAT)?),
        so_mark: Some(number(libc::SO_MARK)?).filter(|mark| *mark != 0),
        so_passcred: if local { flag(libc::SO_PASSCRED)? } else { None },
        so_passsec: if local { flag(libc::SO_PASSSEC)? } else { None },
        so_dontroute: flag(libc::SO_DONTROUTE)?,
        so_no_check: flag(libc::SO_NO_CHECK)?,
        so_broadcast: flag(libc::SO_BROADCAST)?,
        so_keepalive: flag(libc::SO_KEEPALIVE)?,
        so_oobinline: Some(number(libc::SO_OOBINLINE)?),
        so_linger: (linger_on != 0).then_some(linger as u32),
        so_bound_dev: (!device.is_empty()).then(|| String::from_utf8_lossy(device).into_owned()),
        so_filter: sys::filter(fd)?,
        // Linux 5.14.
        so_buf_lock: sockopt::get::<u32>(fd, libc::SOL_SOCKET, SO_BUF_LOCK).ok(),
        ..SkOptsEntry::default()
    })
}

/// `SO_BINDTODEVICE`, which counts for bind(2) and connect(2).
pub(crate) fn bind_device(fd: BorrowedFd<'_>, options: &SkOptsEntry) -> Result<()> {
    let Some(device) = &options.so_bound_dev else { return Ok(()) };
    sockopt::set_bytes(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_bytes())
        .called(format!("setsockopt(SO_BINDTODEVICE, {device})"))
}

/// Largest possible buffers, so that queues can be filled whatever their limit was.
pub(crate) fn widen_buffers(fd: BorrowedFd<'_>) -> Result<()> {
    // The kernel doubles the value.
    set_buffers(fd, i32::MAX as u32 / 2, i32::MAX as u32 / 2)
}

fn set_buffers(fd: BorrowedFd<'_>, send: u32, receive: u32) -> Result<()> {
    let either = |force, plain, value: u32| match sockopt::set(fd, libc::SOL_SOCKET, force, &value) {
        Err(Errno::EPERM) => set(fd, libc::SOL_SOCKET, plain, value as i32),
        answer => answer.called(format!("setsockopt({force}, {value})")),
    };
    either(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, send)?;
    either(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, receive)
}

/// Sets all options but the device (see [`bind_device`]) and the two that let addresses be shared
/// (see [`share_address`]).
pub(crate) fn restore(fd: BorrowedFd<'_>, options: &SkOptsEntry) -> Result<()> {
    let number = |name, value: Option<u32>| match value {
        Some(value) => set(fd, libc::SOL_SOCKET, name, value as i32),
        None => Ok(()),
    };
    let flag = |name, value: Option<bool>| match value {
        Some(true) => set(fd, libc::SOL_SOCKET, name, 1),
        _ => Ok(()),
    };
    number(libc::SO_PRIORITY, options.so_priority)?;
    number(libc::SO_RCVLOWAT, options.so_rcvlowat)?;
    number(libc::SO_MARK, options.so_mark)?;
    flag(libc::SO_PASSCRED, options.so_passcred)?;
    flag(libc::SO_PASSSEC, options.so_passsec)?;
    flag(libc::SO_DONTROUTE, options.so_dontroute)?;
    flag(libc::SO_NO_CHECK, options.so_no_check)?;
    flag(libc::SO_BROADCAST, options.so_broadcast)?;
    flag(libc::SO_KEEPALIVE, options.so_keepalive)?;
    flag(libc::SO_OOBINLINE, options.so_oobinline.map(|value| value != 0))?;
    if let Some(linger) = options.so_linger {
        sockopt::set(fd, libc::SOL_SOCKET, libc::SO_LINGER, &[1, linger as i32])
            .called("setsockopt(SO_LINGER)")?;
    }
    // Images of old versions have these three here.
    let keep = |name, value: Option<u32>| match value {
        Some(value) => set(fd, libc::IPPROTO_TCP, name, value as i32),
        None => Ok(()),
    };
    keep(libc::TCP_KEEPCNT, options.tcp_keepcnt)?;
    keep(libc::TCP_KEEPIDLE, options.tcp_keepidle)?;
    keep(libc::TCP_KEEPINTVL, options.tcp_keepintvl)?;
    let time = |name, sec, usec| {
        sockopt::set(fd, libc::SOL_SOCKET, name, &[sec, usec]).called(format!("setsockopt(timeout {name})"))
    };
    time(libc::SO_SNDTIMEO, options.so_snd_tmo_sec, options.so_snd_tmo_usec)?;
    time(libc::SO_RCVTIMEO, options.so_rcv_tmo_sec, options.so_rcv_tmo_usec)?;
    set_buffers(fd, options.so_sndbuf / 2, options.so_rcvbuf / 2)?;
    number(SO_BUF_LOCK, options.so_buf_lock)?;
    if !options.so_filter.is_empty() {
        sys::attach_filter(fd, &options.so_filter)?;
    }
    Ok(())
}

/// Lets the address be shared, so that the order of binding does not matter. `port_too` tells that some
/// socket shares the port by `SO_REUSEPORT`, which all have to have then.
pub(crate) fn share_address(fd: BorrowedFd<'_>, port_too: bool) -> Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if port_too { set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1) } else { Ok(()) }
}

/// `SO_REUSEADDR` and `SO_REUSEPORT` as they were; for when all sockets are bound.
pub(crate) fn settle_address(fd: BorrowedFd<'_>, options: &SkOptsEntry) -> Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, options.reuseaddr().into())?;
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, options.so_reuseport().into())
}

/// Sets the open flags of an entry, `O_NONBLOCK` above all, and the signal that its owner gets.
pub(crate) fn set_flags(fd: BorrowedFd<'_>, flags: u32, owner: &FownEntry) -> Result<()> {
    if owner.signum != 0 {
        sys::set_owner_signal(fd, owner.signum as i32)?;
    }
    let flags = OFlag::from_bits_truncate(flags as i32) - (OFlag::O_ACCMODE | OFlag::O_CLOEXEC);
    fcntl(fd, FcntlArg::F_SETFL(flags)).map(drop).called("fcntl(F_SETFL)")
}

/// Shuts the ends of a socket that were shut.
pub(crate) fn restore_shutdown(fd: BorrowedFd<'_>, how: SkShutdown) -> Result<()> {
    let how = match how {
        SkShutdown::None => return Ok(()),
        SkShutdown::Read => Shutdown::Read,
        SkShutdown::Write => Shutdown::Write,
        SkShutdown::Both => Shutdown::Both,
    };
    match shutdown(fd.as_raw_fd(), how) {
        // It counts all the same.
        Err(Errno::ENOTCONN) => Ok(()),
        answer => answer.called("shutdown"),
    }
}

/// Another descriptor of the same socket.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|error| Error::Call {
        call: "fcntl(F_DUPFD_CLOEXEC)".into(),
        errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn options_come_back_as_they_were() {
        let one = UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = one.as_fd();
        for (name, value) in [
            (libc::SO_BROADCAST, 1),
            (libc::SO_PRIORITY, 3),
            (libc::SO_RCVBUF, 5000),
            (libc::SO_KEEPALIVE, 1),
        ] {
            set(fd, libc::SOL_SOCKET, name, value).unwrap();
        }
        sockopt::set(fd, libc::SOL_SOCKET, libc::SO_LINGER, &[1, 7]).unwrap();
        sockopt::set(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &[3u64, 0]).unwrap();
        let before = dump(fd, false).unwrap();
        assert_eq!((before.so_priority, before.so_linger, before.so_rcv_tmo_sec), (Some(3), Some(7), 3));

        let two = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_ne!(dump(two.as_fd(), false).unwrap(), before);
        restore(two.as_fd(), &before).unwrap();
        settle_address(two.as_fd(), &before).unwrap();
        assert_eq!(dump(two.as_fd(), false).unwrap(), before);
    }
}
