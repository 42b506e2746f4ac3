//! The inventory: the commit mark of a whole checkpoint. It is written last and appears in one step, so that
//! a directory without it holds no checkpoint that a restore would accept.

use crate::{
    error::{Error, Result},
    frame::{write_entry, write_header},
    magic::Image,
    proto::InventoryEntry,
    store::{Store, StoreExt},
};

/// Format 1.0: images begin with their own magic alone.
pub const VERSION_1_0: u32 = 1;
/// Format 1.1: the common magic comes first. This is what is written.
pub const VERSION_1_1: u32 = 2;

const UNCOMMITTED: &str = "inventory.img.part";

/// Commits a checkpoint: writes the inventory under another name, then renames it.
///
/// # Errors
/// [`Error::Io`]; then no inventory is there, and nothing of it is left.
pub fn commit(store: &dyn Store, inventory: &InventoryEntry) -> Result<()> {
    let written =
        write(store, inventory).and_then(|()| store.rename(UNCOMMITTED, &Image::Inventory.file_name(0)));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = store.remove(UNCOMMITTED);
    }
    written
}

fn write(store: &dyn Store, inventory: &InventoryEntry) -> Result<()> {
    let mut writer = store.create(UNCOMMITTED)?;
    write_header(&mut writer, Image::Inventory)
        .and_then(|()| write_entry(&mut writer, inventory))
        .map_err(|source| Error::io(UNCOMMITTED, "write", source))?;
    writer.finish()
}

/// Takes the commit mark away, before the images of an older checkpoint are overwritten.
///
/// # Errors
/// [`Error::Io`].
pub fn revoke(store: &dyn Store) -> Result<()> {
    store.remove(&Image::Inventory.file_name(0))
}

/// Reads the inventory and checks the format's version.
///
/// # Errors
/// [`Error::Missing`] when the checkpoint was never completed, [`Error::Version`], and all others.
pub fn read(store: &dyn Store) -> Result<InventoryEntry> {
    let inventory: InventoryEntry = store.read_one(Image::Inventory, 0)?;
    match inventory.img_version {
        VERSION_1_0 | VERSION_1_1 => Ok(inventory),
        found => Err(Error::Version { image: Image::Inventory.file_name(0), found, supported: "1 and 2" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[test]
    fn a_committed_inventory_has_the_bytes_of_the_reference() {
        let store = MemoryStore::new();
        let inventory = InventoryEntry {
            img_version: VERSION_1_1,
            fdinfo_per_id: Some(true),
            ..InventoryEntry::default()
        };
        commit(&store, &inventory).expect("committed");
        assert_eq!(store.list().expect("listed"), ["inventory.img"]);
        assert_eq!(
            store.get("inventory.img").as_deref(),
            Some(
                [
                    0x16,
                    0x31,
                    0x31,
                    0x58, // magic, alone
                    4,
                    0,
                    0,
                    0, // size
                    1 << 3,
                    2,
                    2 << 3,
                    1,
                ]
                .as_slice()
            )
        );
        assert_eq!(read(&store).expect("read"), inventory);
        revoke(&store).expect("revoked");
        assert!(read(&store).expect_err("gone").is_missing());
    }

    #[test]
    fn other_versions_are_refused() {
        let store = MemoryStore::new();
        let inventory = InventoryEntry { img_version: 3, ..InventoryEntry::default() };
        commit(&store, &inventory).expect("committed");
        let error = read(&store).expect_err("other version");
        assert!(matches!(error, Error::Version { found: 3, .. }), "{error}");
    }
}
