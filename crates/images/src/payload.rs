//! The raw bytes after an entry: how many there are, and how they are padded.

use std::io::Read;

use prost::{Message, Name};

use crate::{
    error::{Error, Result},
    frame::{FrameReader, write_entry},
    magic::Image,
    proto::{
        BpfmapDataEntry, GhostChunkEntry, GhostFileEntry, IpcMsg, IpcMsgEntry, IpcSemEntry, IpcShmEntry,
        PipeDataEntry, SkPacketEntry, TcpStreamEntry,
    },
};

/// What follows an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// That many raw bytes, padding included.
    Bytes(u64),
    /// All bytes up to the file's end.
    Rest,
    /// That many System V messages, each an entry with padded text.
    Messages(u32),
}

/// `length` rounded up to a multiple of `unit`, a power of two.
pub fn padded(length: u64, unit: u64) -> u64 {
    length.checked_next_multiple_of(unit).unwrap_or(u64::MAX)
}

/// What follows the entry at `index` (counted from 0) of `image`, told from its encoded message.
///
/// # Errors
/// [`Error::Corrupt`] when it is no such message.
pub fn payload_length(image: Image, index: usize, message: &[u8]) -> Result<Payload> {
    fn decode<M: Message + Name + Default>(image: Image, message: &[u8]) -> Result<M> {
        M::decode(message).map_err(|reason| Error::Corrupt {
            image: image.name().to_owned(),
            offset: 0,
            message: M::NAME.to_owned(),
            reason: reason.to_string(),
        })
    }
    Ok(Payload::Bytes(match (image, index) {
        (Image::PipesData | Image::FifoData, _) => decode::<PipeDataEntry>(image, message)?.bytes.into(),
        (Image::SkQueues, _) => decode::<SkPacketEntry>(image, message)?.length.into(),
        (Image::TcpStream, _) => {
            let entry: TcpStreamEntry = decode(image, message)?;
            u64::from(entry.inq_len) + u64::from(entry.outq_len)
        }
        (Image::BpfmapData, _) => {
            let entry: BpfmapDataEntry = decode(image, message)?;
            u64::from(entry.keys_bytes) + u64::from(entry.values_bytes)
        }
        (Image::IpcnsShm, _) => {
            let entry: IpcShmEntry = decode(image, message)?;
            // The content may lie in the pages images instead.
            if entry.in_pagemaps() { 0 } else { padded(entry.size, 4) }
        }
        (Image::IpcnsSem, _) => padded(u64::from(decode::<IpcSemEntry>(image, message)?.nsems) * 2, 8),
        (Image::IpcnsMsg, _) => {
            return Ok(Payload::Messages(decode::<IpcMsgEntry>(image, message)?.qnum));
        }
        (Image::GhostFile, 0) => {
            if !decode::<GhostFileEntry>(image, message)?.chunks() {
                return Ok(Payload::Rest);
            }
            0
        }
        (Image::GhostFile, _) => decode::<GhostChunkEntry>(image, message)?.len,
        _ => 0,
    }))
}

impl Payload {
    /// Reads the raw bytes from where `reader` stands.
    ///
    /// # Errors
    /// As [`FrameReader::payload`]; as [`FrameReader::entry`] for messages.
    pub fn read<R: Read>(self, reader: &mut FrameReader<R>) -> Result<Vec<u8>> {
        match self {
            Payload::Bytes(0) => Ok(Vec::new()),
            Payload::Bytes(length) => reader.payload(length),
            Payload::Rest => reader.rest(),
            Payload::Messages(count) => {
                let mut bytes = Vec::new();
                for _ in 0..count {
                    let message: IpcMsg = reader.expect()?;
                    let text = reader.payload(padded(message.msize.into(), 8))?;
                    // Writing to a vector does not fail, and what was read fits an entry.
                    write_entry(&mut bytes, &message)
                        .map_err(|source| Error::io(reader.name(), "read", source))?;
                    bytes.extend(text);
                }
                Ok(bytes)
            }
        }
    }
}
