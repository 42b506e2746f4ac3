//! The messages of the image format and of the RPC, generated from `proto/*.proto`.
//!
//! Names are CamelCase forms of the names in the .proto files: `mm_entry` is [`MmEntry`], the enum
//! `march` inside `core_entry` is [`core_entry::March`]. Enum fields are plain `i32`, as prost has it;
//! typed getters (`entry.mtype()`) come with them. [`prost::Name`] gives a message's name back.

#![allow(missing_docs)]
#![allow(clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/_.rs"));
