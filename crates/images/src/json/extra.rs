//! The raw bytes after an entry and their JSON forms.

use prost::Message;
use serde_json::{Value, json};

use super::{Wrong, object, text, value, wrong};
use crate::{
    frame::{FrameReader, write_encoded},
    magic::Image,
    payload::{Payload, padded, payload_length},
    proto::{IpcMsg, IpcSemEntry, IpcShmEntry, TcpStreamEntry},
    record::Record,
    unknown::descriptors,
};

/// The `extra` of an entry; `None` for one that has no raw bytes by its kind.
pub(super) fn to_json(image: Image, index: usize, record: &Record) -> Result<Option<Value>, String> {
    let bytes = record.payload.as_slice();
    let entry = record.message.as_slice();
    Ok(Some(match image {
        Image::PipesData | Image::FifoData | Image::SkQueues | Image::BpfmapData => {
            text::base64(bytes).into()
        }
        Image::TcpStream => {
            let queues: TcpStreamEntry = parse(entry)?;
            let (inq, outq) =
                bytes.split_at_checked(queues.inq_len as usize).ok_or("the queues are too short")?;
            json!({ "inq": text::base64(inq), "outq": text::base64(outq) })
        }
        Image::IpcnsShm => {
            let segment: IpcShmEntry = parse(entry)?;
            if segment.in_pagemaps() {
                return Ok(None);
            }
            let length = usize::try_from(segment.size).unwrap_or(usize::MAX);
            let bytes = bytes.get(..length).ok_or("the segment is too short")?;
            text::base64(bytes).into()
        }
        Image::IpcnsSem => {
            let set: IpcSemEntry = parse(entry)?;
            let values = bytes.as_chunks().0.iter().copied().map(u16::from_le_bytes);
            values.take(set.nsems as usize).collect()
        }
        Image::IpcnsMsg => messages_to_json(bytes)?,
        Image::GhostFile => match payload_length(image, index, entry) {
            Ok(Payload::Bytes(_)) if index == 0 => return Ok(None),
            _ => text::base64(bytes).into(),
        },
        _ => return Ok(None),
    }))
}

/// The raw bytes that an `extra` describes, padded, and checked against the entry's message.
pub(super) fn from_json(
    image: Image,
    index: usize,
    record: &Record,
    extra: Option<&Value>,
) -> Result<Vec<u8>, Wrong> {
    let expected =
        payload_length(image, index, &record.message).map_err(|error| wrong("", error.to_string()))?;
    let bytes = match (image, extra) {
        (_, None) => Vec::new(),
        (Image::TcpStream, Some(extra)) => tcp_from_json(record, extra)?,
        (Image::IpcnsSem, Some(extra)) => semaphores_from_json(extra)?,
        (Image::IpcnsMsg, Some(extra)) => return messages_from_json(expected, extra),
        (_, Some(extra)) => base64(extra)?,
    };
    pad(image, bytes, expected)
}

fn pad(image: Image, mut bytes: Vec<u8>, expected: Payload) -> Result<Vec<u8>, Wrong> {
    let unit = match image {
        Image::IpcnsShm => 4,
        Image::IpcnsSem => 8,
        _ => 1,
    };
    let length = padded(bytes.len() as u64, unit);
    match expected {
        Payload::Rest => Ok(bytes),
        Payload::Bytes(told) if told == length => {
            bytes.resize(length as usize, 0);
            Ok(bytes)
        }
        Payload::Bytes(told) => Err(wrong("", format!("{length} bytes, the entry says {told}"))),
        Payload::Messages(0) => Ok(bytes),
        Payload::Messages(told) => Err(wrong("", format!("no messages, the entry says {told}"))),
    }
}

fn tcp_from_json(record: &Record, extra: &Value) -> Result<Vec<u8>, Wrong> {
    let entry: TcpStreamEntry = parse(&record.message).map_err(|reason| wrong("", reason))?;
    let queues = object(extra)?;
    let mut bytes = Vec::new();
    for (name, told) in [("inq", entry.inq_len), ("outq", entry.outq_len)] {
        let queue = queues.get(name).map(base64).unwrap_or(Ok(Vec::new()));
        let queue = queue.map_err(|w| w.within(name))?;
        if queue.len() as u64 != u64::from(told) {
            let reason = format!("{} bytes, the entry says {told}", queue.len());
            return Err(wrong(name, reason));
        }
        bytes.extend(queue);
    }
    Ok(bytes)
}

fn semaphores_from_json(extra: &Value) -> Result<Vec<u8>, Wrong> {
    let values = list(extra)?.iter().enumerate().map(|(index, value)| {
        value
            .as_u64()
            .and_then(|value| u16::try_from(value).ok())
            .ok_or_else(|| wrong(format!("[{index}]"), "a number up to 65535 expected"))
    });
    let values: Vec<u16> = values.collect::<Result<_, _>>()?;
    Ok(values.into_iter().flat_map(u16::to_le_bytes).collect())
}

/// Messages and their texts take turns in one list.
fn messages_to_json(bytes: &[u8]) -> Result<Value, String> {
    let image = Image::IpcnsMsg;
    let mut reader = FrameReader::headless(bytes, image, image.name());
    let mut list: Vec<Value> = Vec::new();
    let descriptor = message_descriptor().map_err(|wrong| wrong.reason)?;
    loop {
        let Some(message) = reader.entry::<IpcMsg>().map_err(|e| e.to_string())? else {
            return Ok(list.into());
        };
        let size = u64::from(message.msize);
        let text = reader.payload(padded(size, 8)).map_err(|e| e.to_string())?;
        let message =
            value::decode(descriptor.clone(), &message.encode_to_vec()).map_err(|wrong| wrong.reason)?;
        list.push(value::to_json(&message).into());
        list.push(text::base64(&text[..size as usize]).into());
    }
}

fn messages_from_json(expected: Payload, extra: &Value) -> Result<Vec<u8>, Wrong> {
    let (pairs, odd) = list(extra)?.as_chunks::<2>();
    if !odd.is_empty() || Payload::Messages(pairs.len() as u32) != expected {
        return Err(wrong("", "as many pairs of message and text expected as the entry's qnum says"));
    }
    let mut bytes = Vec::new();
    for (index, [message, content]) in pairs.iter().enumerate() {
        let place = |wrong: Wrong, at: usize| wrong.within(format!("[{}]", 2 * index + at));
        let message = object(message)
            .and_then(|fields| value::from_json(message_descriptor()?, fields))
            .map_err(|wrong| place(wrong, 0))?;
        let told = parse::<IpcMsg>(&message).map_err(|reason| wrong("", reason))?.msize;
        let mut content = base64(content).map_err(|wrong| place(wrong, 1))?;
        if content.len() as u64 != u64::from(told) {
            let reason = format!("{} bytes, the message says {told}", content.len());
            return Err(place(wrong("", reason), 1));
        }
        content.resize(padded(told.into(), 8) as usize, 0);
        write_encoded(&mut bytes, &message).map_err(|error| wrong("", error.to_string()))?;
        bytes.extend(content);
    }
    Ok(bytes)
}

fn message_descriptor() -> Result<prost_reflect::MessageDescriptor, Wrong> {
    descriptors().get_message_by_name("ipc_msg").ok_or_else(|| wrong("", "no message ipc_msg"))
}

fn base64(extra: &Value) -> Result<Vec<u8>, Wrong> {
    extra
        .as_str()
        .ok_or_else(|| "a base64 string expected".to_owned())
        .and_then(text::unbase64)
        .map_err(|reason| wrong("", reason))
}

fn list(extra: &Value) -> Result<&[Value], Wrong> {
    extra.as_array().map(Vec::as_slice).ok_or_else(|| wrong("", "a list expected"))
}

fn parse<M: Message + Default>(bytes: &[u8]) -> Result<M, String> {
    M::decode(bytes).map_err(|error| error.to_string())
}
