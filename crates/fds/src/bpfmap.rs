//! BPF maps: hash tables and arrays (bpf(2)).
//!
//! A map is state of the machine, known by an id. Restore makes a new one with the same entries, and all
//! descriptions of the tree show that one; programs that use the old one go on using it.

use crate::alone::{file_entry, missing};
use crate::{fown, observed};
use criu_images::proto::{BpfmapDataEntry, BpfmapFileEntry, FdTypes, FileEntry};
use criu_images::{Image, Record, RecordSet, Store, StoreExt};
use criu_kernel::bpf::{self, NewMap};
use criu_resource::{
    BoxError, Descriptor, DumpContext, Fate, FileDump, FileKind, FileRestore, RestoreContext, Slot,
};
use criu_script::Script;
use nix::errno::Errno;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Descriptors of BPF maps.
#[derive(Debug)]
pub struct Bpfmap;

/// A map that cannot be dumped or made again.
#[derive(Debug, thiserror::Error)]
pub enum BpfmapError {
    /// Entries of this type mean more than their bytes, or cannot be listed.
    #[error("a BPF map of type {0}; only hash tables and arrays are supported")]
    Type(u32),
    /// More entries than an image holds.
    #[error("the entries of BPF map {0} take more than 4 GiB")]
    Size(u32),
    /// A system call failed.
    #[error("BPF map {map}: bpf({command}): {errno}")]
    Call {
        /// Its id at the time of the dump.
        map: u32,
        /// Which command.
        command: &'static str,
        /// Why.
        errno: Errno,
    },
}

fn failed(map: u32, command: &'static str) -> impl FnOnce(Errno) -> BpfmapError {
    move |errno| BpfmapError::Call { map, command, errno }
}

impl FileKind for Bpfmap {
    fn name(&self) -> &'static str {
        "BPF map"
    }

    fn types(&self) -> &'static [FdTypes] {
        &[FdTypes::Bpfmap]
    }

    fn claims(&self, descriptor: &Descriptor<'_>) -> bool {
        descriptor.link == Path::new("anon_inode:bpf-map")
    }

    fn dump<'t>(&'t self, _: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(Seen::default())
    }

    fn restore<'t>(&'t self, context: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        Ok(Box::new(Made::read(context.store)?))
    }
}

/// The ids of maps whose entries are stored.
#[derive(Default)]
struct Seen(HashSet<u32>);

impl FileDump for Seen {
    fn lock(&mut self, _: &Descriptor<'_>) -> Result<(), BoxError> {
        Ok(())
    }

    fn entry(&mut self, d: &Descriptor<'_>, records: &mut RecordSet) -> Result<FileEntry, BoxError> {
        let info = bpf::info(d.fd).map_err(failed(0, "BPF_OBJ_GET_INFO_BY_FD"))?;
        if ![bpf::HASH, bpf::ARRAY].contains(&info.kind) {
            return Err(BpfmapError::Type(info.kind).into());
        }
        let number = |key: &str| observed::line(d.extra, key).and_then(|text| text.parse::<u64>().ok());
        let extra = observed::line(d.extra, "map_extra").and_then(|text| text.strip_prefix("0x"));
        let end = info.name.iter().position(|&byte| byte == 0).unwrap_or(info.name.len());
        let entry = BpfmapFileEntry {
            id: d.id,
            flags: d.flags,
            pos: d.pos,
            fown: d.fown,
            map_type: info.kind,
            key_size: info.key_size,
            value_size: info.value_size,
            map_id: info.id,
            max_entries: info.max_entries,
            map_flags: info.flags,
            memlock: number("memlock").unwrap_or(0),
            frozen: number("frozen") == Some(1),
            map_name: String::from_utf8_lossy(&info.name[..end]).into_owned(),
            ifindex: info.ifindex,
            mnt_id: None,
            map_extra: extra.and_then(|digits| u64::from_str_radix(digits, 16).ok()),
        };
        if self.0.insert(info.id) {
            if info.btf_id != 0 {
                tracing::warn!("BPF map {}: its type information (BTF) is not kept", info.id);
            }
            records.push(contents(&info)?);
        }
        let mut file = file_entry(FdTypes::Bpfmap, d.id);
        file.bpf = Some(entry);
        Ok(file)
    }

    fn finish(&mut self, _: &dyn Fn(i32, i32) -> Option<u32>, _: &mut RecordSet) -> Result<(), BoxError> {
        Ok(())
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        Ok(())
    }
}

/// All entries of a map.
fn contents(info: &bpf::MapInfo) -> Result<Record, BpfmapError> {
    // The task's own may only write.
    let map = bpf::open(info.id, bpf::RDONLY).map_err(failed(info.id, "BPF_MAP_GET_FD_BY_ID"))?;
    let (keys, values) = bpf::read(map.as_fd(), info).map_err(failed(info.id, "BPF_MAP_LOOKUP_BATCH"))?;
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| BpfmapError::Size(info.id));
    let entry = BpfmapDataEntry {
        map_id: info.id,
        keys_bytes: size(&keys)?,
        values_bytes: size(&values)?,
        count: (keys.len() / info.key_size.max(1) as usize) as u32,
    };
    Ok(Record::new(Image::BpfmapData, 0, &entry).with_payload([keys, values].concat()))
}

/// A restore: entries by the id of their map, and the new maps by the same id.
struct Made {
    contents: HashMap<u32, (BpfmapDataEntry, Vec<u8>)>,
    maps: HashMap<u32, OwnedFd>,
}

impl Made {
    fn read(store: &dyn Store) -> Result<Made, BoxError> {
        let mut contents = HashMap::new();
        match store.open_image(Image::BpfmapData, 0) {
            Ok(mut image) => {
                while let Some(entry) = image.entry::<BpfmapDataEntry>()? {
                    let length = u64::from(entry.keys_bytes) + u64::from(entry.values_bytes);
                    contents.insert(entry.map_id, (entry, image.payload(length)?));
                }
            }
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Made { contents, maps: HashMap::new() })
    }

    /// The new map for an entry, open for reading and writing.
    fn map(&mut self, entry: &BpfmapFileEntry) -> Result<OwnedFd, BpfmapError> {
        let id = entry.map_id;
        if let Some(map) = self.maps.get(&id) {
            let now = bpf::info(map.as_fd()).map_err(failed(id, "BPF_OBJ_GET_INFO_BY_FD"))?.id;
            return bpf::open(now, 0).map_err(failed(id, "BPF_MAP_GET_FD_BY_ID"));
        }
        let mut name = [0; 16];
        let given = entry.map_name.as_bytes();
        let length = given.len().min(name.len() - 1);
        name[..length].copy_from_slice(&given[..length]);
        let new = NewMap {
            kind: entry.map_type,
            key_size: entry.key_size,
            value_size: entry.value_size,
            max_entries: entry.max_entries,
            flags: entry.map_flags,
            name,
            ifindex: entry.ifindex,
            extra: entry.map_extra(),
            ..NewMap::default()
        };
        let map = bpf::create(&new).map_err(failed(id, "BPF_MAP_CREATE"))?;
        if let Some((data, bytes)) = self.contents.get(&id).filter(|(data, _)| data.count != 0) {
            let (keys, values) = bytes.split_at(data.keys_bytes as usize);
            bpf::write(map.as_fd(), &new, data.count, keys, values)
                .map_err(failed(id, "BPF_MAP_UPDATE_BATCH"))?;
        }
        if entry.frozen {
            bpf::freeze(map.as_fd()).map_err(failed(id, "BPF_MAP_FREEZE"))?;
        }
        let kept = map.try_clone().map_err(|_| failed(id, "dup")(Errno::last()))?;
        self.maps.insert(id, kept);
        Ok(map)
    }
}

impl FileRestore for Made {
    fn plan(&mut self, entry: &FileEntry) -> Result<(), BoxError> {
        let entry = entry.bpf.as_ref().ok_or_else(|| missing(entry))?;
        match entry.map_type {
            bpf::HASH | bpf::ARRAY => Ok(()),
            other => Err(BpfmapError::Type(other).into()),
        }
    }

    fn open(&mut self, entry: &FileEntry) -> Result<OwnedFd, BoxError> {
        let entry = entry.bpf.as_ref().ok_or_else(|| missing(entry))?;
        let mut map = self.map(entry)?;
        let access = match entry.flags as i32 & libc::O_ACCMODE {
            libc::O_RDONLY => bpf::RDONLY,
            libc::O_WRONLY => bpf::WRONLY,
            _ => 0,
        };
        if access != 0 {
            let now = bpf::info(map.as_fd()).map_err(failed(entry.map_id, "BPF_OBJ_GET_INFO_BY_FD"))?.id;
            map = bpf::open(now, access).map_err(failed(entry.map_id, "BPF_MAP_GET_FD_BY_ID"))?;
        }
        fown::prepare(map.as_fd(), &entry.fown, entry.flags).map_err(|errno| format!("fcntl: {errno}"))?;
        Ok(map)
    }

    fn connect(&mut self, _: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), BoxError> {
        self.maps.clear();
        Ok(())
    }

    fn steps(&mut self, _: &FileEntry, _: Slot, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stopped, keep, round_trip};
    use criu_resource::Options;

    #[test]
    fn one_map_seen_twice_and_a_frozen_one() {
        if bpf::create(&NewMap {
            kind: bpf::ARRAY,
            key_size: 4,
            value_size: 1,
            max_entries: 1,
            ..NewMap::default()
        })
        .is_err()
        {
            return eprintln!("not run: no BPF maps here");
        }
        let task = Stopped::after(|| {
            let table = NewMap {
                kind: bpf::HASH,
                key_size: 1,
                value_size: 3,
                max_entries: 4,
                name: *b"some_table\0\0\0\0\0\0",
                ..NewMap::default()
            };
            let map = bpf::create(&table).unwrap();
            bpf::write(map.as_fd(), &table, 2, b"ab", b"oneTWO").unwrap();
            let id = bpf::info(map.as_fd()).unwrap().id;
            keep(bpf::open(id, bpf::RDONLY).unwrap(), 30);
            keep(map, 31);
            let array =
                NewMap { kind: bpf::ARRAY, key_size: 4, value_size: 8, max_entries: 2, ..NewMap::default() };
            let map = bpf::create(&array).unwrap();
            bpf::write(map.as_fd(), &array, 1, &[1, 0, 0, 0], &[9; 8]).unwrap();
            bpf::freeze(map.as_fd()).unwrap();
            keep(map, 32);
        });
        let again = round_trip(task, &Options::default());
        let [reader, writer, frozen] = [30, 31, 32].map(|number| again.fd(number));
        let info = bpf::info(reader.as_fd()).unwrap();
        assert_eq!(&info.name[..11], b"some_table\0");
        assert_eq!(info, bpf::info(writer.as_fd()).unwrap(), "both show one map");
        let (keys, values) = bpf::read(reader.as_fd(), &info).unwrap();
        let mut entries: Vec<_> = keys.iter().zip(values.chunks(3)).collect();
        entries.sort_unstable();
        assert_eq!(entries, [(&b'a', &b"one"[..]), (&b'b', b"TWO")]);
        let new = NewMap { key_size: 1, value_size: 3, ..NewMap::default() };
        assert_eq!(bpf::write(reader.as_fd(), &new, 1, b"c", b"333"), Err(Errno::EPERM));
        bpf::write(writer.as_fd(), &new, 1, b"c", b"333").unwrap();
        let info = bpf::info(frozen.as_fd()).unwrap();
        assert_eq!(bpf::read(frozen.as_fd(), &info).unwrap().1, [[0; 8], [9; 8]].concat());
        let new = NewMap { key_size: 4, value_size: 8, ..NewMap::default() };
        assert_eq!(bpf::write(frozen.as_fd(), &new, 1, &[0; 4], &[1; 8]), Err(Errno::EPERM));
    }
}
