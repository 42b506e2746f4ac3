//! Masters for slaves whose own master lies outside of the tree.

use criu_resource::BoxError;
use std::os::fd::OwnedFd;

/// Takes the masters of restored slaves that had none in the tree: an RPC client that provides the other
/// end of a container's console (`orphan_pts_master`).
pub trait OrphanMaster: Send + Sync {
    /// Gets the master of the slave `/dev/pts/INDEX`. The slave is hung up once nobody has it.
    ///
    /// # Errors
    /// Whatever keeps it from being handed over; the restore fails.
    fn take(&self, index: u32, master: OwnedFd) -> Result<(), BoxError>;
}
