//! The netlink framing: messages, and attributes in them (netlink(7)).

use nix::errno::Errno;

use crate::plain::{self, Plain};

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Header {
    pub len: u32,
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub port: u32,
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for Header {}

/// The messages in one datagram: type and payload. A malformed length ends it.
pub(super) struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.len() < size_of::<Header>() {
            return None;
        }
        let header: Header = plain::from_prefix(self.0);
        let payload = self.0.get(size_of::<Header>()..header.len as usize)?;
        self.0 = self.0.get((header.len as usize).next_multiple_of(4)..).unwrap_or_default();
        Some((header.kind, payload))
    }
}

/// The errno in the payload of `NLMSG_ERROR`.
pub(super) fn error(payload: &[u8]) -> Errno {
    Errno::from_raw(-plain::from_prefix::<i32>(payload))
}

/// The payload of one answer: a fixed structure, then attributes.
pub(super) struct Message<'a>(pub &'a [u8]);

impl<'a> Message<'a> {
    /// The structure, where the payload is long enough for it.
    pub fn head<T: Plain>(&self) -> Option<T> {
        (self.0.len() >= size_of::<T>()).then(|| plain::from_prefix(self.0))
    }

    /// The attributes after a structure of type `T`: type and bytes.
    pub fn attributes<T>(&self) -> Attributes<'a> {
        Attributes(self.0.get(size_of::<T>().next_multiple_of(4)..).unwrap_or_default())
    }
}

pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, _) = self.0.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        // The two highest bits are flags.
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let bytes = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, bytes))
    }
}

/// 32-bit words of an attribute.
pub(super) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
}

/// Memory of a socket, in bytes (`SK_MEMINFO_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemInfo {
    /// Allocated for receiving.
    pub rmem_alloc: u32,
    /// Receive buffer's limit.
    pub rcvbuf: u32,
    /// Allocated for sending.
    pub wmem_alloc: u32,
    /// Send buffer's limit.
    pub sndbuf: u32,
    /// Allocated ahead.
    pub fwd_alloc: u32,
    /// Queued for sending.
    pub wmem_queued: u32,
    /// Options.
    pub optmem: u32,
    /// Backlog.
    pub backlog: u32,
    /// Packets dropped (a count).
    pub drops: u32,
}

// SAFETY: nine u32.
unsafe impl Plain for MemInfo {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_lengths_end_the_iteration() {
        let mut bytes = vec![20, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(Messages::new(&bytes).collect::<Vec<_>>(), [(7, &[1, 2, 3, 4][..])]);
        bytes[0] = 21;
        assert_eq!(Messages::new(&bytes).count(), 0);
        bytes[0] = 3;
        assert_eq!(Messages::new(&bytes).count(), 0);
    }

    #[test]
    fn attributes_are_padded() {
        let bytes = [5, 0, 1, 0x80, 9, 0, 0, 0, 8, 0, 2, 0, 1, 0, 0, 0, 99, 0, 3, 0];
        let found: Vec<_> = Message(&bytes).attributes::<[u8; 0]>().collect();
        assert_eq!(found, [(1, &[9][..]), (2, &[1, 0, 0, 0][..])]);
    }
}
