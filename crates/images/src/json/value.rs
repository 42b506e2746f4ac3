//! Messages and their JSON objects.

use prost::Message;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value as Field,
};
use serde_json::{Map, Value};

use super::{Wrong, object, text, wrong};
use crate::unknown::Shape;

/// The one field with names of unix sockets, which may begin with a zero byte.
const UNIX_NAME: &str = "unix_sk_entry.name";
/// Names that the kernel takes as they are. The reference calls them strings; they need not be UTF-8.
const NAMES: [&str; 9] = [
    "fanotify_mount_mark_entry.path",
    "fh_entry.path",
    "ghost_file_entry.symlnk_target",
    "irmap_cache_entry.path",
    "memfd_inode_entry.name",
    "reg_file_entry.name",
    "task_core_entry.comm",
    "thread_core_entry.comm",
    "unix_sk_entry.name_dir",
];

/// The key of a name that is no text.
const BASE64: &str = "base64";

pub(super) fn decode(descriptor: MessageDescriptor, bytes: &[u8]) -> Result<DynamicMessage, Wrong> {
    DynamicMessage::decode(descriptor, bytes).map_err(|error| wrong("", error.to_string()))
}

/// The fields that are set, by number.
pub(super) fn to_json(message: &DynamicMessage) -> Map<String, Value> {
    message
        .descriptor()
        .fields()
        .filter(|field| message.has_field(field))
        .map(|field| {
            let value = match &*message.get_field(&field) {
                Field::List(items) => items.iter().map(|item| scalar(&field, item)).collect(),
                value => scalar(&field, value),
            };
            (field.name().to_owned(), value)
        })
        .collect()
}

fn scalar(field: &FieldDescriptor, value: &Field) -> Value {
    match value {
        Field::Bool(value) => (*value).into(),
        Field::I32(value) => (*value).into(),
        Field::I64(value) => (*value).into(),
        Field::U32(value) => (*value).into(),
        Field::U64(value) => (*value).into(),
        Field::String(value) => value.as_str().into(),
        Field::Bytes(value) if field.full_name() == UNIX_NAME => text::quoted(value).into(),
        Field::Bytes(value) if NAMES.contains(&field.full_name()) => match std::str::from_utf8(value) {
            Ok(name) => name.into(),
            Err(_) => Value::Object(Map::from_iter([(BASE64.to_owned(), text::base64(value).into())])),
        },
        Field::Bytes(value) => text::base64(value).into(),
        Field::Message(value) => to_json(value).into(),
        Field::EnumNumber(number) => match field.kind() {
            Kind::Enum(kind) => match kind.get_value(*number) {
                Some(value) => value.name().into(),
                None => (*number).into(),
            },
            _ => (*number).into(),
        },
        // The format has neither floating point numbers nor maps.
        Field::F32(_) | Field::F64(_) | Field::List(_) | Field::Map(_) => Value::Null,
    }
}

/// The encoded message that an object describes.
pub(super) fn from_json(
    descriptor: MessageDescriptor,
    fields: &Map<String, Value>,
) -> Result<Vec<u8>, Wrong> {
    let shape = Shape::of(descriptor.full_name());
    let bytes = message(descriptor, fields)?.encode_to_vec();
    if let Some(shape) = shape {
        shape.walk(&bytes, &mut Vec::new()).map_err(|missing| wrong("", missing.to_string()))?;
    }
    Ok(bytes)
}

fn message(descriptor: MessageDescriptor, fields: &Map<String, Value>) -> Result<DynamicMessage, Wrong> {
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, value) in fields {
        let field = descriptor
            .get_field_by_name(name)
            .ok_or_else(|| wrong(name, format!("no such field in {}", descriptor.full_name())))?;
        let value = match value {
            Value::Array(items) if field.is_list() => items
                .iter()
                .enumerate()
                .map(|(index, item)| parse(&field, item).map_err(|wrong| wrong.within(format!("[{index}]"))))
                .collect::<Result<_, _>>()
                .map(Field::List),
            _ if field.is_list() => Err(wrong("", "a list expected")),
            value => parse(&field, value),
        };
        let value = value.map_err(|wrong| wrong.within(name))?;
        message.try_set_field(&field, value).map_err(|error| wrong(name, error.to_string()))?;
    }
    Ok(message)
}

fn parse(field: &FieldDescriptor, value: &Value) -> Result<Field, Wrong> {
    let text = || value.as_str().ok_or_else(|| wrong("", "a string expected"));
    let bytes = |result: Result<Vec<u8>, String>| {
        result.map(|bytes| Field::Bytes(bytes.into())).map_err(|reason| wrong("", reason))
    };
    match field.kind() {
        Kind::Bool => value.as_bool().map(Field::Bool).ok_or_else(|| wrong("", "true or false expected")),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => number(value).map(Field::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => number(value).map(Field::I64),
        Kind::Uint32 | Kind::Fixed32 => number(value).map(Field::U32),
        Kind::Uint64 | Kind::Fixed64 => number(value).map(Field::U64),
        Kind::String => Ok(Field::String(text()?.to_owned())),
        Kind::Bytes if field.full_name() == UNIX_NAME => bytes(text::unquoted(text()?)),
        Kind::Bytes if NAMES.contains(&field.full_name()) => {
            match value.get(BASE64).and_then(Value::as_str) {
                Some(encoded) => bytes(text::unbase64(encoded)),
                None => bytes(Ok(text()?.as_bytes().to_vec())),
            }
        }
        Kind::Bytes => bytes(text::unbase64(text()?)),
        Kind::Message(inner) => message(inner, object(value)?).map(Field::Message),
        Kind::Enum(kind) => match value.as_str() {
            None => number(value).map(Field::EnumNumber),
            Some(name) => kind
                .get_value_by_name(name)
                .map(|value| Field::EnumNumber(value.number()))
                .ok_or_else(|| wrong("", format!("{name} is no {}", kind.full_name()))),
        },
        Kind::Float | Kind::Double => Err(wrong("", "floating point fields are not supported")),
    }
}

/// A number, or a string with a decimal or hexadecimal one.
fn number<T: TryFrom<i128>>(value: &Value) -> Result<T, Wrong> {
    let wide = match value {
        Value::Number(number) => number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)),
        Value::String(text) => match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok().map(i128::from),
            None => text.parse().ok(),
        },
        _ => None,
    };
    wide.and_then(|wide| T::try_from(wide).ok())
        .ok_or_else(|| wrong("", format!("a number of type {} expected", short::<T>())))
}

fn short<T>() -> &'static str {
    std::any::type_name::<T>()
}
