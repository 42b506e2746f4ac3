//! The head of a request: command and flags (u32), four unused bytes, number of pages (u64), address (u64), and
//! which pagemap (u64), in the byte order of x86-64.

use criu_images::Image;
use criu_images::pagemap::{PARENT, PRESENT};

/// Bytes of a head.
pub const LEN: usize = 32;

/// What a request wants. Some commands are older forms of others; they are understood, not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A range with these flags of a pagemap entry; its pages follow if [`PRESENT`] is among them.
    Add(u32),
    /// The next ranges are of this pagemap. With true, the answer is a byte: whether the server's parent checkpoint
    /// has it.
    Open(bool),
    /// Whether the server's parent checkpoint has this pagemap; the answer is an i32.
    HasParent,
    /// A page of a server of lazy pages.
    Get,
    /// The end; the answer is an i32, zero once everything is stored. With true, the connection stays open, since
    /// others may hold it.
    Close(bool),
}

/// A request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it wants.
    pub command: Command,
    /// Number of pages.
    pub pages: u64,
    /// Address of the first, or its offset in the object.
    pub address: u64,
    /// Which pagemap: 64 bits that [`name`] explains.
    pub of: u64,
}

const ADD: u32 = 1;
const HOLE: u32 = 2;
const OPEN: u32 = 3;
const OPEN_ANSWER: u32 = 4;
const HAS_PARENT: u32 = 5;
const ADD_FLAGS: u32 = 6;
const GET: u32 = 7;
const CLOSE: u32 = 0x1023;
const FORCE_CLOSE: u32 = 0x1024;
const FLAGS_SHIFT: u32 = 16;

const TASK: u64 = 1;
const SHARED: u64 = 2;
const KIND_BITS: u32 = 8;

/// The number of a pagemap ([`Image::Pagemap`] or [`Image::ShmemPagemap`]).
pub fn number(image: Image, id: u64) -> u64 {
    id << KIND_BITS | if image == Image::ShmemPagemap { SHARED } else { TASK }
}

/// The pagemap of a number.
pub fn name(number: u64) -> Option<(Image, u64)> {
    let image = match number & ((1 << KIND_BITS) - 1) {
        TASK => Image::Pagemap,
        SHARED => Image::ShmemPagemap,
        _ => return None,
    };
    Some((image, number >> KIND_BITS))
}

impl Head {
    /// A request about a pagemap as a whole.
    pub fn of(command: Command, number: u64) -> Head {
        Head { command, pages: 0, address: 0, of: number }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; LEN] {
        let command = match self.command {
            Command::Add(flags) => ADD_FLAGS | flags << FLAGS_SHIFT,
            Command::Open(false) => OPEN,
            Command::Open(true) => OPEN_ANSWER,
            Command::HasParent => HAS_PARENT,
            Command::Get => GET,
            Command::Close(false) => CLOSE,
            Command::Close(true) => FORCE_CLOSE,
        };
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&command.to_le_bytes());
        for (slot, word) in bytes[8..].chunks_mut(8).zip([self.pages, self.address, self.of]) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// From its bytes; the error is the unknown command.
    ///
    /// # Errors
    /// A command that there is not.
    pub fn decode(bytes: &[u8; LEN]) -> Result<Head, u32> {
        let (words, _) = bytes.as_chunks::<8>();
        let [first, pages, address, of] = std::array::from_fn(|index| u64::from_le_bytes(words[index]));
        let word = first as u32;
        let command = match word & ((1 << FLAGS_SHIFT) - 1) {
            ADD => Command::Add(PRESENT),
            HOLE => Command::Add(PARENT),
            ADD_FLAGS => Command::Add(word >> FLAGS_SHIFT),
            OPEN => Command::Open(false),
            OPEN_ANSWER => Command::Open(true),
            HAS_PARENT => Command::HasParent,
            GET => Command::Get,
            CLOSE => Command::Close(false),
            FORCE_CLOSE => Command::Close(true),
            _ => return Err(word),
        };
        Ok(Head { command, pages, address, of })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_those_of_the_reference() {
        let head = Head { pages: 3, address: 0x7000, ..Head::of(Command::Add(4), number(Image::Pagemap, 5)) };
        let mut expected = [0; LEN];
        (expected[0], expected[2], expected[8], expected[17]) = (6, 4, 3, 0x70);
        (expected[24], expected[25]) = (1, 5);
        assert_eq!(head.encode(), expected);
        assert_eq!(name(number(Image::ShmemPagemap, 77)), Some((Image::ShmemPagemap, 77)));
        assert_eq!(name(3), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_head_or_its_command(bytes: [u8; LEN]) {
            if let Ok(head) = Head::decode(&bytes) {
                let again = Head::decode(&head.encode());
                prop_assert_eq!(again, Ok(head));
            }
        }
    }
}
