//! The descriptor tables of a tree: who has which open file description at which number.
//!
//! [`Table`] finds out which descriptors are the same description, lets each [`FileKind`] say what is
//! behind it, and puts everything back in place. It knows no kind itself.

mod dump;
mod error;
mod fs;
mod layout;
mod restore;
mod shared;
#[cfg(test)]
mod tests;

pub use error::TableError;

use crate::Files;
use criu_resource::{
    BoxError, BuiltTree, DumpContext, FileKind, FrozenTree, RestoreContext, TreeDump, TreeRestore, TreeState,
};
use std::sync::Arc;

/// The descriptor tables, working directories, roots and umasks of all tasks.
///
/// In the list of a tree's parts it comes last: its last step closes every descriptor that the others
/// may have used meanwhile.
pub struct Table {
    kinds: Vec<Box<dyn FileKind>>,
    files: Arc<Files>,
}

impl Table {
    /// A table of these kinds; the first that claims a description gets it. `files` is shared with the
    /// kinds that need it and with the memory.
    pub fn new(kinds: Vec<Box<dyn FileKind>>, files: Arc<Files>) -> Table {
        Table { kinds, files }
    }
}

impl TreeState for Table {
    fn name(&self) -> &'static str {
        "files"
    }

    fn dump<'t>(
        &'t self,
        tree: &'t FrozenTree<'t>,
        context: &'t DumpContext<'t>,
    ) -> Result<Box<dyn TreeDump + 't>, BoxError> {
        Ok(Box::new(dump::Dump::start(self, tree, context)?))
    }

    fn restore<'t>(
        &'t self,
        tree: &'t BuiltTree,
        context: &'t RestoreContext<'t>,
    ) -> Result<Box<dyn TreeRestore + 't>, BoxError> {
        Ok(Box::new(restore::Restore::read(self, tree, context)?))
    }
}
