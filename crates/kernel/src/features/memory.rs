//! Probes about memory: page maps, userfaultfd, areas.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::pagemap::{Action, Category, Filter, PageMap};
use crate::plain::{self, Plain};
use crate::{pidfd, prctl, procmap};

const PAGE: usize = 4096;
const MADV_GUARD_INSTALL: i32 = 102;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
/// Fork, remap, remove and unmap events.
const UFFD_FEATURE_EVENTS: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6;

pub(super) fn pagemap_scan() -> bool {
    PageMap::open(Pid::this()).is_ok_and(|map| {
        map.scan_with(0..PAGE as u64, Filter::default(), Action::Look).all(|run| run.is_ok())
    })
}

/// Gives a fresh, private, writable page to `look`.
fn with_page(look: impl FnOnce(*mut libc::c_void) -> bool) -> bool {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, prot, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return false;
    }
    let answer = look(page);
    // SAFETY: the mapping is ours, and nothing refers to it any more.
    unsafe { libc::munmap(page, PAGE) };
    answer
}

pub(super) fn soft_dirty() -> bool {
    sees_soft_dirty().unwrap_or(false)
}

fn sees_soft_dirty() -> std::io::Result<bool> {
    // A page is born soft-dirty where this is tracked, and never told so where it is not.
    let map = PageMap::open(Pid::this())?.by_words();
    let filter = Filter { report: Category::SOFT_DIRTY, ..Filter::default() };
    Ok(with_page(|page| {
        // SAFETY: the page is writable and ours.
        unsafe { page.cast::<u8>().write_volatile(1) };
        let start = page as u64;
        let mut runs = map.scan(start..start + PAGE as u64, filter);
        runs.next().is_some_and(|run| run.is_ok_and(|run| run.soft_dirty()))
    }))
}

#[derive(Clone, Copy)]
#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

// SAFETY: three u64.
unsafe impl Plain for UffdioApi {}

const UFFDIO_API: libc::Ioctl =
    nix::request_code_readwrite!(0xaa, 0x3f, size_of::<UffdioApi>()) as libc::Ioctl;

fn uffd_features() -> u64 {
    static FEATURES: OnceLock<u64> = OnceLock::new();
    *FEATURES.get_or_init(|| {
        const UFFD_USER_MODE_ONLY: i32 = 1;
        let flags = libc::O_CLOEXEC | UFFD_USER_MODE_ONLY;
        // SAFETY: userfaultfd takes one number.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let Ok(fd) = Errno::result(fd).map(pidfd::owned) else { return 0 };
        uffd_api(fd.as_fd()).unwrap_or(0)
    })
}

fn uffd_api(fd: BorrowedFd<'_>) -> nix::Result<u64> {
    let mut api = UffdioApi { api: 0xaa, ..plain::zeroed() };
    // SAFETY: the request reads and fills this structure.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &mut api) })?;
    Ok(api.features)
}

pub(super) fn anon_vma_name() -> bool {
    const PR_SET_VMA: i32 = 0x5356_4d41;
    with_page(|page| {
        let name = c"criu-rs".as_ptr() as usize;
        // SAFETY: the page is ours, and the name a C string that the kernel copies.
        unsafe { prctl::prctl(PR_SET_VMA, 0, page as usize, PAGE, name) }.is_ok()
    })
}

pub(super) fn procmap_query() -> bool {
    File::open("/proc/self/maps").is_ok_and(|maps| procmap::query(maps.as_fd(), 0).is_ok())
}

pub(super) fn uffd() -> bool {
    uffd_features() != 0
}

pub(super) fn uffd_wp_async() -> bool {
    uffd_features() & UFFD_FEATURE_WP_ASYNC != 0
}

pub(super) fn uffd_events() -> bool {
    uffd_features() & UFFD_FEATURE_EVENTS == UFFD_FEATURE_EVENTS
}

pub(super) fn guard_pages() -> bool {
    with_page(|page| {
        // SAFETY: the page is a private mapping of ours that nothing else uses.
        unsafe { libc::madvise(page, PAGE, MADV_GUARD_INSTALL) == 0 }
    })
}

pub(super) fn scan_guard_pages() -> bool {
    PageMap::open(Pid::this()).is_ok_and(|map| {
        let filter = Filter { report: Category::GUARD, ..Filter::default() };
        map.scan_with(0..PAGE as u64, filter, Action::Look).all(|run| run.is_ok())
    })
}

pub(super) fn memfd_hugetlb() -> bool {
    // SAFETY: the name is a C string that the kernel copies.
    let fd = unsafe { libc::memfd_create(c"criu-rs".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_HUGETLB) };
    Errno::result(libc::c_long::from(fd)).map(pidfd::owned).is_ok()
}

/// Whether a ring of asynchronous I/O lives on at another address.
pub(super) fn aio_remap() -> bool {
    let mut ring: usize = 0;
    // SAFETY: the kernel stores the new context's id, which is the ring's address, in `ring`.
    if unsafe { libc::syscall(libc::SYS_io_setup, 16, &mut ring) } < 0 {
        return false;
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let end = maps.lines().find_map(|line| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        (usize::from_str_radix(start, 16).ok()? == ring).then(|| usize::from_str_radix(end, 16).ok())?
    });
    let len = end.map_or(PAGE, |end| end - ring);
    let from = ring as *mut libc::c_void;
    let none = libc::PROT_NONE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let place = unsafe { libc::mmap(std::ptr::null_mut(), len, none, flags, -1, 0) };
    let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: ring and place are mappings made above, and nothing refers to either.
    let moved = unsafe { libc::mremap(from, len, len, how, place) };
    let context = if moved == libc::MAP_FAILED { ring } else { moved as usize };
    // SAFETY: asks for no event and gives no pointer.
    let works = unsafe { libc::syscall(libc::SYS_io_getevents, context, 0, 0, 0, 0) } == 0;
    // SAFETY: ends the context made above.
    unsafe { libc::syscall(libc::SYS_io_destroy, context) };
    works && moved != libc::MAP_FAILED
}
