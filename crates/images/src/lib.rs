//! Checkpoint images in the format of CRIU 4.2.
//!
//! | module | what |
//! |---|---|
//! | [`proto`] | the protobuf messages |
//! | [`magic`] | [`Image`]: every image file, its name, magic and message |
//! | [`frame`] | headers and size-prefixed entries, read and written |
//! | [`store`] | where images lie: a directory or memory |
//! | [`record`] | inert entries that resource crates hand around, and their way into files |
//! | [`pagemap`] | which pages are stored, and where |
//! | [`lineage`] | pages that lie in the images of an earlier checkpoint |
//! | [`mod@dedup`] | their space, given back once a later checkpoint has them anew |
//! | [`inventory`] | the commit mark of a checkpoint |
//! | [`json`] | the JSON form that `crit decode` prints |
//! | [`unknown`] | finds fields that this version does not know, so that none is lost silently |
//!
//! ```
//! use criu_images::{Image, MemoryStore, Record, RecordSet, StoreExt, proto::PipeDataEntry, read_records};
//!
//! let entry = PipeDataEntry { pipe_id: 1, bytes: 5, size: None };
//! let mut records = RecordSet::new();
//! records.push(Record::new(Image::PipesData, 0, &entry).with_payload(b"hello".to_vec()));
//!
//! let store = MemoryStore::new(); // or DirStore::open_writable("/var/tmp/dump")?
//! records.write_to(&store)?;
//!
//! let again = read_records(&store, Image::PipesData, 0)?;
//! assert_eq!(again[0].payload, b"hello");
//! assert_eq!(again[0].decode::<PipeDataEntry>()?, entry);
//! # Ok::<(), criu_images::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod dedup;
pub mod error;
pub mod frame;
pub mod inventory;
pub mod json;
pub mod lineage;
pub mod magic;
pub mod pagemap;
pub mod payload;
pub mod proto;
pub mod record;
pub mod store;
pub mod unknown;

pub use dedup::dedup;
pub use error::{Error, Result};
pub use frame::{Entries, FrameReader};
pub use lineage::{Lineage, Pages};
pub use magic::{Family, Image};
pub use prost;
pub use record::{Record, RecordSet, read_records};
pub use store::{DirStore, ImageReader, ImageWriter, MemoryStore, Store, StoreExt};
pub use unknown::UnknownField;
