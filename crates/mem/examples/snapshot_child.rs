//! Takes a snapshot of a child's memory, and looks a value up in it when the child is gone.
//!
//! `cargo run -p criu-mem --example snapshot_child`
//!
//! No tracer, no root and no image directory are needed: a parent may look at its child's memory.

use criu_images::pagemap::Pagemap;
use criu_images::{Image, MemoryStore, Store};
use criu_kernel::{Pid, proc::ProcDir};
use criu_mem::pages::{Job, Run, Source, store_all};
use criu_mem::{scan, shmem};
use criu_resource::BoxError;
use std::io::{Read, Seek, SeekFrom};

fn main() -> Result<(), BoxError> {
    let counter = Box::new([42u64; 512]);
    let address = counter.as_ptr() as u64;

    // SAFETY: the child makes system calls only.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            libc::raise(libc::SIGSTOP);
            libc::_exit(0);
        }
    }
    // SAFETY: the child is ours.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), libc::WUNTRACED) };

    // While the child stands still: which areas and pages it has.
    let areas = scan::areas(&ProcDir::open(Pid::from_raw(child))?, child, shmem::device()?)?;
    let (runs, _) = scan::page_runs(child, &areas)?;
    for area in &areas {
        let entry = &area.entry;
        let inside = |run: &Run| run.end.min(entry.end).saturating_sub(run.start.max(entry.start));
        let stored: u64 = runs.iter().map(inside).sum();
        let name = area.file.as_ref().map(|file| file.path.display().to_string()).unwrap_or_default();
        println!(
            "{:#014x} {:>9} KiB {:>7} stored {name}",
            entry.start,
            (entry.end - entry.start) >> 10,
            stored >> 10
        );
    }

    // The pages themselves, in the format of a checkpoint.
    let store = MemoryStore::new();
    let job = Job::new(Source::Task(child), runs, (Image::Pagemap, child as u64), 1);
    let pages = job.pages();
    store_all(&store, &[job])?;
    // SAFETY: the child is ours, and not waited for yet.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }

    // The child is gone; its memory is still there.
    let map = Pagemap::read(&store, Image::Pagemap, child as u64)?;
    let extent = map.extents().find(|extent| extent.range.contains(&address)).ok_or("page not stored")?;
    let offset = extent.offset.ok_or("page not stored")? + (address - extent.range.start);
    let mut image = store.open(&Image::Pages.file_name(map.pages_id.into()))?;
    image.seek(SeekFrom::Start(offset))?;
    let mut word = [0; 8];
    image.read_exact(&mut word)?;
    println!("{pages} pages stored; the counter at {address:#x} was {}", u64::from_ne_bytes(word));
    if u64::from_ne_bytes(word) != counter[0] {
        return Err("the snapshot differs from the memory".into());
    }
    Ok(())
}
