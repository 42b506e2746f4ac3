//! The two-letter words of the `VmFlags:` line.

macro_rules! vm_flags {
    ($($bit:literal $word:literal $name:ident $doc:literal,)*) => {
        bitflags::bitflags! {
            /// The kernel's flags of a mapping, by the words of `smaps` (proc_pid_smaps(5)).
            /// The bit numbers are this crate's own.
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
            pub struct VmFlags: u64 {
                $(#[doc = concat!("`", $word, "`: ", $doc, ".")] const $name = 1 << $bit;)*
            }
        }

        fn bit(word: &[u8]) -> VmFlags {
            $(if word == $word.as_bytes() { return VmFlags::$name; })*
            VmFlags::empty()
        }
    };
}

vm_flags! {
    0 "rd" READ "readable",
    1 "wr" WRITE "writable",
    2 "ex" EXEC "executable",
    3 "sh" SHARED "shared",
    4 "mr" MAY_READ "may become readable",
    5 "mw" MAY_WRITE "may become writable",
    6 "me" MAY_EXEC "may become executable",
    7 "ms" MAY_SHARE "may share",
    8 "gd" GROWS_DOWN "grows down, like a stack",
    9 "pf" PFN_MAP "pure page frame range",
    10 "lo" LOCKED "pages are locked in memory",
    11 "io" IO "memory-mapped I/O",
    12 "sr" SEQ_READ "sequential read advice",
    13 "rr" RAND_READ "random read advice",
    14 "dc" DONT_COPY "not copied on fork",
    15 "de" DONT_EXPAND "not expanded by mremap",
    16 "ac" ACCOUNT "accountable",
    17 "nr" NO_RESERVE "swap space is not reserved",
    18 "ht" HUGETLB "uses huge TLB pages",
    19 "ar" ARCH "architecture specific",
    20 "wf" WIPE_ON_FORK "wiped on fork",
    21 "dd" DONT_DUMP "not in core dumps",
    22 "sd" SOFT_DIRTY "soft-dirty",
    23 "mm" MIXED_MAP "mixed map area",
    24 "hg" HUGE_PAGE "huge page advice",
    25 "nh" NO_HUGE_PAGE "no huge page advice",
    26 "mg" MERGEABLE "mergeable advice",
    27 "um" UFFD_MISSING "userfaultfd tracks missing pages",
    28 "uw" UFFD_WP "userfaultfd tracks writes",
    29 "ui" UFFD_MINOR "userfaultfd tracks minor faults",
    30 "ss" SHADOW_STACK "a shadow stack",
    31 "sl" SEALED "sealed by mseal",
    32 "dp" DROPPABLE "lazily freeable (MAP_DROPPABLE)",
    33 "lf" LOCK_ON_FAULT "locked as pages are touched",
    34 "sf" SYNC_FAULT "synchronous page faults (MAP_SYNC)",
    35 "mt" MTE "memory tagging",
    36 "bt" BTI "branch target identification",
    37 "nl" NON_LINEAR "non-linear mapping",
    38 "gu" MAYBE_GUARD "may contain guard pages",
}

impl VmFlags {
    /// Reads the words of one line; words from a newer kernel are passed over.
    pub fn parse(words: &[u8]) -> Self {
        words.split(u8::is_ascii_whitespace).map(bit).collect()
    }
}
