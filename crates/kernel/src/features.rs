//! What this kernel can do, each asked once, at its first use.
//!
//! Asking costs a system call or two each; nothing is asked ahead.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::unistd::{Pid, gettid};

use crate::clone3::CloneArgs;
use crate::pagemap::{Action, Category, Filter, PageMap};
use crate::plain::{self, Plain};
use crate::{kcmp, pidfd, prctl, procmap};

/// A feature that not every supported kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// `PAGEMAP_SCAN` (Linux 6.7).
    PagemapScan,
    /// `PROCMAP_QUERY` (Linux 6.11).
    ProcmapQuery,
    /// pidfd_getfd(2) (Linux 5.6).
    PidfdGetfd,
    /// `PIDFD_THREAD` (Linux 6.9).
    PidfdThread,
    /// kcmp(2) (`CONFIG_KCMP`).
    Kcmp,
    /// `PR_TIMER_CREATE_RESTORE_IDS` (Linux 6.15).
    TimerRestoreIds,
    /// clone3(2) with `set_tid` (Linux 5.5).
    Clone3SetTid,
    /// Time namespaces (Linux 5.6, `CONFIG_TIME_NS`).
    TimeNamespace,
    /// Soft-dirty page tracking (`CONFIG_MEM_SOFT_DIRTY`).
    SoftDirty,
    /// userfaultfd(2) with asynchronous write protection (Linux 6.7).
    UffdWpAsync,
    /// userfaultfd(2) with events of fork, remap, remove and unmap (Linux 4.11).
    UffdEvents,
    /// Named anonymous mappings (Linux 5.17, `CONFIG_ANON_VMA_NAME`).
    AnonVmaName,
    /// `MADV_GUARD_INSTALL` (Linux 6.13).
    GuardPages,
    /// `PR_SET_MM_MAP` (`CONFIG_CHECKPOINT_RESTORE`).
    MmMap,
    /// `MEMBARRIER_CMD_GET_REGISTRATIONS` (Linux 6.3).
    MembarrierRegistrations,
}

impl Feature {
    /// All features.
    pub const ALL: [Self; 15] = [
        Self::PagemapScan,
        Self::ProcmapQuery,
        Self::PidfdGetfd,
        Self::PidfdThread,
        Self::Kcmp,
        Self::TimerRestoreIds,
        Self::Clone3SetTid,
        Self::TimeNamespace,
        Self::SoftDirty,
        Self::UffdWpAsync,
        Self::UffdEvents,
        Self::AnonVmaName,
        Self::GuardPages,
        Self::MmMap,
        Self::MembarrierRegistrations,
    ];

    /// Whether the running kernel has it (and lets this process use it); asked once.
    pub fn is_available(self) -> bool {
        static KNOWN: [OnceLock<bool>; Feature::ALL.len()] = [const { OnceLock::new() }; Feature::ALL.len()];
        *KNOWN[self as usize].get_or_init(|| self.probe())
    }

    fn probe(self) -> bool {
        match self {
            Self::PagemapScan => pagemap_scan(),
            Self::ProcmapQuery => {
                File::open("/proc/self/maps").is_ok_and(|maps| procmap::query(maps.as_fd(), 0).is_ok())
            }
            Self::PidfdGetfd => pidfd_getfd(),
            Self::PidfdThread => pidfd::open(gettid(), pidfd::Flags::THREAD).is_ok(),
            Self::Kcmp => kcmp::same(kcmp::Kind::Vm, Pid::this(), Pid::this()).is_ok(),
            Self::TimerRestoreIds => prctl::timer_restore_ids().is_ok(),
            Self::Clone3SetTid => clone3_set_tid(),
            Self::TimeNamespace => std::fs::symlink_metadata("/proc/self/ns/time").is_ok(),
            Self::SoftDirty => soft_dirty().unwrap_or(false),
            Self::UffdWpAsync => uffd_features() & UFFD_FEATURE_WP_ASYNC != 0,
            Self::UffdEvents => uffd_features() & UFFD_FEATURE_EVENTS == UFFD_FEATURE_EVENTS,
            Self::AnonVmaName => anon_vma_name(),
            Self::GuardPages => with_page(|page| {
                // SAFETY: the page is a private mapping of ours that nothing else uses.
                unsafe { libc::madvise(page, PAGE, MADV_GUARD_INSTALL) == 0 }
            }),
            Self::MmMap => prctl::mm_map_size().is_ok(),
            Self::MembarrierRegistrations => membarrier_registrations(),
        }
    }
}

const PAGE: usize = 4096;
const MADV_GUARD_INSTALL: i32 = 102;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
/// Fork, remap, remove and unmap events.
const UFFD_FEATURE_EVENTS: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6;

fn pagemap_scan() -> bool {
    PageMap::open(Pid::this()).is_ok_and(|map| {
        map.scan_with(0..PAGE as u64, Filter::default(), Action::Look).all(|run| run.is_ok())
    })
}

fn pidfd_getfd() -> bool {
    let Ok(me) = pidfd::open(Pid::this(), pidfd::Flags::empty()) else { return false };
    // Descriptor -1 is never open: a kernel that has the call says so.
    matches!(pidfd::getfd(me.as_fd(), -1), Err(Errno::EBADF))
}

fn clone3_set_tid() -> bool {
    // More levels than a pid namespace can have: refused as invalid by a kernel that reads the
    // field, and as too big a structure (or no call at all) by an older one.
    let tids = [1i32; 40];
    let args = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        set_tid: tids.as_ptr() as u64,
        set_tid_size: tids.len() as u64,
        ..CloneArgs::default()
    };
    let size = size_of::<CloneArgs>();
    // SAFETY: the arguments are invalid, so that no child is ever made.
    let r = unsafe { libc::syscall(libc::SYS_clone3, &args, size) };
    Errno::result(r) == Err(Errno::EINVAL)
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

fn soft_dirty() -> std::io::Result<bool> {
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
    use std::os::fd::AsRawFd;
    let mut api = UffdioApi { api: 0xaa, ..plain::zeroed() };
    // SAFETY: the request reads and fills this structure.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &mut api) })?;
    Ok(api.features)
}

fn anon_vma_name() -> bool {
    const PR_SET_VMA: i32 = 0x5356_4d41;
    with_page(|page| {
        let name = c"criu-rs".as_ptr() as usize;
        // SAFETY: the page is ours, and the name a C string that the kernel copies.
        unsafe { prctl::prctl(PR_SET_VMA, 0, page as usize, PAGE, name) }.is_ok()
    })
}

fn membarrier_registrations() -> bool {
    const MEMBARRIER_CMD_GET_REGISTRATIONS: i32 = 1 << 9;
    // SAFETY: membarrier takes numbers, and this command changes nothing.
    let r = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GET_REGISTRATIONS, 0u32, 0i32) };
    r >= 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Major and minor version of the running kernel.
    fn version() -> (u32, u32) {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    #[test]
    fn answers_fit_the_version() {
        for (index, feature) in Feature::ALL.into_iter().enumerate() {
            assert_eq!(feature as usize, index);
            feature.is_available();
        }
        let since = [
            (Feature::PagemapScan, (6, 7)),
            (Feature::ProcmapQuery, (6, 11)),
            (Feature::PidfdGetfd, (5, 6)),
            (Feature::PidfdThread, (6, 9)),
            (Feature::TimerRestoreIds, (6, 15)),
            (Feature::Clone3SetTid, (5, 5)),
            (Feature::GuardPages, (6, 13)),
            (Feature::MembarrierRegistrations, (6, 3)),
        ];
        for (feature, first) in since {
            assert_eq!(feature.is_available(), version() >= first, "{feature:?}");
        }
    }

    #[test]
    fn soft_dirty_agrees_with_the_configuration() {
        let Ok(output) = std::process::Command::new("zcat").arg("/proc/config.gz").output() else {
            return;
        };
        let config = String::from_utf8_lossy(&output.stdout);
        if config.contains("CONFIG_KCMP") {
            let set = config.contains("CONFIG_MEM_SOFT_DIRTY=y");
            assert_eq!(Feature::SoftDirty.is_available(), set);
            let set = config.contains("CONFIG_TIME_NS=y");
            assert_eq!(Feature::TimeNamespace.is_available(), set);
        }
    }
}
