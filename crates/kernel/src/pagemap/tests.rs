use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::*;

/// Anonymous pages, with the first, third and fourth written and the sixth only read.
struct Pages(NonNull<libc::c_void>);

const LEN: usize = 4096 * 4096;

impl Pages {
    fn new(flags: MapFlags) -> Self {
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let start = unsafe { mmap_anonymous(None, LEN.try_into().unwrap(), prot, flags) }.unwrap();
        // SAFETY: the advice changes no content.
        unsafe { madvise(start, LEN, MmapAdvise::MADV_NOHUGEPAGE) }.unwrap();
        let byte = start.as_ptr().cast::<u8>();
        for page in [0, 2, 3] {
            // SAFETY: within the mapping, which is writable.
            unsafe { byte.add(page * 4096).write_volatile(1) };
        }
        // SAFETY: within the mapping, which is readable.
        unsafe { byte.add(5 * 4096).read_volatile() };
        Self(start)
    }

    fn range(&self) -> Range<u64> {
        let start = self.0.as_ptr() as u64;
        start..start + LEN as u64
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours.
        unsafe { munmap(self.0, LEN) }.unwrap();
    }
}

fn runs(map: &PageMap, range: &Range<u64>, filter: Filter) -> Vec<(u64, u64, Category)> {
    map.scan(range.clone(), filter)
        .map(|run| run.unwrap())
        .map(|run| ((run.start - range.start) / 4096, run.pages(), run.is))
        .collect()
}

/// Frame numbers, and so the page of zeros among the words, are for root only.
fn frame_numbers_are_told() -> bool {
    nix::unistd::geteuid().is_root()
}

const SEEN: Filter = Filter {
    all: Category::empty(),
    any: Category::PRESENT,
    inverted: Category::empty(),
    report: Category::PRESENT.union(Category::FILE).union(Category::ZERO),
};

#[test]
fn private_pages() {
    let pages = Pages::new(MapFlags::MAP_PRIVATE);
    let map = PageMap::open(Pid::this()).unwrap();
    let expected =
        [(0, 1, Category::PRESENT), (2, 2, Category::PRESENT), (5, 1, Category::PRESENT | Category::ZERO)];
    assert_eq!(runs(&map, &pages.range(), SEEN), expected);
    if frame_numbers_are_told() {
        assert_eq!(runs(&map.by_words(), &pages.range(), SEEN), expected);
    }
}

#[test]
fn shared_pages_are_files() {
    let pages = Pages::new(MapFlags::MAP_SHARED);
    let file = Category::PRESENT | Category::FILE;
    for map in [PageMap::open(Pid::this()).unwrap(), PageMap::open(Pid::this()).unwrap().by_words()] {
        let seen = runs(&map, &pages.range(), SEEN);
        assert_eq!(seen, [(0, 1, file), (2, 2, file), (5, 1, file)]);
    }
}

#[test]
fn inverted_conditions() {
    let pages = Pages::new(MapFlags::MAP_PRIVATE);
    let filter = Filter { all: SEEN.report - Category::FILE, inverted: Category::ZERO, ..SEEN };
    let map = PageMap::open(Pid::this()).unwrap();
    let expected = [(0, 1, Category::PRESENT), (2, 2, Category::PRESENT)];
    assert_eq!(runs(&map, &pages.range(), filter), expected);
    if frame_numbers_are_told() {
        assert_eq!(runs(&map.by_words(), &pages.range(), filter), expected);
    }
}

#[test]
fn many_runs_need_many_batches() {
    let pages = Pages::new(MapFlags::MAP_PRIVATE);
    for page in (0..4096).step_by(2) {
        // SAFETY: within the mapping, which is writable.
        unsafe { pages.0.as_ptr().cast::<u8>().add(page * 4096).write_volatile(1) };
    }
    let filter = Filter { all: Category::PRESENT, any: Category::empty(), ..SEEN };
    let filter = Filter { report: Category::PRESENT, ..filter };
    let map = PageMap::open(Pid::this()).unwrap();
    let by_scan = runs(&map, &pages.range(), filter);
    assert!(by_scan.len() > 2000);
    let by_words = runs(&map.by_words(), &pages.range(), filter);
    let differ = by_scan.iter().zip(&by_words).find(|(a, b)| a != b);
    assert_eq!((differ, by_scan.len()), (None, by_words.len()));
}

#[test]
fn whole_address_space_in_one_pass() {
    let pages = Pages::new(MapFlags::MAP_PRIVATE);
    let map = PageMap::open(Pid::this()).unwrap();
    let start = pages.range().start;
    let all: Vec<PageRange> = map.scan(0..ADDRESS_SPACE_END, SEEN).collect::<io::Result<_>>().unwrap();
    assert!(all.iter().any(|run| run.start == start + 2 * 4096 && run.pages() == 2));
    let overlap = all.windows(2).find(|pair| pair[0].end > pair[1].start);
    assert_eq!(overlap, None);
}

#[test]
fn a_bad_filter_is_an_error_once() {
    let map = PageMap::open(Pid::this()).unwrap();
    let filter = Filter { all: Category::from_bits_retain(1 << 40), ..SEEN };
    let mut scan = map.scan_with(0..4096, filter, Action::Look);
    assert!(scan.next().unwrap().is_err());
    assert!(scan.next().is_none());
}

#[test]
fn ranges_split_runs_and_leave_out_what_is_between() {
    let pages = Pages::new(MapFlags::MAP_PRIVATE);
    let start = pages.range().start;
    for page in 10..20 {
        // SAFETY: within the mapping, which is writable.
        unsafe { pages.0.as_ptr().cast::<u8>().add(page * 4096).write_volatile(1) };
    }
    let pages_of = |from: u64, to: u64| start + from * 4096..start + to * 4096;
    let ranges = [pages_of(0, 1), pages_of(1, 2), pages_of(9, 12), pages_of(12, 13), pages_of(15, 30)];
    let expected = [(0, 0, 1), (2, 10, 2), (3, 12, 1), (4, 15, 5)];
    let map = PageMap::open(Pid::this()).unwrap();
    let seen = |map: &PageMap| -> Vec<(usize, u64, u64)> {
        map.scan_ranges(&ranges, SEEN)
            .map(|part| part.unwrap())
            .map(|(index, run)| (index, (run.start - start) / 4096, run.pages()))
            .collect()
    };
    assert_eq!(seen(&map), expected);
    assert_eq!(map.scan_ranges(&[], SEEN).count(), 0);
    let vsyscall = 0xffff_ffff_ff60_0000..0xffff_ffff_ff60_1000;
    assert_eq!(map.scan(vsyscall.clone(), SEEN).count(), 0);
    let two = [pages_of(11, 12), vsyscall];
    assert_eq!(map.scan_ranges(&two, SEEN).count(), 1);
    assert_eq!(seen(&map.by_words()), expected);
}

/// Registers memory with userfaultfd for asynchronous write protection; `None` where the kernel
/// lacks it.
fn register(range: &Range<u64>) -> Option<OwnedFd> {
    const WP_UNPOPULATED_AND_ASYNC: u64 = 1 << 13 | 1 << 15;
    const USER_MODE_ONLY: i32 = 1;
    const MODE_WP: u64 = 2;
    // SAFETY: userfaultfd takes one number.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) };
    let fd = Errno::result(fd).map(crate::pidfd::owned).ok()?;
    let mut api = [0xaa, WP_UNPOPULATED_AND_ASYNC, 0];
    let mut area = [range.start, range.end - range.start, MODE_WP, 0];
    let api_request = nix::request_code_readwrite!(0xaa, 0x3f, 24) as libc::Ioctl;
    let register_request = nix::request_code_readwrite!(0xaa, 0x00, 32) as libc::Ioctl;
    // SAFETY: the requests read and fill three and four words.
    unsafe {
        Errno::result(libc::ioctl(fd.as_raw_fd(), api_request, api.as_mut_ptr())).ok()?;
        Errno::result(libc::ioctl(fd.as_raw_fd(), register_request, area.as_mut_ptr())).unwrap();
    }
    Some(fd)
}

#[test]
fn written_pages_are_tracked() {
    let pages = Pages::new(MapFlags::MAP_PRIVATE);
    let map = PageMap::open(Pid::this()).unwrap();
    let written = Filter { all: Category::WRITTEN, any: Category::empty(), ..SEEN };
    let written = Filter { report: Category::WRITTEN, ..written };
    let refused = map.scan_with(pages.range(), written, Action::WriteProtectAll).next();
    assert_eq!(refused.unwrap().unwrap_err().raw_os_error(), Some(libc::EPERM));

    let Some(_uffd) = register(&pages.range()) else { return };
    let protect = || -> Vec<(u64, u64)> {
        map.scan_with(pages.range(), written, Action::WriteProtectAll)
            .map(|run| run.unwrap())
            .map(|run| ((run.start - pages.range().start) / 4096, run.pages()))
            .collect()
    };
    protect();
    assert_eq!(protect(), []);
    for page in [0, 7] {
        // SAFETY: within the mapping, which is writable.
        unsafe { pages.0.as_ptr().cast::<u8>().add(page * 4096).write_volatile(2) };
    }
    assert_eq!(protect(), [(0, 1), (7, 1)]);
    assert_eq!(protect(), []);
}
