//! Unix sockets: stream, datagram and seqpacket; pairs, named, listening, half-closed, with their queues
//! (unix(7)).
//!
//! Two ends find each other by inode numbers; one pass of sock_diag(7) tells who is whose peer.

mod dump;
mod name;
mod queue;
mod restore;
mod wiring;

use criu_images::proto;
use criu_resource::{BoxError, Descriptor, DumpContext, FileDump, FileKind, FileRestore, RestoreContext};

use crate::options;

/// Bit of `uflags`: the entry stands for a socket outside of the tree.
const EXTERNAL: u32 = 1;

/// Bit of `uflags`: the socket led to the service that dumped it.
const SERVICE: u32 = 2;

/// The kind of all unix sockets.
pub struct Unix;

impl FileKind for Unix {
    fn name(&self) -> &'static str {
        "unix"
    }

    fn types(&self) -> &'static [proto::FdTypes] {
        &[proto::FdTypes::Unixsk]
    }

    fn claims(&self, descriptor: &Descriptor<'_>) -> bool {
        options::domain(descriptor) == Some(libc::AF_UNIX)
    }

    fn dump<'t>(&'t self, context: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(dump::UnixDump::new(context.options))
    }

    fn restore<'t>(&'t self, context: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        Ok(Box::new(restore::UnixRestore::new(context)?))
    }
}

/// State of a unix socket; the kernel borrows the numbers from TCP.
mod state {
    pub const ESTABLISHED: u32 = 1;
    pub const CLOSE: u32 = 7;
    pub const LISTEN: u32 = 10;
}
