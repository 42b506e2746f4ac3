//! Finds fields that this version of the messages does not know.
//!
//! prost drops such fields when it decodes. A checkpoint that lost one would restore wrongly and silently,
//! so every entry that is read goes through this walk first. It compares the wire bytes with a small table
//! (message → field number → kind) built once, and allocates nothing while all fields are known.

use std::{collections::HashMap, fmt, sync::LazyLock};

use prost_reflect::{DescriptorPool, Kind};

/// A field that the messages of this version do not have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnknownField {
    /// The message that holds it, by its protobuf name.
    pub message: String,
    /// The field's number.
    pub number: u32,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field {} of {}", self.number, self.message)
    }
}

/// The descriptors of all messages, for those who work on them by name.
pub fn descriptors() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/images.fds")).as_ref())
            .expect("the build script wrote a valid descriptor set")
    });
    &POOL
}

/// Whether the format has a message of this name.
pub fn is_known(message: &str) -> bool {
    Shape::of(message).is_some()
}

/// The shape of one message: a handle to walk many entries with.
#[derive(Debug, Clone, Copy)]
pub struct Shape(usize);

#[derive(Clone, Copy)]
enum Field {
    Unknown,
    Scalar,
    Message(usize),
}

struct Table {
    names: HashMap<String, usize>,
    messages: Vec<(String, Vec<Field>)>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let all: Vec<_> = descriptors().all_messages().collect();
    let names: HashMap<String, usize> =
        all.iter().enumerate().map(|(index, message)| (message.full_name().to_owned(), index)).collect();
    let messages = all
        .iter()
        .map(|message| {
            let last = message.fields().map(|field| field.number()).max();
            let mut fields = vec![Field::Unknown; last.unwrap_or(0) as usize + 1];
            for field in message.fields() {
                fields[field.number() as usize] = match field.kind() {
                    Kind::Message(inner) => Field::Message(names[inner.full_name()]),
                    _ => Field::Scalar,
                };
            }
            (message.full_name().to_owned(), fields)
        })
        .collect();
    Table { names, messages }
});

/// Messages nest a few levels; prost refuses beyond 100.
const MAX_DEPTH: u32 = 100;

impl Shape {
    /// The shape of the message with this protobuf name, such as `core_entry`.
    pub fn of(message: &str) -> Option<Shape> {
        TABLE.names.get(message).copied().map(Shape)
    }

    /// Adds each field of `bytes` that is not known to `found`, once, however often it occurs.
    ///
    /// Malformed bytes end the walk of their message: decoding reports those.
    pub fn walk(self, bytes: &[u8], found: &mut Vec<UnknownField>) {
        walk(self.0, bytes, MAX_DEPTH, found);
    }
}

fn walk(message: usize, mut bytes: &[u8], depth: u32, found: &mut Vec<UnknownField>) -> Option<()> {
    let (name, fields) = &TABLE.messages[message];
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let number = u32::try_from(key >> 3).ok()?;
        let field = fields.get(number as usize).copied().unwrap_or(Field::Unknown);
        if matches!(field, Field::Unknown) {
            let field = UnknownField { message: name.clone(), number };
            if !found.contains(&field) {
                found.push(field);
            }
        }
        match key & 7 {
            0 => {
                varint(&mut bytes)?;
            }
            1 => bytes = bytes.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (inner, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                if let (Field::Message(inner_message), 1..) = (field, depth) {
                    walk(inner_message, inner, depth - 1, found);
                }
            }
            5 => bytes = bytes.get(4..)?,
            _ => return None,
        }
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::proto::{CoreEntry, TaskCoreEntry};

    fn unknown(message: &str, bytes: &[u8]) -> Vec<UnknownField> {
        let mut found = Vec::new();
        Shape::of(message).expect("known").walk(bytes, &mut found);
        found
    }

    #[test]
    fn known_fields_are_silent() {
        let core = CoreEntry { tc: Some(TaskCoreEntry::default()), ..CoreEntry::default() };
        assert_eq!(unknown("core_entry", &core.encode_to_vec()), []);
    }

    #[test]
    fn unknown_fields_are_found_at_any_depth_once() {
        let mut task = TaskCoreEntry::default().encode_to_vec();
        task.extend([0xf8, 0x07, 1, 0xf8, 0x07, 2]); // field 127, varint, twice
        let mut core = CoreEntry::default().encode_to_vec();
        core.push(3 << 3 | 2);
        core.push(task.len() as u8);
        core.extend(&task);
        core.extend([15 << 3 | 5, 0, 0, 0, 0]); // field 15, fixed32
        let names: Vec<String> = unknown("core_entry", &core).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["field 127 of task_core_entry", "field 15 of core_entry"]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>) {
            unknown("core_entry", &bytes);
        }
    }
}
