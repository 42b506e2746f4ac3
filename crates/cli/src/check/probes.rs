//! What the kernel crate cannot find out by itself: our rights, our network lock, programs.

use criu_kernel::{Pid, capability};
use criu_net::lock::Lock;
use criu_resource::NetworkLock;
use nix::sched::{CloneFlags, unshare};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

/// Whether this process may checkpoint and restore others.
pub fn capabilities() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    const CAP_CHECKPOINT_RESTORE: u32 = 40;
    capability::get(Pid::this())
        .is_ok_and(|sets| [CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE].iter().any(|&number| sets.has(number)))
}

/// Locks a connection that there is not, in a network namespace of its own.
pub fn nftables_lock() -> bool {
    let work = || {
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let mut lock = Lock::new(NetworkLock::Nftables, Pid::this().as_raw());
        let end = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        lock.add(end(1), end(2));
        lock.apply().ok()
    };
    std::thread::spawn(work).join().is_ok_and(|answer| answer.is_some())
}

/// Whether iptables for IPv4 and, where the kernel has it, IPv6 use the interface from before nftables.
pub fn legacy_iptables() -> bool {
    let has_ipv6 = std::fs::exists("/proc/net/if_inet6").unwrap_or(false);
    legacy("iptables") && (!has_ipv6 || legacy("ip6tables"))
}

fn legacy(program: &str) -> bool {
    [format!("{program}-legacy"), program.to_owned()].iter().any(|program| {
        let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
        // Older than 1.8: one interface only, and not named.
        output.is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout);
            output.status.success() && !text.contains("nf_tables")
        })
    })
}
