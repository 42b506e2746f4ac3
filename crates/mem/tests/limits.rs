//! What a dump costs, and what it refuses.

#[allow(dead_code, reason = "shared with tests that restore, too")]
mod common;

use common::*;
use criu_images::{DirStore, Store};
use criu_mem::Memory;
use criu_resource::{DumpContext, Options, TreeState};
use std::os::fd::AsFd;

/// What the task has: much more than a dump may need.
const SIZE: u64 = 256 << 20;
const LIMIT_KIB: u64 = 16 << 10;

/// The most memory that this process ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn own_memory_does_not_grow_with_that_of_the_target() {
    let child = Child::stopped(|| {
        map(0, SIZE / PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        // SAFETY: the area just mapped.
        must(unsafe { libc::madvise(at(0), SIZE as usize, libc::MADV_POPULATE_WRITE) });
        put(7, 1);
    });
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::open(dir.path()).unwrap();
    let memory = Memory::new(Kept::default());
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();
    dump(&memory, &store as &dyn Store, &[child.0]);
    let grown = peak() - before;
    assert!(memory.counts().pages_written >= SIZE / PAGE);
    let pages = store_bytes(dir.path());
    assert_eq!(pages, memory.counts().pages_written * PAGE, "counts and images agree");
    assert!(grown < LIMIT_KIB, "grew by {grown} KiB");
}

/// The size of all pages images.
fn store_bytes(dir: &std::path::Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let pages = files.filter(|file| file.file_name().to_string_lossy().starts_with("pages-"));
    pages.map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
fn processes_with_one_address_space_are_refused() {
    // SAFETY: the child has this process's memory and a stack of its own, and only sleeps.
    let pid = unsafe {
        let stack = libc::mmap(
            std::ptr::null_mut(),
            65536,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        libc::clone(sleep, stack.byte_add(65536), libc::CLONE_VM | libc::SIGCHLD, std::ptr::null_mut())
    };
    assert!(pid > 0);
    let other = Child(pid);
    let own = std::process::id() as i32;
    let null = std::fs::File::open("/dev/null").unwrap();
    let tree = tree(&[own, other.0], null.as_fd());
    let options = Options::default();
    let store = criu_images::MemoryStore::new();
    let context = DumpContext { options: &options, store: &store };
    let memory = Memory::new(Kept::default());
    let error = memory.dump(&tree, &context).err().expect("a refusal").to_string();
    assert!(error.contains("share one address space") && error.contains(&pid.to_string()), "{error}");
}

extern "C" fn sleep(_: *mut libc::c_void) -> i32 {
    loop {
        // SAFETY: a plain system call.
        unsafe { libc::pause() };
    }
}
