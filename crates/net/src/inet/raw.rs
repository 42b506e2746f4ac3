//! Raw sockets (raw(7)).
//!
//! Their peer has no port, so the socket itself does not tell it, and sock_diag(7) knows raw sockets only
//! in some kernels; `/proc/net/raw` always does.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;

use criu_images::proto::InetSkEntry;
use nix::errno::Errno;

use super::dump::InetDump;
use crate::address;
use crate::error::{Error, Result};
use crate::tcp::State;

/// Fills in the state and the peer.
pub(super) fn dump(dump: &mut InetDump<'_>, entry: &mut InetSkEntry) -> Result<()> {
    let peers = match dump.raw_peers.take() {
        Some(peers) => peers,
        None => all()?,
    };
    entry.state = State::Closed as u32;
    if let Some(peer) = peers.get(&entry.ino) {
        entry.state = State::Established as u32;
        entry.dst_addr = address::words(*peer);
    }
    dump.raw_peers = Some(peers);
    Ok(())
}

/// Peers by inode, of all raw sockets of the network namespace.
fn all() -> Result<HashMap<u32, IpAddr>> {
    let mut peers = HashMap::new();
    for (path, family) in
        [("/proc/thread-self/net/raw", libc::AF_INET), ("/proc/thread-self/net/raw6", libc::AF_INET6)]
    {
        match std::fs::File::open(path) {
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            opened => {
                let text = opened.map(BufReader::new).map_err(|error| Error::Call {
                    call: format!("open({path})"),
                    errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
                })?;
                peers.extend(parse(text, family));
            }
        }
    }
    Ok(peers)
}

/// The lines that have a peer.
fn parse(text: impl BufRead, family: i32) -> impl Iterator<Item = (u32, IpAddr)> {
    text.lines().map_while(|line| line.ok()).filter_map(move |line| {
        let mut fields = line.split_whitespace();
        let remote = fields.nth(2)?.split(':').next()?;
        let inode = fields.nth(6)?.parse().ok()?;
        let words: Option<Vec<u32>> = (0..remote.len() / 8)
            .map(|word| u32::from_str_radix(&remote[8 * word..8 * word + 8], 16).ok())
            .collect();
        let peer = address::from_words(family, &words?, 0).ok()?.ip();
        (!peer.is_unspecified()).then_some((inode, peer))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connected_sockets_have_peers() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
   1: 0100007F:0001 0100007F:0000 01 00000000:00000000 00:00000000 00000000     0        0 748404 2 0000000000000000 0
   2: 0100007F:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 748405 2 0000000000000000 0
";
        let peers: Vec<_> = parse(text.as_bytes(), libc::AF_INET).collect();
        assert_eq!(peers, [(748_404, "127.0.0.1".parse().unwrap())]);
    }
}
