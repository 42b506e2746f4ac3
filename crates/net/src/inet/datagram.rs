//! UDP, UDP-Lite and ping sockets (udp(7), icmp(7)).

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use criu_images::proto::{InetSkEntry, SkShutdown};
use criu_kernel::sockdiag::{InetSocket, Protocol, SockDiag};
use criu_kernel::sockopt;

use super::dump::{Basics, InetDump};
use crate::error::{Called, Error, Result};
use crate::options;
use crate::tcp::State;

/// Whether it can be dumped.
pub(super) fn check(fd: BorrowedFd<'_>, basics: &Basics) -> Result<()> {
    if is_udp(basics.protocol) && options::get(fd, libc::IPPROTO_UDP, libc::UDP_CORK)? != 0 {
        return Err(Error::Unsupported("a corked UDP socket (UDP_CORK)".into()));
    }
    // Ping sockets do not tell.
    if sockopt::readable_bytes(fd).is_ok_and(|waiting| waiting > 0) {
        tracing::warn!("net: datagrams that wait at {} are dropped, as the network may do", basics.local);
    }
    Ok(())
}

/// Fills in the state and which ends are shut.
pub(super) fn dump(dump: &mut InetDump<'_>, basics: &Basics, entry: &mut InetSkEntry) -> Result<()> {
    entry.state = if basics.remote.is_some() { State::Established } else { State::Closed } as u32;
    if !is_udp(basics.protocol) {
        return Ok(());
    }
    let seen = dump.seen(entry.ino)?;
    entry.shutdown = Some(match seen.map(|socket| socket.shutdown & 3) {
        Some(1) => SkShutdown::Read,
        Some(2) => SkShutdown::Write,
        Some(3) => SkShutdown::Both,
        _ => SkShutdown::None,
    } as i32);
    Ok(())
}

fn is_udp(protocol: i32) -> bool {
    matches!(protocol, libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE)
}

pub(super) fn ask() -> Result<HashMap<u64, InetSocket>> {
    let diag = SockDiag::open().called("socket(NETLINK_SOCK_DIAG)")?;
    let mut table = HashMap::new();
    for protocol in [Protocol::Udp, Protocol::UdpLite] {
        for family in [libc::AF_INET, libc::AF_INET6] {
            match diag.inet(family, protocol) {
                // The kernel has none of them.
                Err(nix::errno::Errno::ENOENT) => {}
                found => {
                    let found = found.called("sock_diag")?;
                    table.extend(found.into_iter().map(|socket| (socket.inode, socket)));
                }
            }
        }
    }
    Ok(table)
}
