//! Compiles `proto/*.proto` without a protoc: protox parses, prost-build generates.

use std::{collections::BTreeMap, env, error::Error, fmt::Write, fs, path::PathBuf};

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Label};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut files: Vec<PathBuf> =
        fs::read_dir("proto")?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    files.retain(|path| path.extension().is_some_and(|ext| ext == "proto"));
    files.sort();

    let set = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("images.fds"), set.encode_to_vec())?;
    fs::write(out.join("shapes.rs"), shapes(&set)?)?;
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    // An entry has one of these at most, and there may be thousands of entries.
    for large in ["isk", "psk", "nlsk", "usk"] {
        config.boxed(format!(".file_entry.{large}"));
    }
    config.compile_fds(set)?;
    Ok(())
}

/// The table that `unknown.rs` walks messages with, sorted by name. Made here, since a descriptor pool takes
/// longer to build than a small tree to restore.
fn shapes(set: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut messages = BTreeMap::new();
    for file in &set.file {
        collect("", &file.message_type, &mut messages);
    }
    let index: BTreeMap<&str, usize> = messages.keys().map(String::as_str).zip(0..).collect();
    let mut text = String::from("&[\n");
    for (name, message) in &messages {
        let last = message.field.iter().map(|field| field.number()).max().unwrap_or(0);
        let mut fields = vec!["Field::Unknown".to_owned(); usize::try_from(last)? + 1];
        let mut required = 0_u128;
        for field in &message.field {
            let inner = index.get(field.type_name().trim_start_matches('.'));
            fields[usize::try_from(field.number())?] = match inner {
                Some(inner) => format!("Field::Message({inner})"),
                None => "Field::Scalar".into(), // enums too
            };
            if field.label() == Label::Required {
                required |= 1_u128 << field.number();
            }
        }
        writeln!(
            text,
            "Layout {{ name: {name:?}, fields: &[{}], required: {required} }},",
            fields.join(", ")
        )?;
    }
    text.push(']');
    Ok(text)
}

fn collect<'a>(prefix: &str, from: &'a [DescriptorProto], to: &mut BTreeMap<String, &'a DescriptorProto>) {
    for message in from {
        let name = format!("{prefix}{}", message.name());
        collect(&format!("{name}."), &message.nested_type, to);
        to.insert(name, message);
    }
}
