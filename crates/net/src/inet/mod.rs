//! Internet sockets: TCP, UDP, UDP-Lite, ping and raw sockets over IPv4 and IPv6.
//!
//! The images know one type for all of them, so they are one [`FileKind`]; what differs lies in a file
//! each.

mod datagram;
mod dump;
mod ip;
mod raw;
mod restore;
mod stream;

use criu_images::proto;
use criu_resource::{BoxError, Descriptor, DumpContext, FileDump, FileKind, FileRestore, RestoreContext};

use crate::options;

/// The kind of all internet sockets.
pub struct Inet;

impl FileKind for Inet {
    fn name(&self) -> &'static str {
        "inet"
    }

    fn types(&self) -> &'static [proto::FdTypes] {
        &[proto::FdTypes::Inetsk]
    }

    fn claims(&self, descriptor: &Descriptor<'_>) -> bool {
        matches!(options::domain(descriptor), Some(libc::AF_INET | libc::AF_INET6))
    }

    fn dump<'t>(&'t self, context: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(dump::InetDump::new(context.options))
    }

    fn restore<'t>(&'t self, context: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        Ok(Box::new(restore::InetRestore::new(context)?))
    }
}

/// The transport of a socket, from its type and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Datagram,
    Raw,
}

impl Transport {
    fn of(kind: i32, protocol: i32) -> Result<Self, crate::Error> {
        match (kind, protocol) {
            (libc::SOCK_STREAM, libc::IPPROTO_TCP) => Ok(Self::Tcp),
            (
                libc::SOCK_DGRAM,
                libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE | libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6,
            ) => Ok(Self::Datagram),
            (libc::SOCK_RAW, _) => Ok(Self::Raw),
            (libc::SOCK_STREAM, libc::IPPROTO_MPTCP) => Err(crate::Error::Unsupported(
                "MPTCP sockets (a Go program can be started with GODEBUG=multipathtcp=0)".into(),
            )),
            _ => {
                Err(crate::Error::Unsupported(format!("internet socket of type {kind}, protocol {protocol}")))
            }
        }
    }
}
