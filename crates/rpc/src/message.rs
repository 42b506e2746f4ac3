//! Requests: from bytes to a typed message, and to the option fields that it sets.

use crate::Failure;
use criu_config::RpcValue;
use criu_images::prost::Message as _;
use criu_images::proto::{CriuReq, CriuReqType};
use criu_images::unknown::{Shape, descriptors};
use prost_reflect::{DynamicMessage, Value};

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// As generated from rpc.proto.
    pub request: CriuReq,
    /// The fields of its options that are present, by name.
    pub fields: Vec<(String, RpcValue)>,
    /// Fields that rpc.proto does not have, in words.
    pub unknown: Vec<String>,
}

impl Message {
    /// What is asked for; `None` when that is nothing we know.
    pub fn kind(&self) -> Option<CriuReqType> {
        CriuReqType::try_from(self.request.r#type).ok()
    }
}

/// Decodes a request.
///
/// # Errors
/// The bytes are none, or a required field is not there.
pub(crate) fn decode(bytes: &[u8]) -> Result<Message, Failure> {
    let broken =
        |why: &dyn std::fmt::Display| Failure::bad_request(format!("cannot read the request: {why}"));
    let request = CriuReq::decode(bytes).map_err(|error| broken(&error))?;
    let (shape, descriptor) = Shape::of("criu_req")
        .zip(descriptors().get_message_by_name("criu_req"))
        .ok_or_else(|| broken(&"no descriptor of criu_req"))?;
    let mut unknown = Vec::new();
    shape.walk(bytes, &mut unknown).map_err(|error| broken(&error))?;
    let dynamic = DynamicMessage::decode(descriptor, bytes).map_err(|error| broken(&error))?;
    let opts = dynamic.get_field_by_name("opts");
    let fields = opts.as_ref().and_then(|opts| opts.as_message()).map(fields).unwrap_or_default();
    Ok(Message { request, fields, unknown: unknown.iter().map(ToString::to_string).collect() })
}

fn fields(message: &DynamicMessage) -> Vec<(String, RpcValue)> {
    message.fields().filter_map(|(field, value)| Some((field.name().to_owned(), convert(value)?))).collect()
}

/// `None` for kinds that rpc.proto does not use: bytes, floats and maps.
fn convert(value: &Value) -> Option<RpcValue> {
    Some(match value {
        Value::Bool(on) => RpcValue::Bool(*on),
        Value::I32(number) | Value::EnumNumber(number) => RpcValue::Int((*number).into()),
        Value::U32(number) => RpcValue::Int((*number).into()),
        Value::I64(number) => RpcValue::Int(*number),
        Value::U64(number) => RpcValue::Int(i64::try_from(*number).ok()?),
        Value::String(text) => RpcValue::Text(text.clone()),
        Value::Message(message) => RpcValue::Message(fields(message)),
        Value::List(items) => RpcValue::List(items.iter().filter_map(convert).collect()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_images::proto::{CriuOpts, InheritFd};
    use proptest::prelude::*;

    fn request(opts: CriuOpts) -> CriuReq {
        CriuReq { r#type: CriuReqType::Dump.into(), opts: Some(opts), ..CriuReq::default() }
    }

    #[test]
    fn only_present_fields_are_given() {
        let opts = CriuOpts {
            images_dir_fd: -1,
            shell_job: Some(false),
            inherit_fd: vec![InheritFd { key: "pipe:[1]".into(), fd: 7 }],
            ..CriuOpts::default()
        };
        let message = decode(&request(opts).encode_to_vec()).unwrap();
        let pair =
            vec![("key".to_owned(), RpcValue::Text("pipe:[1]".into())), ("fd".to_owned(), RpcValue::Int(7))];
        let mut fields = message.fields;
        fields.sort_by(|left, right| left.0.cmp(&right.0));
        assert_eq!(
            fields,
            [
                ("images_dir_fd".to_owned(), RpcValue::Int(-1)),
                ("inherit_fd".to_owned(), RpcValue::List(vec![RpcValue::Message(pair)])),
                ("shell_job".to_owned(), RpcValue::Bool(false)),
            ]
        );
    }

    #[test]
    fn every_field_of_the_options_is_mapped() {
        let number = |field: &prost_reflect::FieldDescriptor| match field.kind() {
            prost_reflect::Kind::Bool => Value::Bool(true),
            prost_reflect::Kind::Enum(_) => Value::EnumNumber(1),
            prost_reflect::Kind::String => Value::String("1".into()),
            kind => Value::default_value(&kind),
        };
        let sample = |field: &prost_reflect::FieldDescriptor| {
            let value = match field.kind() {
                prost_reflect::Kind::Message(message) => {
                    let mut part = DynamicMessage::new(message.clone());
                    message.fields().for_each(|field| part.set_field(&field, number(&field)));
                    Value::Message(part)
                }
                _ => number(field),
            };
            if field.is_list() { Value::List(vec![value]) } else { value }
        };
        let opts = descriptors().get_message_by_name("criu_opts").unwrap();
        assert_eq!(opts.fields().count(), 70);
        for field in opts.fields() {
            let value = convert(&sample(&field)).unwrap();
            let layer = criu_config::RpcLayer::from_fields([(field.name().to_owned(), value)]);
            assert_eq!(layer.unknown, [""; 0], "{}", field.name());
        }
    }

    #[test]
    fn a_missing_type_and_garbage_are_errors() {
        assert!(decode(&[]).unwrap_err().message.contains("criu_req"));
        assert_eq!(decode(b"GET / HTTP/1.1\r\n\r\n").unwrap_err().errno, libc::EBADRQC);
    }

    #[test]
    fn unknown_fields_are_named() {
        let mut bytes = CriuReq { r#type: CriuReqType::Version.into(), ..CriuReq::default() }.encode_to_vec();
        bytes.extend([0xf8, 0x07, 1]); // field 127, varint
        assert_eq!(decode(&bytes).unwrap().unknown, ["field 127 of criu_req"]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }

        #[test]
        fn damaged_requests_do_no_harm(at in 0usize..64, byte: u8, cut in 0usize..64) {
            let opts = CriuOpts {
                images_dir_fd: 5,
                log_file: Some("a.log".into()),
                external: vec!["mnt[]".into(), "file[1:2]".into()],
                ..CriuOpts::default()
            };
            let mut bytes = request(opts).encode_to_vec();
            bytes.truncate(cut.max(1));
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = decode(&bytes);
        }
    }
}
