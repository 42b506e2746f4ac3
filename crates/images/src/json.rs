//! The JSON form of an image, as `crit decode` prints it and `crit encode` takes it.
//!
//! ```json
//! {"magic": "PIPES_DATA", "entries": [{"pipe_id": 1, "bytes": 3, "extra": "Zm9v\n"}]}
//! ```
//!
//! Numbers are JSON numbers (on the way back also strings such as `"0x1000"`), enums their names, bytes
//! base64 in lines of 76 letters, names of unix sockets quoted-printable; other names are strings, or
//! `{"base64": ...}` where they are no UTF-8. Raw bytes after an entry are its
//! `extra`: base64, or an object or a list for the images that `crit` gives one.

use std::io::Read;

use serde_json::{Map, Value, json};

use crate::{
    error::{Error, Result},
    frame::{FrameReader, header},
    magic::{Family, Image},
    record::{Record, collect},
    unknown::UnknownField,
};

mod extra;
mod text;
mod value;

/// An image in its JSON form.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The object with `magic` and `entries`.
    pub value: Value,
    /// Fields that this version does not know and the JSON form therefore lacks.
    pub unknown: Vec<UnknownField>,
}

/// Reads an image and gives its JSON form. `name` is the file's name without directories; it tells the kind
/// of image, or else the magic does. Unknown fields are listed, not refused.
///
/// # Errors
/// All of [`Error`]; [`Error::Misuse`] for raw images, which have no JSON form.
pub fn read<R: Read>(reader: R, name: &str) -> Result<Document> {
    let reader = FrameReader::open_any(reader, name)?.tolerate_unknown();
    let image = reader.image();
    refuse_raw(image, name)?;
    let (records, unknown) = collect(reader, 0)?;
    let value = decode(image, &records)?;
    Ok(Document { value, unknown })
}

/// The JSON form of the records of one image.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::Misuse`] for raw images.
pub fn decode(image: Image, records: &[Record]) -> Result<Value> {
    refuse_raw(image, image.name())?;
    let entries: Vec<Value> = records
        .iter()
        .enumerate()
        .map(|(index, record)| entry_to_json(image, index, record))
        .collect::<Result<_>>()?;
    // Images that share a magic share a name: the form knows no file names.
    let name = Image::from_magic(image.magic()).unwrap_or(image).name();
    Ok(json!({ "magic": name, "entries": entries }))
}

/// The bytes of the image that `document` describes.
///
/// # Errors
/// [`Error::Json`] names the place that is wrong.
pub fn encode(document: &Value) -> Result<Vec<u8>> {
    let (image, records) = records(document)?;
    let mut bytes = header(image);
    for record in &records {
        record.write_to(&mut bytes).map_err(|source| Error::io(image.name(), "encode", source))?;
    }
    Ok(bytes)
}

/// The image that `document` describes, as records with id 0.
///
/// # Errors
/// As [`encode`].
pub fn records(document: &Value) -> Result<(Image, Vec<Record>)> {
    let magic = document.get("magic").and_then(Value::as_str);
    let image = magic
        .and_then(Image::from_name)
        .ok_or_else(|| wrong("magic", "the name of an image, such as \"CORE\", expected").located())?;
    refuse_raw(image, image.name())?;
    let entries = document
        .get("entries")
        .and_then(Value::as_array)
        .ok_or_else(|| wrong("entries", "a list expected").located())?;
    let records = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            entry_from_json(image, index, entry)
                .map_err(|wrong| wrong.within(format!("entries[{index}]")).located())
        })
        .collect::<Result<_>>()?;
    Ok((image, records))
}

fn refuse_raw(image: Image, name: &str) -> Result<()> {
    if image.family() == Family::Raw {
        return Err(Error::Misuse {
            image: name.to_owned(),
            reason: "raw images have no JSON form, they are not protobuf".to_owned(),
        });
    }
    Ok(())
}

fn entry_to_json(image: Image, index: usize, record: &Record) -> Result<Value> {
    let corrupt = |reason: String| Error::Corrupt {
        image: image.name().to_owned(),
        offset: 0,
        message: image.message_name_at(index).unwrap_or("message").to_owned(),
        reason,
    };
    let message = descriptor(image, index)
        .and_then(|descriptor| value::decode(descriptor, &record.message))
        .map_err(|wrong| corrupt(wrong.reason))?;
    let mut object = value::to_json(&message);
    let extra = extra::to_json(image, index, record).map_err(corrupt)?;
    if let Some(extra) = extra {
        object.insert(EXTRA.to_owned(), extra);
    }
    Ok(Value::Object(object))
}

fn entry_from_json(image: Image, index: usize, entry: &Value) -> Result<Record, Wrong> {
    let mut object = object(entry)?.clone();
    let extra = object.shift_remove(EXTRA);
    let message = value::from_json(descriptor(image, index)?, &object)?;
    let record = Record { image, id: 0, message, payload: Vec::new() };
    let payload = extra::from_json(image, index, &record, extra.as_ref()).map_err(|w| w.within(EXTRA))?;
    Ok(record.with_payload(payload))
}

fn descriptor(image: Image, index: usize) -> Result<prost_reflect::MessageDescriptor, Wrong> {
    image
        .message_name_at(index)
        .and_then(|name| crate::unknown::descriptors().get_message_by_name(name))
        .ok_or_else(|| wrong("", format!("{} images have no known entries", image.name())))
}

fn object(value: &Value) -> Result<&Map<String, Value>, Wrong> {
    value.as_object().ok_or_else(|| wrong("", "an object expected"))
}

const EXTRA: &str = "extra";

/// Something wrong in a document; the path grows on the way up.
struct Wrong {
    path: String,
    reason: String,
}

fn wrong(path: impl Into<String>, reason: impl Into<String>) -> Wrong {
    Wrong { path: path.into(), reason: reason.into() }
}

impl Wrong {
    fn within(self, outer: impl AsRef<str>) -> Wrong {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        wrong(format!("{}{dot}{}", outer.as_ref(), self.path), self.reason)
    }

    fn located(self) -> Error {
        Error::Json { path: self.path, reason: self.reason }
    }
}
