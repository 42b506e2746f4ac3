use super::*;
use std::io::Read;
use std::os::fd::AsFd;

const MIB: u64 = 1 << 20;

fn run(start: u64, end: u64) -> Run {
    Run { start, end, readable: true }
}

fn job(runs: Vec<Run>) -> Job {
    Job::new(Source::Task(0), runs, (Image::Pagemap, 5), 3)
}

#[test]
fn units_keep_their_places() {
    let job = job(vec![run(0, PAGE), run(MIB, 41 * MIB)]);
    let units = job.units();
    let shown: Vec<_> = units.iter().map(|(at, runs)| (*at, runs.len(), runs[0].start)).collect();
    assert_eq!(shown, [(0, 2, 0), (16 * MIB, 1, 17 * MIB - PAGE), (32 * MIB, 1, 33 * MIB - PAGE)]);
    assert_eq!(units.iter().flat_map(|(_, runs)| runs).map(Run::len).sum::<u64>(), job.bytes());
}

#[test]
fn touching_runs_are_one_entry() {
    let hidden = Run { readable: false, ..run(2 * PAGE, 3 * PAGE) };
    let map = job(vec![run(0, 2 * PAGE), hidden, run(5 * PAGE, 6 * PAGE)]).pagemap();
    let shown: Vec<_> = map.entries.iter().map(|e| (e.vaddr / PAGE, pagemap::pages(e))).collect();
    assert_eq!(shown, [(0, 3), (5, 1)]);
}

#[test]
fn zero_pages_are_holes() {
    let mut file = tempfile::tempfile().unwrap();
    let mut bytes = vec![0u8; 8 * PAGE as usize];
    bytes[PAGE as usize - 1] = 1;
    bytes[5 * PAGE as usize + 100] = 2;
    write_sparsely(&file, &bytes, 0).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    let mut found = Vec::new();
    file.read_to_end(&mut found).unwrap();
    assert!(found == bytes);
    let data: Vec<_> = data_runs(file.as_fd(), bytes.len() as u64).unwrap();
    assert_eq!(data, [run(0, PAGE), run(5 * PAGE, 6 * PAGE)]);
}

#[test]
fn a_large_object_goes_through_several_workers() {
    let dir = tempfile::tempdir().unwrap();
    let store = criu_images::DirStore::open_writable(dir.path()).unwrap();
    let source = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..80 * MIB).map(|at| (at / 4096 * 7 + 1) as u8).collect();
    source.write_all_at(&content, 0).unwrap();
    let runs = vec![run(0, 70 * MIB), run(71 * MIB, 80 * MIB)];
    let job = Job { source: Source::Shared(9, source), image: Image::ShmemPagemap, ..job(runs) };
    store_all(&store, &[job]).unwrap();
    let mut found = Vec::new();
    store.open("pages-3.img").unwrap().read_to_end(&mut found).unwrap();
    assert_eq!(found.len() as u64, 79 * MIB);
    assert!(found[..70 << 20] == content[..70 << 20] && found[70 << 20..] == content[71 << 20..]);
    assert_eq!(Pagemap::read(&store, Image::ShmemPagemap, 5).unwrap().stored_bytes(), 79 * MIB);
}

#[test]
fn a_task_that_is_gone_is_named() {
    let store = criu_images::MemoryStore::new();
    let mut job = job(vec![run(0x1000, 0x2000)]);
    job.source = Source::Task(i32::MAX);
    let error = store_all(&store, &[job]).unwrap_err().to_string();
    assert!(error.starts_with("task 2147483647: open(/proc/PID/mem)"), "{error}");
}
