use super::*;
use crate::pages::{Job, Run, Source};
use crate::transfer::{Client, wire};
use criu_images::{DirStore, MemoryStore};
use proptest::prelude::*;
use std::io::Read;
use std::os::unix::net::UnixStream;

fn object(pages: &[u8]) -> File {
    let fd = nix::sys::memfd::memfd_create("object", nix::sys::memfd::MFdFlags::empty()).unwrap();
    let mut file = File::from(fd);
    pages.iter().for_each(|byte| file.write_all(&[*byte; PAGE as usize]).unwrap());
    file
}

fn job(id: u64, pages: &[u8], runs: &[(u64, u64)]) -> Job {
    let run = |&(start, end): &(u64, u64)| Run { start: start * PAGE, end: end * PAGE, readable: true };
    let source = Source::Shared(id, object(pages));
    Job::new(source, runs.iter().map(run).collect(), (Image::ShmemPagemap, id), 1)
}

/// Runs a server against what `client` does with the other end.
fn session(store: &dyn Store, client: impl FnOnce(UnixStream) + Send) -> Result<u64, Error> {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| client(theirs));
        let result = serve(&mut ours, store);
        drop(ours);
        result
    })
}

fn content(store: &dyn Store, id: u64) -> Vec<u8> {
    let lineage = Lineage::open(store).unwrap();
    let mut bytes = Vec::new();
    let pages = lineage.pages(Image::ShmemPagemap, id).unwrap();
    pages.reader(&lineage).unwrap().read_to_end(&mut bytes).unwrap();
    bytes.chunks(PAGE as usize).map(|page| page[0]).collect()
}

#[test]
fn what_is_sent_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let memory = MemoryStore::new();
    let many: Vec<u8> = (0..500).map(|page| (page % 251) as u8).collect();
    for store in [&DirStore::open(folder.path()).unwrap() as &dyn Store, &memory] {
        let sent = session(store, |stream| {
            let jobs =
                [job(7, &[1, 2, 0, 4], &[(0, 2), (2, 3), (3, 4)]), job(8, &many, &[(0, 400), (450, 500)])];
            Client::new(stream, "test", false).send_all(&jobs).unwrap();
        });
        assert_eq!(sent.unwrap(), 454);
        assert_eq!(content(store, 7), [1, 2, 0, 4]);
        assert_eq!(content(store, 8), [&many[..400], &many[450..]].concat());
    }
}

#[test]
fn a_client_that_hangs_up_leaves_nothing() {
    let store = MemoryStore::new();
    let of = wire::number(Image::Pagemap, 5);
    for length in [0, 1, 31, 32, 33, 64, 65, 64 + 4096] {
        let mut bytes = Head::of(Command::Open(false), of).encode().to_vec();
        bytes.extend(Head { pages: 2, address: 0, ..Head::of(Command::Add(PRESENT), of) }.encode());
        bytes.extend([1; 4096]);
        bytes.truncate(length);
        let result = session(&store, move |mut stream| stream.write_all(&bytes).unwrap());
        assert!(matches!(result, Err(Error::HungUp)), "{result:?}");
        assert_eq!(store.list().unwrap(), [""; 0]);
    }
}

#[test]
fn pages_left_to_a_parent_must_be_there() {
    let parent = MemoryStore::new();
    let sent = session(&parent, |stream| {
        Client::new(stream, "test", false).send_all(&[job(7, &[1, 2, 3], &[(0, 3)])]).unwrap();
    });
    assert_eq!(sent.unwrap(), 3);
    let of = wire::number(Image::ShmemPagemap, 7);
    for (pages, fits) in [(2, true), (3, true), (4, false)] {
        let child = MemoryStore::upon(&parent);
        let result = session(&child, move |mut stream| {
            stream.write_all(&Head::of(Command::HasParent, of).encode()).unwrap();
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(i32::from_le_bytes(answer), 1);
            stream.write_all(&Head::of(Command::Open(true), of).encode()).unwrap();
            stream.read_exact(&mut answer[..1]).unwrap();
            assert_eq!(answer[0], 1);
            let head = Head { pages, address: 0, ..Head::of(Command::Add(PARENT), of) };
            let close = Head::of(Command::Close(true), 0);
            stream.write_all(&[head.encode(), close.encode()].concat()).unwrap();
            let _ = stream.read(&mut [0; 4]); // the server may be gone
        });
        assert_eq!(result.is_ok(), fits, "{result:?}");
        if fits {
            assert_eq!(content(&child, 7), [1, 2, 3][..pages as usize]);
        }
    }
}

#[test]
fn contradictions_are_named() {
    let of = wire::number(Image::Pagemap, 5);
    let open = Head::of(Command::Open(false), of);
    let add = |address, pages, flags| Head { pages, address, ..Head::of(Command::Add(flags), of) };
    for (heads, word) in [
        (vec![add(0, 0, PRESENT)], "before their pagemap"),
        (vec![open, add(1, 1, PRESENT)], "not in order"),
        (vec![open, add(PAGE, 0, PRESENT), add(0, 0, PRESENT)], "not in order"),
        (vec![open, add(0, u64::MAX, PRESENT)], "not in order"),
        (vec![open, add(0, 1, LAZY)], "flags 2"),
        (vec![open, add(0, 1, PARENT)], "without it"),
        (vec![open, open], "twice"),
        (vec![Head::of(Command::Open(false), 3)], "unknown kind"),
        (vec![Head::of(Command::Get, of)], "lazy-pages"),
    ] {
        let store = MemoryStore::new();
        let bytes: Vec<u8> = heads.iter().flat_map(Head::encode).collect();
        let error = session(&store, move |mut stream| stream.write_all(&bytes).unwrap()).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(store.list().unwrap(), [""; 0]);
    }
}

proptest! {
    #[test]
    fn garbage_is_an_error_and_leaves_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let store = MemoryStore::new();
        let result = session(&store, move |mut stream| {
            let _ = stream.write_all(&bytes); // the server may be gone
        });
        prop_assert!(result.is_err());
        prop_assert_eq!(store.list().unwrap(), [""; 0]);
    }
}

/// A stream that notes how long what is written at once is.
struct Noting(UnixStream, std::sync::Arc<std::sync::Mutex<Vec<usize>>>);

impl Read for Noting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Noting {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write_all(buffer)?;
        self.1.lock().unwrap().push(buffer.len());
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn records_end_where_portions_do() {
    let (store, noted) = (MemoryStore::new(), std::sync::Arc::default());
    let written = std::sync::Arc::clone(&noted);
    // The second run begins in the middle of what is read at once, and goes on in the next.
    let sent = session(&store, move |stream| {
        let jobs = [job(7, &[1; 100], &[(0, 1), (2, 77)])];
        Client::in_records(Noting(stream, written), "test", false).send_all(&jobs).unwrap();
    });
    assert_eq!(sent.unwrap(), 76);
    let noted = noted.lock().unwrap();
    let second: Vec<usize> = noted.iter().skip(4).take_while(|len| **len != LEN).copied().collect();
    assert_eq!(noted[..4], [LEN, LEN, 4096, LEN]);
    assert_eq!(second.iter().sum::<usize>(), 75 * 4096);
    let mut end = 0;
    for len in second {
        assert!(len <= 16 << 10 && end / (64 << 10) == (end + len - 1) / (64 << 10), "{len} bytes at {end}");
        end += len;
    }
}
