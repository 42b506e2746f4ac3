//! A task's memory is dumped; another task runs the steps of the restore; both must look alike.

mod common;

use common::*;
use criu_images::MemoryStore;
use criu_mem::{Counts, Memory, status};
use std::io::Write;
use std::os::fd::AsRawFd;

const ANON: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const SHARED: i32 = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const SPARSE: u64 = 0x10_0000;

/// Maps something of every kind.
fn set_up(file: i32, memfd: i32) {
    let bytes = |pages: u64| (pages * PAGE) as usize;
    // SAFETY: system calls on the window, which is this child's own.
    unsafe {
        // Written, only read, and never touched pages.
        map(0, 16, RW, ANON, -1);
        (0..4).for_each(|page| put(page, 1 + page as u8));
        (4..8).for_each(|page| must(i32::from((at(page) as *const u8).read_volatile())));
        put(8, 0);
        // Next to it: without write permission, and without any.
        map(16, 8, RW, ANON, -1);
        (16..24).for_each(|page| put(page, 50 + page as u8));
        must(libc::mprotect(at(16), bytes(4), libc::PROT_READ));
        must(libc::mprotect(at(20), bytes(4), libc::PROT_NONE));
        map(24, 4, libc::PROT_NONE, ANON, -1);
        map(28, 4, RW | libc::PROT_EXEC, ANON, -1);
        put(29, 9);
        // A stack.
        map(400, 8, RW, ANON | libc::MAP_GROWSDOWN, -1);
        put(407, 3);
        // Files.
        map(500, 4, RW, libc::MAP_PRIVATE, file);
        put(501, 77);
        put(502, 0);
        must(libc::mprotect(at(500), bytes(4), libc::PROT_READ));
        map(510, 4, RW, libc::MAP_SHARED, file);
        put(513, 78);
        map(520, 2, RW, libc::MAP_SHARED, memfd);
        put(520, 79);
        // Shared memory, mapped twice.
        map(600, 32, RW, SHARED, -1);
        put(600, 80);
        put(631, 81);
        must(libc::munmap(at(610), bytes(10)));
        if libc::mremap(at(620), 0, bytes(12), libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, at(700)) != at(700)
        {
            libc::_exit(103);
        }
        // Advice, locks, guards, and a lot of nothing.
        map(800, 4, RW, ANON, -1);
        put(801, 82);
        must(libc::madvise(at(800), bytes(4), libc::MADV_DONTDUMP));
        must(libc::madvise(at(802), bytes(2), libc::MADV_DONTFORK));
        map(810, 4, RW, ANON, -1);
        must(libc::mlock(at(810), bytes(2)));
        put(810, 83);
        map(820, 8, RW, ANON, -1);
        (820..828).for_each(|page| put(page, 84));
        must(libc::madvise(at(822), bytes(2), 102));
        map(1000, 600, RW, ANON, -1);
        (1000..1600).for_each(|page| put(page, page as u8));
        map(SPARSE, 1 << 20, RW, ANON | libc::MAP_NORESERVE, -1);
        must(libc::madvise(at(SPARSE), bytes(1 << 20), libc::MADV_NOHUGEPAGE));
        put(SPARSE + (1 << 19), 85);
    }
}

#[test]
fn every_kind_of_area_comes_back() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[5; 4 * PAGE as usize]).unwrap();
    let memfd = nix::sys::memfd::memfd_create("some", nix::sys::memfd::MFdFlags::empty()).unwrap();
    nix::unistd::ftruncate(&memfd, 2 * PAGE as i64).unwrap();
    let original = Child::stopped(|| set_up(file.as_raw_fd(), memfd.as_raw_fd()));

    let memory = Memory::new(Kept::default());
    let store = MemoryStore::new();
    dump(&memory, &store, &[original.0]);
    let mm = cut(&store, original.0);
    let of = |page: u64| mm.vmas.iter().find(|vma| vma.start == WINDOW + page * PAGE).unwrap();
    assert!(status::is(of(400), status::REGULAR | status::ANON_PRIVATE));
    assert!(status::is(of(510), status::REGULAR | status::FILE_SHARED));
    assert_eq!(of(510).fdflags, Some(libc::O_RDWR as u32));
    assert!(status::is(of(520), status::REGULAR | status::FILE_SHARED | status::MEMFD));
    assert!(status::is(of(600), status::REGULAR | status::ANON_SHARED));
    assert_eq!(of(600).shmid, of(700).shmid);
    assert_eq!(of(700).pgoff, 20 * PAGE);
    assert!(status::is(of(822), status::GUARD));

    let mut scripts = restore(&memory, &store, &[original.0]);
    assert!(scripts.memory[0].1 < 60, "{} steps", scripts.memory[0].1);
    let copy = Child::stopped(|| {
        run_or_exit(&mut scripts.inherit[0]);
        run_or_exit(&mut scripts.memory[0]);
    });
    assert_same(original.0, copy.0);
    let far = WINDOW + (SPARSE + (1 << 19)) * PAGE;
    assert_eq!(page(copy.0, far).unwrap()[7], 85);
}

#[test]
fn a_child_shares_pages_with_its_parent_again() {
    let mut relay = [0i32; 2];
    // SAFETY: room for two descriptors.
    unsafe { must(libc::pipe(relay.as_mut_ptr())) };
    let parent = Child::stopped(|| {
        map(0, 512, RW, ANON, -1);
        (0..400).for_each(|page| put(page, 1));
        map(1000, 8, RW, ANON, -1);
        put(1000, 1);
        // SAFETY: a child of the child, which writes its pid and stops.
        unsafe {
            if libc::fork() == 0 {
                (100..110).for_each(|page| put(page, 2));
                must(libc::madvise(at(200), 10 * PAGE as usize, libc::MADV_DONTNEED));
                put(450, 3);
                must(libc::munmap(at(1000), 8 * PAGE as usize));
                let pid = libc::getpid();
                libc::write(relay[1], (&raw const pid).cast(), 4);
                libc::raise(libc::SIGSTOP);
            }
        }
    });
    let original = receive(relay[0]);
    let _orphan = Child(original);
    let memory = Memory::new(Kept::default());
    let store = MemoryStore::new();
    dump(&memory, &store, &[parent.0, original]);
    let Counts { pages_written, shared_pages_written, .. } = memory.counts();
    assert!(pages_written > 780 && shared_pages_written == 0, "{pages_written}");
    cut(&store, parent.0);
    cut(&store, original);

    let mut scripts = restore(&memory, &store, &[parent.0, original]);
    let copy = Child::stopped(|| {
        run_or_exit(&mut scripts.inherit[0]);
        // SAFETY: as above.
        unsafe {
            if libc::fork() == 0 {
                run_or_exit(&mut scripts.inherit[1]);
                run_or_exit(&mut scripts.memory[1]);
                let pid = libc::getpid();
                libc::write(relay[1], (&raw const pid).cast(), 4);
                libc::raise(libc::SIGSTOP);
            }
        }
        run_or_exit(&mut scripts.memory[0]);
    });
    let pid = receive(relay[0]);
    let _orphan = Child(pid);
    assert_same(parent.0, copy.0);
    assert_same(original, pid);
    let shared = |page: u64| frame(copy.0, page) == frame(pid, page);
    assert!((0..100).all(shared) && (110..200).all(shared) && (210..400).all(shared));
    assert!(!(100..110).any(shared));
}

/// A pid that a grandchild sends.
fn receive(relay: i32) -> i32 {
    let mut pid = 0i32;
    // SAFETY: room for four bytes.
    unsafe { assert_eq!(libc::read(relay, (&raw mut pid).cast(), 4), 4) };
    pid
}

/// The page frame behind a page.
fn frame(pid: i32, page: u64) -> u64 {
    use std::os::unix::fs::FileExt;
    let mut word = [0; 8];
    let map = std::fs::File::open(format!("/proc/{pid}/pagemap")).unwrap();
    map.read_exact_at(&mut word, (WINDOW / PAGE + page) * 8).unwrap();
    u64::from_ne_bytes(word) & ((1 << 55) - 1)
}
