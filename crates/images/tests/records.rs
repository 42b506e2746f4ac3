//! Records through stores and the JSON form, and what damaged images are answered.

use std::io::Write;

use criu_images::{
    DirStore, Error, Image, MemoryStore, Record, RecordSet, Store, StoreExt, json, magic,
    proto::{
        CoreEntry, GhostChunkEntry, GhostFileEntry, IpcDescEntry, IpcMsg, IpcMsgEntry, IpcSemEntry,
        IpcShmEntry, PipeDataEntry, SkPacketEntry, TcpStreamEntry, UnixSkEntry, VmaEntry, core_entry::March,
    },
    record::read_records,
};
use proptest::prelude::*;
use serde_json::json as value;

fn pipe(id: u32, bytes: &[u8]) -> Record {
    let entry = PipeDataEntry { pipe_id: id, bytes: bytes.len() as u32, size: None };
    Record::new(Image::PipesData, 0, &entry).with_payload(bytes.to_vec())
}

/// One record or more of every image with raw bytes.
fn with_payloads() -> Vec<Vec<Record>> {
    let desc = IpcDescEntry { key: 1, ..IpcDescEntry::default() };
    let tcp = TcpStreamEntry { inq_len: 2, outq_len: 3, ..TcpStreamEntry::default() };
    let shm = IpcShmEntry { desc, size: 5, ..IpcShmEntry::default() };
    let sem = IpcSemEntry { desc, nsems: 3 };
    let queue = IpcMsgEntry { desc, qbytes: 64, qnum: 1 };
    let mut messages = Vec::new();
    let message = IpcMsg { mtype: 7, msize: 4 };
    criu_images::frame::write_entry(&mut messages, &message).expect("to memory");
    messages.extend(b"text\0\0\0\0");
    let packet = SkPacketEntry { id_for: 1, length: 1, ..SkPacketEntry::default() };
    let whole = GhostFileEntry::default();
    let chunked = GhostFileEntry { chunks: Some(true), ..GhostFileEntry::default() };
    let chunk = |off, len| GhostChunkEntry { off, len };
    vec![
        vec![pipe(1, b"foo"), pipe(2, b""), pipe(3, &[0xff; 70_000])],
        vec![Record::new(Image::SkQueues, 0, &packet).with_payload(vec![9])],
        vec![Record::new(Image::TcpStream, 0x1f, &tcp).with_payload(b"inout".to_vec())],
        vec![Record::new(Image::IpcnsShm, 4, &shm).with_payload(b"hello\0\0\0".to_vec())],
        vec![Record::new(Image::IpcnsSem, 4, &sem).with_payload(vec![1, 0, 2, 0, 3, 1, 0, 0])],
        vec![Record::new(Image::IpcnsMsg, 4, &queue).with_payload(messages)],
        vec![Record::new(Image::GhostFile, 0xab, &whole).with_payload(b"content".to_vec())],
        vec![
            Record::new(Image::GhostFile, 0xac, &chunked),
            Record::new(Image::GhostFile, 0xac, &chunk(0, 3)).with_payload(b"abc".to_vec()),
            Record::new(Image::GhostFile, 0xac, &chunk(8192, 1)).with_payload(b"z".to_vec()),
        ],
        vec![Record::raw(Image::Iptables, 9, b"*filter".to_vec())],
    ]
}

#[test]
fn records_come_back_from_both_stores() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let stores: [Box<dyn Store>; 2] =
        [Box::new(MemoryStore::new()), Box::new(DirStore::open_writable(dir.path()).expect("opened"))];
    for store in stores {
        let set: RecordSet = with_payloads().into_iter().flatten().collect();
        set.write_to(&*store).expect("written");
        let mut names: Vec<String> = set.file_names().collect();
        names.sort();
        assert_eq!(store.list().expect("listed"), names);
        for records in with_payloads() {
            let (image, id) = (records[0].image, records[0].id);
            assert_eq!(read_records(&*store, image, id).expect("read"), records);
        }
    }
}

#[test]
fn json_leads_back_to_the_same_bytes() {
    let store = MemoryStore::new();
    let mut set: RecordSet = with_payloads().into_iter().flatten().collect();
    let socket = UnixSkEntry { name: b"\0abstract=\xff name".to_vec(), ..UnixSkEntry::default() };
    set.push(Record::new(Image::Unixsk, 0, &socket));
    set.write_to(&store).expect("written");
    for name in store.list().expect("listed") {
        let bytes = store.get(&name).expect("there");
        let document = match json::read(&*bytes, &name) {
            Err(Error::Misuse { .. }) => {
                assert_eq!(name, "iptables-9.img");
                continue;
            }
            document => document.expect("decoded"),
        };
        assert_eq!(document.unknown, []);
        assert_eq!(json::encode(&document.value).expect("encoded"), *bytes, "{name}");
    }
}

#[test]
fn json_shows_names_as_text_where_they_are() {
    for (name, shown) in [(&b"a name"[..], value!("a name")), (b"n\xff", value!({"base64": "bv8=\n"}))] {
        let entry = criu_images::proto::MemfdInodeEntry { name: name.to_vec(), ..Default::default() };
        let record = Record::new(Image::MemfdInode, 0, &entry);
        let document = json::decode(Image::MemfdInode, std::slice::from_ref(&record)).expect("decoded");
        assert_eq!(document["entries"][0]["name"], shown);
        assert_eq!(json::records(&document).expect("encoded").1, [record]);
    }
}

#[test]
fn json_has_the_shape_that_crit_prints() {
    let image = json::decode(Image::PipesData, &[pipe(1, b"foo")]).expect("decoded");
    assert_eq!(
        image.to_string(),
        r#"{"magic":"PIPES_DATA","entries":[{"pipe_id":1,"bytes":3,"extra":"Zm9v\n"}]}"#
    );
    let core = CoreEntry { mtype: March::X8664.into(), ..CoreEntry::default() };
    let image = json::decode(Image::Core, &[Record::new(Image::Core, 1, &core)]).expect("decoded");
    assert_eq!(image.to_string(), r#"{"magic":"CORE","entries":[{"mtype":"X86_64"}]}"#);
    let documents = with_payloads();
    let tcp = json::decode(Image::TcpStream, &documents[2]).expect("decoded");
    assert_eq!(tcp["entries"][0]["extra"].to_string(), r#"{"inq":"aW4=\n","outq":"b3V0\n"}"#);
    let sem = json::decode(Image::IpcnsSem, &documents[4]).expect("decoded");
    assert_eq!(sem["entries"][0]["extra"].to_string(), "[1,2,259]");
    let msg = json::decode(Image::IpcnsMsg, &documents[5]).expect("decoded");
    assert_eq!(msg["entries"][0]["extra"].to_string(), r#"[{"mtype":7,"msize":4},"dGV4dA==\n"]"#);
}

#[test]
fn wrong_json_names_the_place() {
    for (text, expected) in [
        (r#"{"entries":[]}"#, "magic: "),
        (r#"{"magic":"CORE"}"#, "entries: a list"),
        (r#"{"magic":"CORE","entries":[{"mtype":"Z80"}]}"#, "entries[0].mtype: Z80"),
        (r#"{"magic":"CORE","entries":[{}]}"#, "entries[0]: required field 1"),
        (r#"{"magic":"CORE","entries":[{"mtype":1,"tc":{"blk":1}}]}"#, "entries[0].tc.blk: no such field"),
        (
            r#"{"magic":"PIPES_DATA","entries":[{"pipe_id":1,"bytes":2,"extra":"Zm9v"}]}"#,
            "entries[0].extra: 3 bytes, the entry says 2",
        ),
        (
            r#"{"magic":"PIPES_DATA","entries":[{"pipe_id":-1,"bytes":0}]}"#,
            "entries[0].pipe_id: a number of type u32",
        ),
    ] {
        let document = serde_json::from_str(text).expect("JSON");
        let error = json::encode(&document).expect_err(text).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn core_begins_with_the_bytes_of_the_reference() {
    let store = MemoryStore::new();
    let core = CoreEntry { mtype: March::X8664.into(), ..CoreEntry::default() };
    store.write_image(Image::Core, 1, &[core]).expect("written");
    let bytes = store.get("core-1.img").expect("there");
    let expected = [0x19, 0x43, 0x56, 0x54, 0x47, 0x38, 0x05, 0x55, 2, 0, 0, 0, 8, 1];
    assert_eq!(*bytes, expected);
    // Images of format 1.0 lack the first word.
    store.insert("core-2.img", &bytes[4..]);
    assert_eq!(store.read_one::<CoreEntry>(Image::Core, 2).expect("read").mtype(), March::X8664);
    let stats = criu_images::frame::header(Image::Stats);
    assert_eq!(stats, [0x40, 0x59, 0x10, 0x55, 0x06, 0x33, 0x09, 0x57]);
    assert_eq!(Image::Stats.file_name(magic::STATS_DUMP), "stats-dump");
}

#[test]
fn damage_is_told_apart() {
    let store = MemoryStore::new();
    let read = |bytes: &[u8]| {
        store.insert("vmas-1.img", bytes);
        store.read_image::<VmaEntry>(Image::Vmas, 1)
    };
    let good = {
        let mut bytes = criu_images::frame::header(Image::Vmas);
        criu_images::frame::write_entry(&mut bytes, &VmaEntry::default()).expect("to memory");
        bytes
    };
    assert_eq!(read(&good).expect("good").len(), 1);

    let missing = store.read_image::<VmaEntry>(Image::Vmas, 2).expect_err("missing");
    assert!(missing.is_missing());
    assert!(store.read_image_opt::<VmaEntry>(Image::Vmas, 2).expect("optional").is_none());

    for cut in 0..good.len() {
        match read(&good[..cut]) {
            Ok(entries) => assert_eq!((cut, entries.len()), (8, 0)),
            Err(error) => assert!(matches!(error, Error::Truncated { .. }), "{cut}: {error}"),
        }
    }

    let mut other = good.clone();
    other[4] ^= 1;
    assert!(matches!(read(&other), Err(Error::BadMagic { offset: 4, .. })));

    let huge = [&good[..8], &[0xff; 4]].concat();
    assert!(matches!(read(&huge), Err(Error::Corrupt { offset: 8, .. })));
    let large = [&good[..8], &0x7fff_ffff_u32.to_le_bytes()].concat();
    assert!(matches!(read(&large), Err(Error::Truncated { offset: 12, .. })));

    let newer = [&good[..8], &[0, 0, 0, 0]].concat();
    assert!(matches!(read(&newer), Err(Error::Corrupt { .. })), "required fields are missing");

    let mut newer = good.clone();
    newer[8] += 3;
    newer.extend([0xf8, 0x07, 1]);
    let error = read(&newer).expect_err("unknown field").to_string();
    assert!(error.contains("vmas-1.img") && error.contains("field 127 of vma_entry"), "{error}");
    let tolerated = json::read(newer.as_slice(), "vmas-1.img").expect("tolerated");
    assert_eq!(tolerated.unknown.len(), 1);

    store.write_image(Image::Core, 1, &[CoreEntry::default(), CoreEntry::default()]).expect("written");
    let two = store.read_one::<CoreEntry>(Image::Core, 1).expect_err("two");
    assert!(matches!(two, Error::NotOne { found: 2, .. }));
}

#[test]
fn directories_say_what_is_wrong_with_them() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let error = DirStore::open(dir.path().join("none")).expect_err("missing");
    assert!(error.to_string().contains("create it first"), "{error}");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    let error = DirStore::open(&file).expect_err("a file");
    assert!(error.to_string().contains("is no directory"), "{error}");

    let store = DirStore::open_writable(dir.path()).expect("opened");
    store.remove("none").expect("nothing to remove");
    store.remove_incomplete(["file", "none"]).expect("removed");
    assert_eq!(store.list().expect("listed"), [""; 0]);
    assert!(store.open("none").err().is_some_and(|error| error.is_missing()));
}

#[test]
fn a_full_disk_is_not_lost_in_the_buffer() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: mounting a file system of one page needs root");
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    // The mount is this thread's own, and goes with it.
    unshare(CloneFlags::CLONE_NEWNS).expect("mount namespace");
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none).expect("private mounts");
    mount(Some("small"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=4096")).expect("tmpfs");
    let store = DirStore::open(dir.path()).expect("opened");
    let mut writer = store.create("mm-1.img").expect("created");
    writer.write_all(&[7; 8192]).expect("buffered");
    let error = writer.finish().expect_err("full").to_string();
    assert!(error.contains("mm-1.img") && error.contains("free some space"), "{error}");
}

proptest! {
    #[test]
    fn any_pipe_data_comes_back(contents: Vec<Vec<u8>>) {
        let store = MemoryStore::new();
        let records: Vec<Record> = contents.iter().zip(0..).map(|(bytes, id)| pipe(id, bytes)).collect();
        let mut set: RecordSet = records.iter().cloned().collect();
        set.touch(Image::PipesData, 0);
        set.write_to(&store).expect("written");
        prop_assert_eq!(read_records(&store, Image::PipesData, 0).expect("read"), records);
    }

    #[test]
    fn damaged_images_never_panic(damage: prop::sample::Index, bit in 0_u8..8, cut: Option<prop::sample::Index>) {
        let store = MemoryStore::new();
        let set: RecordSet = with_payloads().into_iter().skip(1).flatten().collect();
        set.write_to(&store).expect("written");
        for name in store.list().expect("listed") {
            let mut bytes = store.get(&name).expect("there").to_vec();
            *damage.get_mut(&mut bytes) ^= 1 << bit;
            bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
            if let Ok(document) = json::read(bytes.as_slice(), &name) {
                let _ = json::encode(&document.value);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(choice: prop::sample::Index, tail: Vec<u8>, sized: bool) {
        let images: Vec<Image> = Image::all().collect();
        let image = images[choice.index(images.len())];
        let mut bytes = criu_images::frame::header(image);
        if sized {
            bytes.extend((tail.len() as u32).to_le_bytes());
        }
        bytes.extend(tail);
        if let Ok(document) = json::read(bytes.as_slice(), &image.file_name(1)) {
            let _ = json::encode(&document.value);
        }
        let _ = json::read(bytes.as_slice(), "strange");
    }
}
