//! What this kernel can do, each asked once, at its first use.
//!
//! Asking costs a system call or two each, for some a short-lived child or thread; nothing is asked ahead.

mod files;
mod memory;
mod namespaces;
mod sockets;
mod tasks;

use std::sync::OnceLock;

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident => $probe:path,)*) => {
        /// A feature that not every supported kernel has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Feature {
            $($(#[$doc])* $name,)*
        }

        impl Feature {
            /// All features.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            const COUNT: usize = Self::ALL.len();

            fn probe(self) -> bool {
                match self {
                    $(Self::$name => $probe(),)*
                }
            }
        }
    };
}

features! {
    /// `PAGEMAP_SCAN` (Linux 6.7).
    PagemapScan => memory::pagemap_scan,
    /// `PAGEMAP_SCAN` that tells guard pages (Linux 6.16).
    PagemapScanGuard => memory::scan_guard_pages,
    /// `PROCMAP_QUERY` (Linux 6.11).
    ProcmapQuery => memory::procmap_query,
    /// Soft-dirty page tracking (`CONFIG_MEM_SOFT_DIRTY`).
    SoftDirty => memory::soft_dirty,
    /// userfaultfd(2) (Linux 4.3, `CONFIG_USERFAULTFD`).
    Uffd => memory::uffd,
    /// userfaultfd(2) with asynchronous write protection (Linux 6.7).
    UffdWpAsync => memory::uffd_wp_async,
    /// userfaultfd(2) with events of fork, remap, remove and unmap (Linux 4.11).
    UffdEvents => memory::uffd_events,
    /// Named anonymous mappings (Linux 5.17, `CONFIG_ANON_VMA_NAME`).
    AnonVmaName => memory::anon_vma_name,
    /// `MADV_GUARD_INSTALL` (Linux 6.13).
    GuardPages => memory::guard_pages,
    /// memfd_create(2) with `MFD_HUGETLB` (Linux 4.14, `CONFIG_HUGETLBFS`).
    MemfdHugetlb => memory::memfd_hugetlb,
    /// The ring of io_setup(2) can be moved (Linux 3.19, `CONFIG_AIO`).
    AioRemap => memory::aio_remap,

    /// pidfd_getfd(2) (Linux 5.6).
    PidfdGetfd => tasks::pidfd_getfd,
    /// `PIDFD_THREAD` (Linux 6.9).
    PidfdThread => tasks::pidfd_thread,
    /// kcmp(2) (`CONFIG_KCMP`).
    Kcmp => tasks::kcmp,
    /// kcmp(2) of epoll targets (Linux 4.13).
    KcmpEpoll => files::kcmp_epoll,
    /// `PR_TIMER_CREATE_RESTORE_IDS` (Linux 6.15).
    TimerRestoreIds => tasks::timer_restore_ids,
    /// /proc/PID/timers (Linux 3.10, `CONFIG_POSIX_TIMERS`).
    ProcTimers => tasks::proc_timers,
    /// clone3(2) with `set_tid` (Linux 5.5).
    Clone3SetTid => tasks::clone3_set_tid,
    /// `PR_SET_MM_MAP` (Linux 3.18, `CONFIG_CHECKPOINT_RESTORE`).
    MmMap => tasks::mm_map,
    /// `MEMBARRIER_CMD_GET_REGISTRATIONS` (Linux 6.3).
    MembarrierRegistrations => tasks::membarrier_registrations,
    /// A child of ours can be seized, and its pending signals read (Linux 3.10).
    Ptrace => tasks::ptrace,
    /// `PTRACE_O_SUSPEND_SECCOMP` (Linux 4.3).
    SeccompSuspend => tasks::seccomp_suspend,
    /// `PTRACE_SECCOMP_GET_FILTER` (Linux 4.4).
    SeccompFilters => tasks::seccomp_filters,
    /// `PTRACE_GET_RSEQ_CONFIGURATION` (Linux 5.13).
    RseqConfiguration => tasks::rseq_configuration,
    /// Hardware breakpoints stop a task.
    Breakpoints => tasks::breakpoints,
    /// The audit login uid can be unset and set (Linux 3.13, `CONFIG_AUDITSYSCALL`).
    Loginuid => tasks::loginuid,
    /// `NSpid` in /proc/PID/status (Linux 4.1).
    NsPid => tasks::ns_pid,
    /// `ARCH_MAP_VDSO_64` (Linux 4.8).
    MapVdso => tasks::map_vdso,
    /// `ARCH_MAP_VDSO_32`, for 32-bit tasks (Linux 4.12, `CONFIG_IA32_EMULATION`).
    MapVdso32 => tasks::map_vdso_32,
    /// AppArmor with namespaced profiles (Linux 4.13).
    AppArmorStacking => tasks::apparmor_stacking,

    /// `mnt_id` in fdinfo (Linux 3.15).
    FdinfoMountId => files::mount_id,
    /// Locks in fdinfo (Linux 4.1).
    FdinfoLock => files::fdinfo_lock,
    /// `TFD_IOC_SET_TICKS` (Linux 3.17).
    TimerfdTicks => files::timerfd_ticks,
    /// /proc/PID/map_files can be followed (Linux 4.3).
    MapFiles => files::map_files,
    /// openat2(2) (Linux 5.6).
    Openat2 => files::openat2,
    /// /dev/net/tun with `TUNSETIFINDEX` (Linux 3.11, `CONFIG_TUN`).
    Tun => files::tun,
    /// The network namespace of a tun descriptor (Linux 5.2).
    TunNamespace => files::tun_namespace,

    /// sock_diag(7) of internet, unix, packet and netlink sockets (Linux 3.3).
    SockDiag => sockets::sock_diag,
    /// sock_diag(7) of raw sockets (Linux 4.10).
    SockDiagRaw => sockets::sock_diag_raw,
    /// `SO_PEEK_OFF` (Linux 3.4).
    PeekOffset => sockets::peek_offset,
    /// `TCP_REPAIR` (Linux 3.5).
    TcpRepair => sockets::tcp_repair,
    /// `TCP_REPAIR_WINDOW` (Linux 4.8).
    TcpRepairWindow => sockets::tcp_repair_window,
    /// `TCP_REPAIR` of half-closed connections (Linux 4.10).
    TcpHalfClosed => sockets::tcp_half_closed,
    /// `SO_BUF_LOCK` (Linux 5.15).
    SockoptBufLock => sockets::buf_lock,
    /// `IPV6_FREEBIND` (Linux 4.15).
    Ipv6Freebind => sockets::ipv6_freebind,
    /// `SIOCGSKNS`: the network namespace of a socket (Linux 4.10).
    SocketNamespace => sockets::namespace,
    /// `SIOCUNIXFILE`: the file that a unix socket is bound to (Linux 4.11).
    SocketUnixFile => sockets::unix_file,
    /// nf_tables by netlink (Linux 3.13, `CONFIG_NF_TABLES`).
    NfTables => sockets::nf_tables,
    /// Ids of network namespaces, also in link messages (Linux 4.0).
    NetNamespaceId => sockets::namespace_id,
    /// `IFLA_NEW_IFINDEX` (Linux 5.13).
    NewIfindex => sockets::new_ifindex,

    /// User namespaces (Linux 3.8, `CONFIG_USER_NS`).
    UserNamespace => namespaces::user,
    /// Network namespaces (`CONFIG_NET_NS`).
    NetNamespace => namespaces::net,
    /// Cgroup namespaces (Linux 4.6, `CONFIG_CGROUPS`).
    CgroupNamespace => namespaces::cgroup,
    /// Time namespaces (Linux 5.6, `CONFIG_TIME_NS`).
    TimeNamespace => namespaces::time,
    /// `MOVE_MOUNT_SET_GROUP` (Linux 5.15).
    MoveMountSetGroup => namespaces::move_mount_set_group,
    /// Maps of files on overlayfs name the file that was opened (Linux 6.8).
    OverlayfsMaps => namespaces::overlayfs_maps,
    /// autofs tells its pipe's inode among the mount options (Linux 4.10, `CONFIG_AUTOFS_FS`).
    AutofsPipe => namespaces::autofs_pipe,
}

impl Feature {
    /// Whether the running kernel has it (and lets this process use it); asked once.
    pub fn is_available(self) -> bool {
        static KNOWN: [OnceLock<bool>; Feature::COUNT] = [const { OnceLock::new() }; Feature::COUNT];
        *KNOWN[self as usize].get_or_init(|| self.probe())
    }
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
        for (index, &feature) in Feature::ALL.iter().enumerate() {
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
            (Feature::PagemapScanGuard, (6, 16)),
            (Feature::SockoptBufLock, (5, 15)),
            (Feature::RseqConfiguration, (5, 13)),
            (Feature::NewIfindex, (5, 13)),
            (Feature::MoveMountSetGroup, (5, 15)),
            (Feature::Openat2, (5, 6)),
            (Feature::KcmpEpoll, (4, 13)),
            (Feature::TcpHalfClosed, (4, 10)),
            (Feature::FdinfoLock, (4, 1)),
            (Feature::NsPid, (4, 1)),
            (Feature::AioRemap, (3, 19)),
            (Feature::SeccompFilters, (4, 4)),
            (Feature::SeccompSuspend, (4, 3)),
            (Feature::Ptrace, (3, 10)),
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
