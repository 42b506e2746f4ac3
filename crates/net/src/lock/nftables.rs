//! The lock as an nftables table, spoken by netlink: no tool is needed.
//!
//! The table has two sets of (source, port, target, port), one a family, holding each connection in both
//! directions, and the same rules for input and output: accept what has the mark, drop what is in a set.

use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use super::message::{Attributes, Batch, Socket};
use super::{MARK, Pair, table_name};
use crate::error::{Called, Error, Result};

/// Accepted for tables from Linux 5.12 on: it goes with the socket that made it.
const OWNER: u32 = 2;
const CREATE: i32 = libc::NLM_F_CREATE;
/// Elements in one message; their attribute's length has 16 bits.
const CHUNK: usize = 500;
const TCP: u8 = libc::IPPROTO_TCP as u8;

/// The lock of a dump that is under way.
#[derive(Debug)]
pub(super) struct Held {
    /// Where the kernel does not know owned tables, the table to be removed.
    unowned: Option<String>,
    _owner: Socket,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(table) = &self.unowned
            && let Err(error) = remove(table)
        {
            tracing::error!("net: the network stays locked: {error}; run `nft delete table inet {table}`");
        }
    }
}

/// The table of a dump under way.
pub(super) fn temporary_name(root: i32) -> String {
    format!("CRIU-{root}-dump")
}

/// Locks for as long as the answer lives.
pub(super) fn hold(root: i32, pairs: &[Pair]) -> Result<Held> {
    let socket = Socket::open().map_err(Error::NoNftables)?;
    let name = temporary_name(root);
    let stale = table_name(&root.to_string());
    let lock = |flags| {
        let mut batch = Batch::new();
        for table in [&stale, &name] {
            replace(&mut batch, table);
        }
        table(&mut batch, &name, flags, pairs);
        batch.commit(&socket)
    };
    match lock(OWNER) {
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => {
            match lock(0) {
                Err(errno @ Errno::EOPNOTSUPP) => return Err(Error::NoNftables(errno)),
                answer => answer.called(format!("nftables: new table inet {name}"))?,
            }
            Ok(Held { unowned: Some(name), _owner: socket })
        }
        answer => {
            answer.called(format!("nftables: new table inet {name}"))?;
            Ok(Held { unowned: None, _owner: socket })
        }
    }
}

/// Locks until a restore.
pub(super) fn keep(held: Held, root: i32, pairs: &[Pair]) -> Result<()> {
    let socket = Socket::open().called("socket(NETLINK_NETFILTER)")?;
    let name = table_name(&root.to_string());
    let mut batch = Batch::new();
    replace(&mut batch, &name);
    table(&mut batch, &name, 0, pairs);
    batch.commit(&socket).called(format!("nftables: new table inet {name}"))?;
    drop(held);
    Ok(())
}

/// Removes a table; tells whether there was one.
pub(super) fn remove(table: &str) -> Result<bool> {
    let socket = match Socket::open() {
        // A kernel without netfilter holds no lock.
        Err(Errno::EPROTONOSUPPORT) => return Ok(false),
        socket => socket.called("socket(NETLINK_NETFILTER)")?,
    };
    let mut batch = Batch::new();
    batch.add(libc::NFT_MSG_DELTABLE, 0, |m| _ = m.text(TABLE, table));
    match batch.commit(&socket) {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT | Errno::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno).called(format!("nftables: delete table inet {table}")),
    }
}

// First attribute of tables, chains, rules, sets and element lists: the table's name.
const TABLE: u16 = 1;

/// Makes sure that there is no table of this name, whether there was one or not.
fn replace(batch: &mut Batch, name: &str) {
    batch.add(libc::NFT_MSG_NEWTABLE, CREATE, |m| _ = m.text(TABLE, name));
    batch.add(libc::NFT_MSG_DELTABLE, 0, |m| _ = m.text(TABLE, name));
}

/// The form of addresses in one family.
struct Family {
    set: &'static str,
    id: u32,
    /// `NFPROTO_*`
    protocol: u8,
    address_len: u32,
    /// Offset of the source address in the IP header; the target's follows it.
    source: u32,
    /// The `nft` tool's number for the type of an address.
    kind: u32,
}

const FAMILIES: [Family; 2] = [
    Family { set: "conns4", id: 1, protocol: 2, address_len: 4, source: 12, kind: 7 },
    Family { set: "conns6", id: 2, protocol: 10, address_len: 16, source: 8, kind: 8 },
];
/// The `nft` tool's number for the type of a port.
const PORT_KIND: u32 = 13;

/// Adds the whole table to a batch.
fn table(batch: &mut Batch, name: &str, flags: u32, pairs: &[Pair]) {
    batch.add(libc::NFT_MSG_NEWTABLE, CREATE, |m| _ = m.text(TABLE, name).number(2, flags));
    for family in &FAMILIES {
        set(batch, name, family);
        let keys: Vec<_> = pairs
            .iter()
            .filter(|(local, _)| local.is_ipv4() == (family.address_len == 4))
            .flat_map(|(local, remote)| [key(*local, *remote), key(*remote, *local)])
            .collect();
        for keys in keys.chunks(CHUNK) {
            elements(batch, name, family, keys);
        }
    }
    const INPUT: u32 = 1;
    const OUTPUT: u32 = 3;
    for (chain, hook) in [("input", INPUT), ("output", OUTPUT)] {
        batch.add(libc::NFT_MSG_NEWCHAIN, CREATE, |m| {
            m.text(TABLE, name).text(3, chain).nest(4, |m| _ = m.number(1, hook).number(2, 0));
            m.text(7, "filter");
        });
        rule(batch, name, chain, |m| {
            load_meta(m, libc::NFT_META_MARK as u32);
            equals(m, &MARK.to_ne_bytes());
            verdict(m, libc::NF_ACCEPT as u32);
        });
        for family in &FAMILIES {
            rule(batch, name, chain, |m| drop_listed(m, family));
        }
    }
}

fn set(batch: &mut Batch, table: &str, family: &Family) {
    let kind =
        [family.kind, PORT_KIND, family.kind, PORT_KIND].into_iter().fold(0, |all, one| all << 6 | one);
    batch.add(libc::NFT_MSG_NEWSET, CREATE, |m| {
        m.text(TABLE, table).text(2, family.set).number(3, 0).number(4, kind);
        m.number(5, 2 * (family.address_len + 4)).number(10, family.id);
    });
}

/// Source and target as the set has them: each part fills whole 32-bit registers.
fn key(source: SocketAddr, target: SocketAddr) -> Vec<u8> {
    let mut key = Vec::with_capacity(40);
    for end in [source, target] {
        match end.ip() {
            IpAddr::V4(address) => key.extend(address.octets()),
            IpAddr::V6(address) => key.extend(address.octets()),
        }
        key.extend(end.port().to_be_bytes());
        key.extend([0, 0]);
    }
    key
}

fn elements(batch: &mut Batch, table: &str, family: &Family, keys: &[Vec<u8>]) {
    batch.add(libc::NFT_MSG_NEWSETELEM, CREATE, |m| {
        m.text(TABLE, table).text(2, family.set).number(4, family.id);
        m.nest(3, |list| {
            for key in keys {
                list.nest(1, |element| _ = element.nest(1, |data| _ = data.bytes(1, key)));
            }
        });
    });
}

fn rule(batch: &mut Batch, table: &str, chain: &str, expressions: impl FnOnce(&mut Attributes<'_>)) {
    batch.add(libc::NFT_MSG_NEWRULE, CREATE | libc::NLM_F_APPEND, |m| {
        m.text(TABLE, table).text(2, chain).nest(4, expressions);
    });
}

fn drop_listed(m: &mut Attributes<'_>, family: &Family) {
    load_meta(m, libc::NFT_META_NFPROTO as u32);
    equals(m, &[family.protocol]);
    load_meta(m, libc::NFT_META_L4PROTO as u32);
    equals(m, &[TCP]);
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let words = family.address_len / 4;
    let first = libc::NFT_REG32_00 as u32;
    load(m, first, NETWORK, family.source, family.address_len);
    load(m, first + words, TRANSPORT, 0, 2);
    load(m, first + words + 1, NETWORK, family.source + family.address_len, family.address_len);
    load(m, first + 2 * words + 1, TRANSPORT, 2, 2);
    expression(m, "lookup", |m| _ = m.text(1, family.set).number(2, first).number(4, family.id));
    verdict(m, libc::NF_DROP as u32);
}

fn expression(m: &mut Attributes<'_>, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
    m.nest(1, |m| _ = m.text(1, name).nest(2, fill));
}

fn load_meta(m: &mut Attributes<'_>, key: u32) {
    expression(m, "meta", |m| _ = m.number(1, libc::NFT_REG32_00 as u32).number(2, key));
}

fn equals(m: &mut Attributes<'_>, value: &[u8]) {
    expression(m, "cmp", |m| {
        m.number(1, libc::NFT_REG32_00 as u32).number(2, 0).nest(3, |data| _ = data.bytes(1, value));
    });
}

fn load(m: &mut Attributes<'_>, register: u32, base: u32, offset: u32, len: u32) {
    expression(m, "payload", |m| {
        m.number(1, register).number(2, base).number(3, offset).number(4, len);
    });
}

fn verdict(m: &mut Attributes<'_>, code: u32) {
    expression(m, "immediate", |m| {
        m.number(1, 0).nest(2, |data| _ = data.nest(2, |v| _ = v.number(1, code)));
    });
}
