//! Finds fields that this version of the messages does not know, and required ones that are not there.
//!
//! When it decodes, prost drops the former and makes the latter up. A checkpoint that lost a field would
//! restore wrongly and silently, so every entry that is read goes through this walk first. It compares the
//! wire bytes with a small static table (message → field number → kind), and allocates nothing while all is
//! well.

use std::{fmt, sync::LazyLock};

use prost_reflect::DescriptorPool;

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

/// A required field that a message lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("required field {number} of {message} is missing")]
pub struct MissingField {
    /// The message that lacks it, by its protobuf name.
    pub message: String,
    /// The field's number.
    pub number: u32,
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

struct Layout {
    name: &'static str,
    /// By field number.
    fields: &'static [Field],
    /// Required fields: bit N for field number N.
    required: u128,
}

/// Sorted by name; the build script makes it from the descriptors.
static MESSAGES: &[Layout] = include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// Messages nest a few levels; prost refuses beyond 100.
const MAX_DEPTH: u32 = 100;

impl Shape {
    /// The shape of the message with this protobuf name, such as `core_entry`.
    pub fn of(message: &str) -> Option<Shape> {
        MESSAGES.binary_search_by_key(&message, |layout| layout.name).ok().map(Shape)
    }

    /// Adds each field of `bytes` that is not known to `found`, once, however often it occurs.
    ///
    /// Malformed bytes end the walk of their message: decoding reports those.
    ///
    /// # Errors
    /// The first required field that is not there.
    pub fn walk(self, bytes: &[u8], found: &mut Vec<UnknownField>) -> Result<(), MissingField> {
        walk(self.0, bytes, MAX_DEPTH, found)
    }
}

/// The bit of a field number. The format's messages have no required field beyond 127, a test says so.
fn bit(number: u32) -> u128 {
    1_u128.checked_shl(number).unwrap_or(0)
}

fn walk(
    message: usize,
    mut bytes: &[u8],
    depth: u32,
    found: &mut Vec<UnknownField>,
) -> Result<(), MissingField> {
    let layout = &MESSAGES[message];
    let mut missing = layout.required;
    while !bytes.is_empty() {
        let Some((number, content)) = next_field(&mut bytes) else {
            return Ok(());
        };
        missing &= !bit(number);
        match (layout.fields.get(number as usize), content) {
            (Some(Field::Message(inner)), Some(content)) if depth > 0 => {
                walk(*inner, content, depth - 1, found)?;
            }
            (Some(Field::Message(_) | Field::Scalar), _) => {}
            (Some(Field::Unknown) | None, _) => {
                let field = UnknownField { message: layout.name.to_owned(), number };
                if !found.contains(&field) {
                    found.push(field);
                }
            }
        }
    }
    if missing != 0 {
        return Err(MissingField { message: layout.name.to_owned(), number: missing.trailing_zeros() });
    }
    Ok(())
}

/// Takes one field off the front: its number and, for one with a length, its content.
fn next_field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Option<&'a [u8]>)> {
    let key = varint(bytes)?;
    let number = u32::try_from(key >> 3).ok()?;
    let length = match key & 7 {
        0 => {
            varint(bytes)?;
            return Some((number, None));
        }
        1 => 8,
        2 => usize::try_from(varint(bytes)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let (content, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some((number, (key & 7 == 2).then_some(content)))
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
        Shape::of(message).expect("known").walk(bytes, &mut found).expect("complete");
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

    #[test]
    fn missing_required_fields_are_found_at_any_depth() {
        let walk = |bytes: &[u8]| Shape::of("core_entry").expect("known").walk(bytes, &mut Vec::new());
        let error = walk(&[]).expect_err("mtype is required");
        assert_eq!(error.to_string(), "required field 1 of core_entry is missing");
        let error = walk(&[1 << 3, 1, 3 << 3 | 2, 0]).expect_err("empty task");
        assert_eq!(error.message, "task_core_entry");
    }

    #[test]
    fn all_required_fields_fit_the_mask() {
        for message in descriptors().all_messages() {
            for field in message.fields() {
                assert!(field.cardinality() != prost_reflect::Cardinality::Required || field.number() < 128);
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>) {
            let _ = Shape::of("core_entry").expect("known").walk(&bytes, &mut Vec::new());
        }
    }
}
