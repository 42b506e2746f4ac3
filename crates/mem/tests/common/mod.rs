//! Forked tasks whose memory is dumped, and forked tasks that run the steps of a restore. What happens is
//! confined to a window of the address space, so that the steps can run without a blob of their own.

use criu_images::pagemap::{self, Pagemap};
use criu_images::proto::{CoreEntry, MmEntry, PstreeEntry};
use criu_images::{Image, MemoryStore, RecordSet, Store, StoreExt};
use criu_kernel::Pid;
use criu_kernel::proc::ProcDir;
use criu_kernel::procmap::{VmFlags, Vma};
use criu_mem::{MappedFiles, Memory};
use criu_resource::*;
use criu_script::{Script, wire};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub const PAGE: u64 = 4096;
/// Where the window begins: far from everything that the kernel chooses.
pub const WINDOW: u64 = 0x1000_0000_0000;
/// Where it ends.
pub const WINDOW_END: u64 = 0x1100_0000_0000;

/// A stopped child; killed when dropped.
pub struct Child(pub i32);

impl Child {
    /// Forks; the child does `work` and stops. It must not allocate or panic.
    pub fn stopped(work: impl FnOnce()) -> Child {
        // SAFETY: the child makes system calls only, and never returns.
        match unsafe { libc::fork() } {
            0 => {
                work();
                // SAFETY: as above.
                unsafe {
                    libc::raise(libc::SIGSTOP);
                    libc::_exit(0);
                }
            }
            pid => {
                let mut status = 0;
                // SAFETY: waits for the child just made.
                let got = unsafe { libc::waitpid(pid, &mut status, libc::WUNTRACED) };
                assert_eq!(got, pid);
                assert!(libc::WIFSTOPPED(status), "child ended with status {status:#x}");
                Child(pid)
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: the child is ours, and not waited for yet.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// mmap(2) at a page of the window, in a child.
pub fn map(page: u64, pages: u64, prot: i32, flags: i32, fd: i32) -> *mut u8 {
    let at = (WINDOW + page * PAGE) as *mut libc::c_void;
    // SAFETY: nothing else is in the window.
    let got =
        unsafe { libc::mmap(at, (pages * PAGE) as usize, prot, flags | libc::MAP_FIXED_NOREPLACE, fd, 0) };
    if got != at {
        // SAFETY: a child's exit.
        unsafe { libc::_exit(101) };
    }
    got.cast()
}

/// Writes a byte into a page of the window, in a child.
pub fn put(page: u64, value: u8) {
    // SAFETY: the caller mapped it writable.
    unsafe { ((WINDOW + page * PAGE + 7) as *mut u8).write_volatile(value) };
}

/// Ends a child when a call failed.
pub fn must(ret: i32) {
    if ret != 0 {
        // SAFETY: a child's exit.
        unsafe { libc::_exit(102) };
    }
}

/// Address of a page of the window.
pub fn at(page: u64) -> *mut libc::c_void {
    (WINDOW + page * PAGE) as *mut libc::c_void
}

/// Keeps mapped files open from dump to restore.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Vec<OwnedFd>>>);

impl MappedFiles for Kept {
    fn id_of(&self, _: i32, file: BorrowedFd<'_>, link: &Path) -> Result<u32, BoxError> {
        assert!(link.is_absolute(), "{}", link.display());
        let mut kept = self.0.lock().unwrap();
        let key = |fd: BorrowedFd<'_>| nix::sys::stat::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
        let wanted = key(file)?;
        if let Some(known) = kept.iter().position(|known| key(known.as_fd()) == Ok(wanted)) {
            return Ok(known as u32 + 1);
        }
        kept.push(file.try_clone_to_owned()?);
        Ok(kept.len() as u32)
    }

    fn number_of(&self, _: &RestoreContext<'_>, id: u32, flags: u32) -> Result<i32, BoxError> {
        let mut kept = self.0.lock().unwrap();
        let path = format!("/proc/self/fd/{}", kept[id as usize - 1].as_raw_fd());
        let flags = nix::fcntl::OFlag::from_bits_truncate(flags as i32);
        kept.push(nix::fcntl::open(path.as_str(), flags, nix::sys::stat::Mode::empty())?);
        Ok(kept.last().unwrap().as_raw_fd())
    }
}

struct Placed(Vec<OwnedFd>);

impl Place for Placed {
    fn place(&mut self, number: i32, fd: OwnedFd, _: bool) -> std::io::Result<()> {
        if fd.as_raw_fd() == number {
            self.0.push(fd);
            return Ok(());
        }
        // SAFETY: the number was reserved for this.
        self.0.push(unsafe {
            use std::os::fd::FromRawFd;
            assert_eq!(libc::dup2(fd.as_raw_fd(), number), number);
            OwnedFd::from_raw_fd(number)
        });
        Ok(())
    }
}

/// Stopped tasks; each one's parent is the one before.
pub fn tree<'a>(pids: &[i32], null: BorrowedFd<'a>) -> FrozenTree<'a> {
    let task = |(index, &pid): (usize, &i32)| FrozenTask {
        index,
        parent: index.checked_sub(1),
        pid,
        ns_pid: pid,
        ns_pgid: pid,
        ns_sid: pid,
        life: Life::Alive,
        pidfd: null,
        proc: null,
        threads: Vec::new(),
        pending: Vec::new(),
    };
    FrozenTree { tasks: pids.iter().enumerate().map(task).collect() }
}

/// Dumps stopped tasks.
pub fn dump(memory: &Memory, store: &dyn Store, pids: &[i32]) {
    let options = Options::default();
    let context = DumpContext { options: &options, store };
    let null = std::fs::File::open("/dev/null").unwrap();
    let tree = tree(pids, null.as_fd());
    let mut dump = memory.dump(&tree, &context).unwrap();
    let mut records = RecordSet::new();
    for task in &tree.tasks {
        let mut script = Script::new("test");
        let answer = dump.ask(task, &mut script).unwrap();
        // A forked child has this process's brk and flags.
        let mut bytes = vec![0; script.size()];
        script.encode(bytes.as_ptr() as u64, &mut bytes);
        assert_eq!(run(&mut bytes, script.steps().len()), None);
        let mut images = TaskImages::default();
        answer(&script.outcome(&bytes, None), &mut images).unwrap();
        records.extend(images.records.iter().cloned());
    }
    dump.bulk(Portion::All).expect("pages are bulk data")().unwrap();
    dump.finish(&mut records).unwrap();
    dump.commit(Fate::Kill).unwrap();
    records.write_to(store).unwrap();
}

/// Leaves only the window in the images.
pub fn cut(store: &MemoryStore, pid: i32) -> MmEntry {
    let mut mm: MmEntry = store.read_one(Image::Mm, pid as u64).unwrap();
    mm.vmas.retain(|vma| (WINDOW..WINDOW_END).contains(&vma.start));
    store.write_image(Image::Mm, pid as u64, std::slice::from_ref(&mm)).unwrap();

    let mut map = Pagemap::read(store, Image::Pagemap, pid as u64).unwrap();
    let name = Image::Pages.file_name(map.pages_id.into());
    let mut bytes = Vec::new();
    store.open(&name).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, map.stored_bytes());
    let mut kept = Vec::new();
    for extent in map.extents().filter(|extent| (WINDOW..WINDOW_END).contains(&extent.range.start)) {
        let offset = extent.offset.unwrap() as usize;
        kept.extend_from_slice(&bytes[offset..offset + (extent.range.end - extent.range.start) as usize]);
    }
    map.entries.retain(|entry| (WINDOW..WINDOW_END).contains(&entry.vaddr));
    assert!(map.entries.iter().all(|entry| entry.flags == Some(pagemap::PRESENT)));
    map.write(store, Image::Pagemap, pid as u64).unwrap();
    let mut writer = store.create(&name).unwrap();
    writer.write_all(&kept).unwrap();
    writer.finish().unwrap();
    mm
}

/// Scripts of a restore, encoded at the addresses of these buffers, with their numbers of steps.
pub struct Restored {
    pub inherit: Vec<(Vec<u8>, usize)>,
    pub memory: Vec<(Vec<u8>, usize)>,
    /// Open files that the steps use.
    pub _placed: Vec<OwnedFd>,
}

/// Plans the restore of tasks dumped before, and opens what they need.
pub fn restore(memory: &Memory, store: &dyn Store, pids: &[i32]) -> Restored {
    let options = Options::default();
    let numbers = Mutex::new(Numbers::default());
    let context = RestoreContext { options: &options, store, numbers: &numbers };
    for fd in ProcDir::current().unwrap().descriptors().unwrap() {
        numbers.lock().unwrap().claim(fd + 100);
    }
    let task = |(index, &pid): (usize, &i32)| BuiltTask {
        index,
        parent: index.checked_sub(1),
        pstree: PstreeEntry { pid: pid as u32, ..PstreeEntry::default() },
        life: Life::Alive,
        core: CoreEntry::default(),
        threads: Vec::new(),
        ids: None,
    };
    let tree = BuiltTree { tasks: pids.iter().enumerate().map(task).collect() };
    let mut plan = memory.restore(&tree, &context).unwrap();
    assert!(plan.occupied().iter().all(|(start, end)| start < end));
    let mut scripts = |stages: &[Stage]| {
        let script = |task| {
            let mut script = Script::new("memory");
            stages.iter().for_each(|stage| plan.emit(*stage, task, &mut script).unwrap());
            // The last step would replace this program's own executable.
            let steps = script.steps().len() - usize::from(stages.contains(&Stage::Settle));
            let mut bytes = vec![0; script.size()];
            script.encode(bytes.as_ptr() as u64, &mut bytes);
            (bytes, steps)
        };
        tree.tasks.iter().map(script).collect()
    };
    let (inherit, memory) =
        (scripts(&[Stage::Inherit]), scripts(&[Stage::Memory, Stage::Fill, Stage::Settle]));
    let mut placed = Placed(Vec::new());
    plan.prepare(&mut placed).unwrap();
    plan.finish().unwrap();
    Restored { inherit, memory, _placed: placed.0 }
}

/// Runs encoded steps; the step that failed, if any. Allocates nothing.
pub fn run(script: &mut [u8], steps: usize) -> Option<usize> {
    for (index, step) in script.chunks_exact_mut(wire::INSTR_SIZE).take(steps).enumerate() {
        let word = |at: usize| u64::from_ne_bytes(step[at * 8..at * 8 + 8].try_into().unwrap());
        assert_eq!(step[0], wire::OP_SYSCALL);
        let mut args = [0; 6];
        for (i, arg) in args.iter_mut().enumerate() {
            *arg = word(3 + i);
            if step[2] & 1 << i != 0 {
                // SAFETY: it is the address of an earlier step's result.
                *arg = unsafe { *(*arg as *const u64) };
            }
        }
        let [a, b, c, d, e, f] = args;
        // SAFETY: the steps under test, in a child that does nothing else.
        let ret = match unsafe { libc::syscall((word(0) >> 32) as i64, a, b, c, d, e, f) } {
            // SAFETY: the thread's own errno.
            -1 => -i64::from(unsafe { *libc::__errno_location() }),
            ret => ret,
        };
        let wrong = match step[1] {
            wire::CHECK_OK => (-4095..0).contains(&ret),
            wire::CHECK_EQ => ret != word(2) as i64,
            _ => false,
        };
        if wrong {
            return Some(index);
        }
        step[8..16].copy_from_slice(&ret.to_ne_bytes());
    }
    None
}

/// Runs encoded steps in a child, and ends it when one fails.
pub fn run_or_exit((script, steps): &mut (Vec<u8>, usize)) {
    if let Some(step) = run(script, *steps) {
        // SAFETY: a child's exit; the step shows in the status.
        unsafe { libc::_exit(step as i32 & 0x7f) };
    }
}

/// The areas of a task in the window, neighbours joined that differ in nothing.
pub fn areas(pid: i32) -> Vec<Vma> {
    let mut areas: Vec<Vma> = Vec::new();
    let invisible = VmFlags::SOFT_DIRTY | VmFlags::ACCOUNT;
    for mut area in ProcDir::open(Pid::from_raw(pid)).unwrap().smaps().unwrap() {
        if !(WINDOW..WINDOW_END).contains(&area.start) {
            continue;
        }
        area.flags = area.flags.map(|flags| flags - invisible);
        if area.name.to_str().is_some_and(|name| name.starts_with("/dev/zero")) {
            (area.inode, area.device) = (1, (0, 1));
        }
        match areas.last_mut() {
            Some(last)
                if !area.is_file()
                    && last.end == area.start
                    && (last.prot, last.flags, &last.name) == (area.prot, area.flags, &area.name) =>
            {
                last.end = area.end;
            }
            _ => areas.push(area),
        }
    }
    areas
}

/// A page of a task, also of an area that it cannot read itself; `None` for a guard page.
///
/// process_vm_readv(2) would give the task copies of the pages that it shares.
pub fn page(pid: i32, address: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; PAGE as usize];
    let file = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    file.read_exact_at(&mut bytes, address).ok().map(|()| bytes)
}

/// Asserts that two tasks have the same in the window. Of large areas only the begin is compared.
pub fn assert_same(one: i32, other: i32) {
    let (ours, theirs) = (areas(one), areas(other));
    assert_eq!(ours, theirs);
    for area in &ours {
        for address in (area.start..area.end).step_by(PAGE as usize).take(600) {
            assert_eq!(page(one, address), page(other, address), "page {address:#x}");
        }
    }
}
