//! The network lock: nothing of the locked TCP connections passes, in either direction, but packets with
//! [`MARK`]. The peer sees silence, neither a reset nor an acknowledgement.
//!
//! A lock has two forms.
//! **While the dump runs** it must not outlive criu-rs, or the target would hang for ever: with nftables
//! the table is *owned* by a netlink socket of ours, so the kernel removes it when we die, however we die
//! (Linux 5.12; before that, and with iptables, rules carry the tree's pid and [`remove_stale`] finds
//! them). **When the images are complete** and the tree is to be killed, [`Lock::keep`] sets the lock in
//! the form that a restore looks for, ours as well as the reference's: the nftables table
//! `inet CRIU-<id>`, or the iptables rules of each connection, without a comment.

mod iptables;
mod message;
mod nftables;

use std::net::SocketAddr;

use criu_images::{Image, Store, StoreExt, proto};
use criu_resource::NetworkLock;

use crate::address::on_the_wire;
use crate::error::Result;

/// Packets with this mark (`SO_MARK`) pass the lock.
pub const MARK: u32 = 0xc114;

/// Two ends of a connection, as they appear on the wire.
pub(crate) type Pair = (SocketAddr, SocketAddr);

/// A lock over connections of one tree. Dropped, it is undone.
#[derive(Debug)]
pub struct Lock {
    method: NetworkLock,
    /// The root task of the tree.
    root: i32,
    pairs: Vec<Pair>,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Nothing,
    Nftables(nftables::Held),
    Iptables(iptables::Held),
}

impl Lock {
    /// A lock that holds nothing yet. `root` is the root task of the tree, in the caller's pid namespace.
    pub fn new(method: NetworkLock, root: i32) -> Self {
        Self { method, root, pairs: Vec::new(), held: Held::Nothing }
    }

    /// Adds a connection; [`Lock::apply`] makes it count.
    pub fn add(&mut self, local: SocketAddr, remote: SocketAddr) {
        self.pairs.push((on_the_wire(local), on_the_wire(remote)));
    }

    /// Locks all connections added so far, in one transaction. What an earlier dump of the same tree left
    /// behind is removed.
    ///
    /// # Errors
    /// [`crate::Error::Call`] when the kernel refuses (`EPERM` without `CAP_NET_ADMIN`),
    /// [`crate::Error::Tool`] when the iptables tools fail.
    pub fn apply(&mut self) -> Result<()> {
        if self.pairs.is_empty() || !matches!(self.held, Held::Nothing) {
            return Ok(());
        }
        self.held = match self.method {
            NetworkLock::Skip => Held::Nothing,
            NetworkLock::Nftables => Held::Nftables(nftables::hold(self.root, &self.pairs)?),
            NetworkLock::Iptables => Held::Iptables(iptables::hold(self.root, &self.pairs)?),
        };
        Ok(())
    }

    /// Turns it into the form that stays until the restore.
    ///
    /// # Errors
    /// As [`Lock::apply`]; then it is undone.
    pub fn keep(mut self) -> Result<()> {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => Ok(()),
            Held::Nftables(held) => nftables::keep(held, self.root, &self.pairs),
            Held::Iptables(held) => iptables::keep(held, &self.pairs),
        }
    }
}

/// What a restore has to unlock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlock {
    method: NetworkLock,
    tables: Vec<String>,
}

impl Unlock {
    /// Reads from the images how the dump locked.
    ///
    /// # Errors
    /// Those of the images.
    pub fn from_images(store: &dyn Store) -> Result<Self> {
        let inventory: proto::InventoryEntry = store.read_one(Image::Inventory, 0)?;
        let roots: Vec<proto::PstreeEntry> = store.read_image(Image::Pstree, 0)?;
        // Old images do not say, and were locked by iptables.
        let method = match inventory.network_lock_method() {
            1 => NetworkLock::Nftables,
            2 => NetworkLock::Skip,
            _ => NetworkLock::Iptables,
        };
        let by_id = inventory.dump_criu_run_id.as_deref().map(table_name);
        let by_pid = roots.first().map(|root| table_name(&root.pid.to_string()));
        Ok(Self { method, tables: by_id.into_iter().chain(by_pid).collect() })
    }

    /// Unlocks these connections. A lock that is not there is no error: the images may come from another
    /// machine.
    ///
    /// # Errors
    /// As [`Lock::apply`].
    pub fn run(&self, pairs: &[(SocketAddr, SocketAddr)]) -> Result<()> {
        match self.method {
            NetworkLock::Skip => Ok(()),
            NetworkLock::Nftables => {
                self.tables.iter().try_for_each(|table| nftables::remove(table).map(drop))
            }
            NetworkLock::Iptables => {
                let pairs: Vec<_> = pairs.iter().map(|(a, b)| (on_the_wire(*a), on_the_wire(*b))).collect();
                iptables::remove(&pairs)
            }
        }
    }
}

/// Removes a lock that a dump of the tree with this root left behind when it was killed; tells whether
/// there was one. For the guard of a dump, once the dump is dead and the tree is to live.
///
/// # Errors
/// As [`Lock::apply`].
pub fn remove_stale(root: i32) -> Result<bool> {
    let mut found = false;
    for table in [nftables::temporary_name(root), table_name(&root.to_string())] {
        found |= nftables::remove(&table)?;
    }
    Ok(found | iptables::remove_stale(root)?)
}

/// The value for `dump_criu_run_id` of the inventory, under which a restore (ours or the reference's)
/// finds the lock of the tree with this root.
pub fn run_id(root: i32) -> String {
    root.to_string()
}

/// The table of a dump: `CRIU-` and its id. The reference has room for 26 characters.
fn table_name(id: &str) -> String {
    format!("CRIU-{id}").chars().take(26).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_images::MemoryStore;

    #[test]
    fn the_table_is_found_by_id_and_by_pid() {
        let store = MemoryStore::default();
        let inventory = proto::InventoryEntry {
            network_lock_method: Some(1),
            dump_criu_run_id: Some("0b0b98b6-2bf6-4bb6-a0b6-6ba6a2a0a2f1".into()),
            ..Default::default()
        };
        store.write_image(Image::Inventory, 0, &[inventory]).unwrap();
        let root = proto::PstreeEntry { pid: 77, ..Default::default() };
        store.write_image(Image::Pstree, 0, &[root]).unwrap();
        let unlock = Unlock::from_images(&store).unwrap();
        assert_eq!(unlock.method, NetworkLock::Nftables);
        assert_eq!(unlock.tables, ["CRIU-0b0b98b6-2bf6-4bb6-a0", "CRIU-77"]);
    }
}
