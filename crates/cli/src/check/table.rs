//! The features that `check` knows, under the names that the field uses.

use super::probes;
use criu_config::registry::{self, Support};
use criu_kernel::features::Feature;

/// A feature with what somebody who lacks it should know.
#[derive(Debug)]
pub struct Entry {
    /// The word for `--feature`; empty for one that nobody asks for alone.
    pub name: &'static str,
    /// How to find out.
    pub probe: Probe,
    /// Who needs it.
    pub level: Level,
    /// What it comes with: the first kernel version and its configuration, a right, a program.
    pub since: &'static str,
    /// What cannot be dumped or restored without it.
    pub needed_for: &'static str,
    /// The option that makes use of it; empty where it takes none.
    pub option: &'static str,
}

/// How to find out whether a feature is there.
#[derive(Clone, Copy, Debug)]
pub enum Probe {
    /// The kernel tells.
    Kernel(Feature),
    /// A function of ours.
    Here(fn() -> bool),
}

/// Which `check` looks at a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Every dump and restore needs it: plain `check`.
    Required,
    /// Some tasks need it: `--extra`.
    Extra,
    /// `--experimental`.
    Experimental,
    /// Only `--feature` asks.
    Named,
}

impl Entry {
    /// Whether the feature is there, and this version makes use of it.
    pub fn is_available(&self) -> bool {
        self.is_built()
            && match self.probe {
                Probe::Kernel(feature) => feature.is_available(),
                Probe::Here(probe) => probe(),
            }
    }

    /// Whether this version has the option that makes use of it.
    pub fn is_built(&self) -> bool {
        registry::find(self.option).is_none_or(|option| !matches!(option.support, Support::NotYet))
    }

    /// The same feature, used by an option.
    const fn by(self, option: &'static str) -> Entry {
        Entry { option, ..self }
    }
}

const fn entry(
    name: &'static str,
    probe: Probe,
    level: Level,
    since: &'static str,
    needed_for: &'static str,
) -> Entry {
    Entry { name, probe, level, since, needed_for, option: "" }
}

use Feature::*;
use Level::*;
use Probe::{Here, Kernel};

/// All of them, required ones first.
#[rustfmt::skip] // a table
pub static FEATURES: &[Entry] = &[
    entry("", Here(probes::capabilities), Required, "the rights of root, or with CAP_CHECKPOINT_RESTORE and CAP_SYS_PTRACE (setcap)", "reading and building tasks"),
    entry("", Kernel(Ptrace), Required, "Linux 3.10; CAP_SYS_PTRACE where a security module restricts ptrace", "stopping tasks and reading their registers and signals"),
    entry("", Kernel(Kcmp), Required, "CONFIG_KCMP", "telling what tasks share"),
    entry("", Kernel(MapFiles), Required, "Linux 4.3, CONFIG_CHECKPOINT_RESTORE", "mapped files and shared memory"),
    entry("", Kernel(ProcTimers), Required, "Linux 3.10, CONFIG_POSIX_TIMERS, CONFIG_CHECKPOINT_RESTORE", "POSIX timers"),
    entry("", Kernel(MmMap), Required, "Linux 3.18, CONFIG_CHECKPOINT_RESTORE", "restoring memory layouts"),
    entry("", Kernel(SockDiag), Required, "Linux 3.3, CONFIG_UNIX_DIAG, CONFIG_INET_DIAG, CONFIG_NETLINK_DIAG", "sockets"),
    entry("", Kernel(PeekOffset), Required, "Linux 3.4", "queues of unix sockets"),
    entry("", Kernel(TcpRepair), Required, "Linux 3.5; CAP_NET_ADMIN", "TCP connections"),
    entry("pidfd_store", Kernel(PidfdGetfd), Required, "Linux 5.6", "open files of all kinds"),
    entry("clone3_set_tid", Kernel(Clone3SetTid), Required, "Linux 5.5", "restoring tasks under their pids"),

    entry("mnt_id", Kernel(FdinfoMountId), Extra, "Linux 3.15", "open files in several mounts"),
    entry("mem_dirty_track", Here(|| true), Extra, "every kernel: pages are compared", "incremental dumps").by("prev-images-dir"),
    entry("aio_remap", Kernel(AioRemap), Extra, "Linux 3.19, CONFIG_AIO", "asynchronous I/O of io_setup"),
    entry("timerfd", Kernel(TimerfdTicks), Extra, "Linux 3.17, CONFIG_CHECKPOINT_RESTORE", "timerfd descriptors that have expired"),
    entry("tun", Kernel(Tun), Extra, "Linux 3.11, CONFIG_TUN", "tun and tap devices"),
    entry("userns", Kernel(UserNamespace), Extra, "Linux 3.8, CONFIG_USER_NS", "user namespaces"),
    entry("fdinfo_lock", Kernel(FdinfoLock), Extra, "Linux 4.1", "file locks"),
    entry("seccomp_suspend", Kernel(SeccompSuspend), Extra, "Linux 4.3, CONFIG_SECCOMP, CONFIG_CHECKPOINT_RESTORE", "tasks under seccomp"),
    entry("seccomp_filters", Kernel(SeccompFilters), Extra, "Linux 4.4, CONFIG_SECCOMP_FILTER, CONFIG_CHECKPOINT_RESTORE", "seccomp filters"),
    entry("loginuid", Kernel(Loginuid), Extra, "Linux 3.13, CONFIG_AUDITSYSCALL", "the audit login uid"),
    entry("cgroupns", Kernel(CgroupNamespace), Extra, "Linux 4.6, CONFIG_CGROUPS", "cgroup namespaces"),
    entry("", Kernel(TcpRepairWindow), Extra, "Linux 4.8", "windows of TCP connections"),
    entry("tcp_half_closed", Kernel(TcpHalfClosed), Extra, "Linux 4.10", "half-closed TCP connections"),
    entry("can_map_vdso", Kernel(MapVdso), Extra, "Linux 4.8", "tasks dumped under another kernel, whose vDSO differs"),
    entry("uffd", Kernel(Uffd), Extra, "Linux 4.3, CONFIG_USERFAULTFD", "restoring pages on demand").by("lazy-pages"),
    entry("uffd-noncoop", Kernel(UffdEvents), Extra, "Linux 4.11, CONFIG_USERFAULTFD", "restoring pages on demand into tasks that fork or unmap").by("lazy-pages"),
    entry("sk_ns", Kernel(SocketNamespace), Extra, "Linux 4.10", "sockets of several network namespaces"),
    entry("kcmp_epoll", Kernel(KcmpEpoll), Extra, "Linux 4.13, CONFIG_KCMP", "epoll targets whose descriptor was closed or replaced"),
    entry("net_diag_raw", Kernel(SockDiagRaw), Extra, "Linux 4.10, CONFIG_INET_RAW_DIAG", "raw sockets"),
    entry("timens", Kernel(TimeNamespace), Extra, "Linux 5.6, CONFIG_TIME_NS", "time namespaces"),
    entry("newifindex", Kernel(NewIfindex), Extra, "Linux 5.13", "network devices moved between namespaces"),
    entry("ns_pid", Kernel(NsPid), Extra, "Linux 4.1", "pid namespaces"),
    entry("network_lock_nftables", Here(probes::nftables_lock), Extra, "Linux 4.1, CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET", "locking TCP connections by nftables"),
    entry("sockopt_buf_lock", Kernel(SockoptBufLock), Extra, "Linux 5.15", "sockets with buffer sizes set by hand"),
    entry("memfd_hugetlb", Kernel(MemfdHugetlb), Extra, "Linux 4.14, CONFIG_HUGETLBFS", "memfd descriptors in huge pages"),
    entry("move_mount_set_group", Kernel(MoveMountSetGroup), Extra, "Linux 5.15", "sharing groups of mounts"),
    entry("openat2", Kernel(Openat2), Extra, "Linux 5.6", "opening files without following links"),
    entry("get_rseq_conf", Kernel(RseqConfiguration), Extra, "Linux 5.13, CONFIG_RSEQ", "restartable sequences, which glibc 2.35 and newer use in every thread"),
    entry("ipv6_freebind", Kernel(Ipv6Freebind), Extra, "Linux 4.15, CONFIG_IPV6", "IPv6 sockets bound to addresses that are not there"),
    entry("pagemap_scan", Kernel(PagemapScan), Extra, "Linux 6.7", "fast reading of large memory maps"),
    entry("overlayfs_maps", Kernel(OverlayfsMaps), Extra, "Linux 6.8, CONFIG_OVERLAY_FS", "mapped files on overlayfs"),
    entry("timer_cr_ids", Kernel(TimerRestoreIds), Extra, "Linux 6.15", "fast restore of POSIX timers with high ids"),
    entry("pagemap_scan_guard_pages", Kernel(PagemapScanGuard), Extra, "Linux 6.16", "guard pages of madvise"),

    entry("autofs", Kernel(AutofsPipe), Experimental, "Linux 4.10, CONFIG_AUTOFS_FS", "autofs mounts"),
    entry("compat_cr", Kernel(MapVdso32), Experimental, "Linux 4.12, CONFIG_IA32_EMULATION", "32-bit tasks"),

    entry("tun_ns", Kernel(TunNamespace), Named, "Linux 5.2, CONFIG_TUN", "tun devices of several network namespaces"),
    entry("sk_unix_file", Kernel(SocketUnixFile), Named, "Linux 4.11", "unix sockets whose file was moved or is hidden by a mount"),
    entry("nsid", Kernel(NetNamespaceId), Named, "Linux 4.0", "ids of network namespaces"),
    entry("link_nsid", Kernel(NetNamespaceId), Named, "Linux 4.0", "network devices whose peer is in another namespace"),
    entry("external_net_ns", Kernel(NetNamespace), Named, "CONFIG_NET_NS", "network namespaces that lie outside the tree"),
    entry("nftables", Kernel(NfTables), Named, "Linux 3.13, CONFIG_NF_TABLES", "nftables rules of a network namespace"),
    entry("has_ipt_legacy", Here(probes::legacy_iptables), Named, "the programs iptables-legacy and ip6tables-legacy", "iptables rules of the old kind"),
    entry("apparmor_stacking", Kernel(AppArmorStacking), Named, "Linux 4.13, CONFIG_SECURITY_APPARMOR", "AppArmor profiles in namespaces"),
    entry("breakpoints", Kernel(Breakpoints), Named, "a processor (or virtual one) that has debug registers", "nothing here; the reference speeds its restore up with them"),
];

/// The feature of this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    FEATURES.iter().find(|entry| entry.name == name && !name.is_empty())
}

/// All names that `--feature` takes, sorted.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = FEATURES.iter().map(|entry| entry.name).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names
}
