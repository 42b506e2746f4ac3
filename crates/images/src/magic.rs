//! Every image file of a checkpoint: its name, its magic and the message of its entries.

/// How an image file begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// [`COMMON_MAGIC`], then the image's own magic. Images of format 1.0 lack the first word.
    Common,
    /// [`SERVICE_MAGIC`], then the image's own magic.
    Service,
    /// Only the image's own magic: the inventory, which names the format version of all others.
    Inventory,
    /// No header and no entries: bytes of another format.
    Raw,
}

/// First word of the images of a checkpoint.
pub const COMMON_MAGIC: u32 = 0x5456_4319;
/// First word of the files beside a checkpoint: statistics and the irmap cache.
pub const SERVICE_MAGIC: u32 = 0x5510_5940;

struct Row {
    image: Image,
    name: &'static str,
    template: &'static str,
    magic: u32,
    family: Family,
    message: &'static str,
}

macro_rules! images {
    ($($variant:ident, $name:literal, $file:literal, $magic:literal, $family:ident, $message:literal;)*) => {
        /// An image file, by what it holds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Image {
            $(
                #[doc = concat!("`", $file, "`: ", $message)]
                $variant,
            )*
        }

        const ROWS: &[Row] = &[$(Row {
            image: Image::$variant,
            name: $name,
            template: $file,
            magic: $magic,
            family: Family::$family,
            message: $message,
        }),*];
    };
}

images! {
    Inventory, "INVENTORY", "inventory.img", 0x5831_3116, Inventory, "inventory_entry";
    Fdinfo, "FDINFO", "fdinfo-%u.img", 0x5621_3732, Common, "fdinfo_entry";
    Pagemap, "PAGEMAP", "pagemap-%lu.img", 0x5608_4025, Common, "pagemap_head";
    ShmemPagemap, "SHMEM_PAGEMAP", "pagemap-shmem-%lu.img", 0x5608_4025, Common, "pagemap_head";
    RegFiles, "REG_FILES", "reg-files.img", 0x5036_3636, Common, "reg_file_entry";
    ExtFiles, "EXT_FILES", "ext-files.img", 0x5925_5641, Common, "ext_file_entry";
    NsFiles, "NS_FILES", "ns-files.img", 0x6139_4011, Common, "ns_file_entry";
    EventfdFile, "EVENTFD_FILE", "eventfd.img", 0x4452_3722, Common, "eventfd_file_entry";
    EventpollFile, "EVENTPOLL_FILE", "eventpoll.img", 0x4502_3858, Common, "eventpoll_file_entry";
    EventpollTfd, "EVENTPOLL_TFD", "eventpoll-tfd.img", 0x4443_3746, Common, "eventpoll_tfd_entry";
    Signalfd, "SIGNALFD", "signalfd.img", 0x5732_3820, Common, "signalfd_entry";
    InotifyFile, "INOTIFY_FILE", "inotify.img", 0x4842_4431, Common, "inotify_file_entry";
    InotifyWd, "INOTIFY_WD", "inotify-wd.img", 0x5456_2009, Common, "inotify_wd_entry";
    FanotifyFile, "FANOTIFY_FILE", "fanotify.img", 0x5509_6122, Common, "fanotify_file_entry";
    FanotifyMark, "FANOTIFY_MARK", "fanotify-mark.img", 0x5650_6035, Common, "fanotify_mark_entry";
    Core, "CORE", "core-%u.img", 0x5505_3847, Common, "core_entry";
    Ids, "IDS", "ids-%u.img", 0x5443_2030, Common, "task_kobj_ids_entry";
    Mm, "MM", "mm-%u.img", 0x5749_2820, Common, "mm_entry";
    Vmas, "VMAS", "vmas-%u.img", 0x5412_3737, Common, "vma_entry";
    Pipes, "PIPES", "pipes.img", 0x5651_3555, Common, "pipe_entry";
    PipesData, "PIPES_DATA", "pipes-data.img", 0x5645_3709, Common, "pipe_data_entry";
    Fifo, "FIFO", "fifo.img", 0x5836_4939, Common, "fifo_entry";
    FifoData, "FIFO_DATA", "fifo-data.img", 0x5933_3054, Common, "pipe_data_entry";
    Pstree, "PSTREE", "pstree.img", 0x5027_3030, Common, "pstree_entry";
    Sigact, "SIGACT", "sigacts-%u.img", 0x5534_4201, Common, "sa_entry";
    Unixsk, "UNIXSK", "unixsk.img", 0x5437_3943, Common, "unix_sk_entry";
    Inetsk, "INETSK", "inetsk.img", 0x5644_3851, Common, "inet_sk_entry";
    Packetsk, "PACKETSK", "packetsk.img", 0x6045_4618, Common, "packet_sock_entry";
    NetlinkSk, "NETLINK_SK", "netlinksk.img", 0x5800_5614, Common, "netlink_sk_entry";
    SkQueues, "SK_QUEUES", "sk-queues.img", 0x5626_4026, Common, "sk_packet_entry";
    Itimers, "ITIMERS", "itimers-%u.img", 0x5746_4056, Common, "itimer_entry";
    PosixTimers, "POSIX_TIMERS", "posix-timers-%u.img", 0x5260_3957, Common, "posix_timer_entry";
    Creds, "CREDS", "creds-%u.img", 0x5402_3547, Common, "creds_entry";
    Utsns, "UTSNS", "utsns-%u.img", 0x5447_3203, Common, "utsns_entry";
    IpcVar, "IPC_VAR", "ipcns-var-%u.img", 0x5311_5007, Common, "ipc_var_entry";
    IpcnsShm, "IPCNS_SHM", "ipcns-shm-%u.img", 0x4628_3044, Common, "ipc_shm_entry";
    IpcnsMsg, "IPCNS_MSG", "ipcns-msg-%u.img", 0x5545_3737, Common, "ipc_msg_entry";
    IpcnsSem, "IPCNS_SEM", "ipcns-sem-%u.img", 0x5957_3019, Common, "ipc_sem_entry";
    Fs, "FS", "fs-%u.img", 0x5140_3912, Common, "fs_entry";
    RemapFpath, "REMAP_FPATH", "remap-fpath.img", 0x5913_3954, Common, "remap_file_path_entry";
    GhostFile, "GHOST_FILE", "ghost-file-%x.img", 0x5258_3605, Common, "ghost_file_entry";
    MemfdInode, "MEMFD_INODE", "memfd.img", 0x4845_3499, Common, "memfd_inode_entry";
    TcpStream, "TCP_STREAM", "tcp-stream-%x.img", 0x5146_5506, Common, "tcp_stream_entry";
    Mnts, "MNTS", "mountpoints-%u.img", 0x5556_3928, Common, "mnt_entry";
    Netdev, "NETDEV", "netdev-%u.img", 0x5737_3951, Common, "net_device_entry";
    Netns, "NETNS", "netns-%u.img", 0x5593_3752, Common, "netns_entry";
    Ifaddr, "IFADDR", "ifaddr-%u.img", 0, Raw, "";
    Route, "ROUTE", "route-%u.img", 0, Raw, "";
    Route6, "ROUTE6", "route6-%u.img", 0, Raw, "";
    Rule, "RULE", "rule-%u.img", 0, Raw, "";
    Iptables, "IPTABLES", "iptables-%u.img", 0, Raw, "";
    Ip6tables, "IP6TABLES", "ip6tables-%u.img", 0, Raw, "";
    Nftables, "NFTABLES", "nftables-%u.img", 0, Raw, "";
    TmpfsImg, "TMPFS_IMG", "tmpfs-%u.tar.gz.img", 0, Raw, "";
    TmpfsDev, "TMPFS_DEV", "tmpfs-dev-%u.tar.gz.img", 0, Raw, "";
    Autofs, "AUTOFS", "autofs-%u.img", 0x4935_3943, Common, "autofs_entry";
    BinfmtMiscOld, "BINFMT_MISC_OLD", "binfmt-misc-%u.img", 0x6734_3323, Common, "binfmt_misc_entry";
    BinfmtMisc, "BINFMT_MISC", "binfmt-misc.img", 0x6734_3323, Common, "binfmt_misc_entry";
    TtyFiles, "TTY_FILES", "tty.img", 0x5943_3025, Common, "tty_file_entry";
    TtyInfo, "TTY_INFO", "tty-info.img", 0x5945_3036, Common, "tty_info_entry";
    TtyData, "TTY_DATA", "tty-data.img", 0x5941_3026, Common, "tty_data_entry";
    FileLocks, "FILE_LOCKS", "filelocks.img", 0x5432_3616, Common, "file_lock_entry";
    Rlimit, "RLIMIT", "rlimit-%u.img", 0x5711_3925, Common, "rlimit_entry";
    Pages, "PAGES", "pages-%u.img", 0, Raw, "";
    PagesOld, "PAGES_OLD", "pages-%d.img", 0x5608_4025, Common, "";
    ShmPagesOld, "SHM_PAGES_OLD", "pages-shmem-%ld.img", 0x5608_4025, Common, "";
    Signal, "SIGNAL", "signal-s-%u.img", 0x5925_5647, Common, "siginfo_entry";
    Psignal, "PSIGNAL", "signal-p-%u.img", 0x5925_5647, Common, "siginfo_entry";
    Tunfile, "TUNFILE", "tunfile.img", 0x5714_3751, Common, "tunfile_entry";
    Cgroup, "CGROUP", "cgroup.img", 0x5938_3330, Common, "cgroup_entry";
    Timerfd, "TIMERFD", "timerfd.img", 0x5049_3712, Common, "timerfd_entry";
    Cpuinfo, "CPUINFO", "cpuinfo.img", 0x6140_4013, Common, "cpuinfo_entry";
    Seccomp, "SECCOMP", "seccomp.img", 0x6441_3049, Common, "seccomp_entry";
    Userns, "USERNS", "userns-%u.img", 0x5547_4906, Common, "userns_entry";
    NetnfCt, "NETNF_CT", "netns-ct-%u.img", 0, Raw, "";
    NetnfExp, "NETNF_EXP", "netns-exp-%u.img", 0, Raw, "";
    Files, "FILES", "files.img", 0x5630_3138, Common, "file_entry";
    Timens, "TIMENS", "timens-%u.img", 0x4311_4433, Common, "timens_entry";
    Pidns, "PIDNS", "pidns-%u.img", 0x6115_7326, Common, "pidns_entry";
    BpfmapFile, "BPFMAP_FILE", "bpfmap-file.img", 0x5750_6142, Common, "bpfmap_file_entry";
    BpfmapData, "BPFMAP_DATA", "bpfmap-data.img", 0x6432_4033, Common, "bpfmap_data_entry";
    Apparmor, "APPARMOR", "apparmor.img", 0x5942_3047, Common, "apparmor_entry";
    Pidfd, "PIDFD", "pidfd.img", 0x5443_5556, Common, "pidfd_entry";
    Stats, "STATS", "stats-%s", 0x5709_3306, Service, "stats_entry";
    IrmapCache, "IRMAP_CACHE", "irmap-cache", 0x5700_4059, Service, "irmap_cache_entry";
}

/// The id of [`Image::Stats`] that a dump writes.
pub const STATS_DUMP: u64 = 0;
/// The id of [`Image::Stats`] that a restore writes.
pub const STATS_RESTORE: u64 = 1;

const STATS_NAMES: [&str; 2] = ["dump", "restore"];

impl Image {
    /// All images, in the order of the format's table.
    pub fn all() -> impl Iterator<Item = Image> {
        ROWS.iter().map(|row| row.image)
    }

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// The name that the JSON form calls it by, as in `"magic": "CORE"`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The image's own magic; 0 for [`Family::Raw`].
    pub fn magic(self) -> u32 {
        self.row().magic
    }

    /// How the file begins.
    pub fn family(self) -> Family {
        self.row().family
    }

    /// The message of its (first) entry; `None` for images without entries.
    pub fn message_name(self) -> Option<&'static str> {
        Some(self.row().message).filter(|name| !name.is_empty())
    }

    /// The message of the entry at `index`: pagemaps and chunked ghost files open with a head of their own.
    pub fn message_name_at(self, index: usize) -> Option<&'static str> {
        match (self, index) {
            (Image::Pagemap | Image::ShmemPagemap, 1..) => Some("pagemap_entry"),
            (Image::GhostFile, 1..) => Some("ghost_chunk_entry"),
            _ => self.message_name(),
        }
    }

    /// Whether there is one file for each id (a pid, a namespace or object id), not one for the checkpoint.
    pub fn has_id(self) -> bool {
        self.row().template.contains('%')
    }

    /// The file's name. `id` goes into its template, and is ignored where the name has none.
    ///
    /// [`Image::Stats`] takes [`STATS_DUMP`] or [`STATS_RESTORE`].
    pub fn file_name(self, id: u64) -> String {
        let (head, tail, radix) = split(self.row().template);
        match radix {
            Radix::None => head.to_owned(),
            Radix::Decimal => format!("{head}{id}{tail}"),
            Radix::Hex => format!("{head}{id:x}{tail}"),
            Radix::Word => format!("{head}{}{tail}", STATS_NAMES[usize::from(id != STATS_DUMP)]),
        }
    }

    /// The image and the id that a file name stands for.
    pub fn from_file_name(name: &str) -> Option<(Image, u64)> {
        ROWS.iter().find_map(|row| {
            let (head, tail, radix) = split(row.template);
            let id = match radix {
                Radix::None => return (name == head).then_some((row.image, 0)),
                _ => name.strip_prefix(head)?.strip_suffix(tail)?,
            };
            let id = match radix {
                Radix::Word => STATS_NAMES.iter().position(|word| *word == id)? as u64,
                Radix::Hex => u64::from_str_radix(id, 16).ok()?,
                _ => id.parse().ok()?,
            };
            // Only the canonical spelling: no sign, no leading zeros.
            (row.image.file_name(id) == name).then_some((row.image, id))
        })
    }

    /// The (first) image with this magic. Raw images have none.
    pub fn from_magic(magic: u32) -> Option<Image> {
        ROWS.iter().find(|row| row.magic == magic && magic != 0).map(|row| row.image)
    }

    /// The image that the JSON form calls `name`.
    pub fn from_name(name: &str) -> Option<Image> {
        ROWS.iter().find(|row| row.name == name).map(|row| row.image)
    }
}

enum Radix {
    None,
    Decimal,
    Hex,
    Word,
}

fn split(template: &'static str) -> (&'static str, &'static str, Radix) {
    for (mark, radix) in [
        ("%u", Radix::Decimal),
        ("%lu", Radix::Decimal),
        ("%d", Radix::Decimal),
        ("%ld", Radix::Decimal),
        ("%x", Radix::Hex),
        ("%s", Radix::Word),
    ] {
        if let Some((head, tail)) = template.split_once(mark) {
            return (head, tail, radix);
        }
    }
    (template, "", Radix::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_follow_their_templates() {
        assert_eq!(Image::Core.file_name(42), "core-42.img");
        assert_eq!(Image::GhostFile.file_name(255), "ghost-file-ff.img");
        assert_eq!(Image::ShmemPagemap.file_name(7), "pagemap-shmem-7.img");
        assert_eq!(Image::Inventory.file_name(9), "inventory.img");
        assert_eq!(Image::Stats.file_name(STATS_DUMP), "stats-dump");
        assert_eq!(Image::Stats.file_name(STATS_RESTORE), "stats-restore");
    }

    #[test]
    fn names_lead_back_to_images() {
        for image in Image::all() {
            assert_eq!(Image::from_name(image.name()), Some(image));
            let (found, id) = Image::from_file_name(&image.file_name(1)).expect("known name");
            if image != Image::PagesOld {
                assert_eq!((found, id), (image, u64::from(image.has_id())));
            }
        }
        for odd in ["core-+1.img", "core-01.img", "core-.img", "core-1.img.bak", ""] {
            assert_eq!(Image::from_file_name(odd), None, "{odd}");
        }
    }

    #[test]
    fn every_message_exists() {
        for image in Image::all() {
            for index in 0..2 {
                if let Some(name) = image.message_name_at(index) {
                    assert!(crate::unknown::is_known(name), "{name}");
                }
            }
        }
    }
}
