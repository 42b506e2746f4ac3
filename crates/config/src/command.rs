//! The commands of the command line.

use std::fmt;

/// What criu-rs is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Command {
    /// Checkpoint a process tree.
    Dump,
    /// Copy memory ahead of a dump, to keep the tree frozen for less time later.
    PreDump,
    /// Bring a dumped tree back.
    Restore,
    /// Tell whether this kernel has what criu-rs needs.
    Check,
    /// Receive memory pages over the network.
    PageServer,
    /// Serve memory pages to restored tasks on demand.
    LazyPages,
    /// Serve RPC requests on a unix socket.
    Service,
    /// Serve RPC requests on an inherited socket (what libcriu and container runtimes start).
    Swrk,
    /// Punch pages out of parent images that a child image replaced.
    Dedup,
    /// Write this machine's CPU features into an image.
    CpuinfoDump,
    /// Compare this machine's CPU features with those of an image.
    CpuinfoCheck,
    /// Deprecated by the reference; refused with a word.
    Exec,
    /// Deprecated by the reference; refused with a word.
    Show,
    /// Print every option in effect and where it came from.
    ConfigShow,
    /// Check one configuration file.
    ConfigCheck,
}

impl Command {
    /// All commands, in the order of the help text.
    pub const ALL: &[Command] = &[
        Command::Dump,
        Command::PreDump,
        Command::Restore,
        Command::Check,
        Command::PageServer,
        Command::LazyPages,
        Command::Service,
        Command::Swrk,
        Command::Dedup,
        Command::CpuinfoDump,
        Command::CpuinfoCheck,
        Command::Exec,
        Command::Show,
        Command::ConfigShow,
        Command::ConfigCheck,
    ];

    /// The words typed on the command line, such as `["cpuinfo", "dump"]`.
    pub const fn words(self) -> &'static [&'static str] {
        match self {
            Command::Dump => &["dump"],
            Command::PreDump => &["pre-dump"],
            Command::Restore => &["restore"],
            Command::Check => &["check"],
            Command::PageServer => &["page-server"],
            Command::LazyPages => &["lazy-pages"],
            Command::Service => &["service"],
            Command::Swrk => &["swrk"],
            Command::Dedup => &["dedup"],
            Command::CpuinfoDump => &["cpuinfo", "dump"],
            Command::CpuinfoCheck => &["cpuinfo", "check"],
            Command::Exec => &["exec"],
            Command::Show => &["show"],
            Command::ConfigShow => &["config", "show"],
            Command::ConfigCheck => &["config", "check"],
        }
    }

    /// One line for the help text.
    pub const fn about(self) -> &'static str {
        match self {
            Command::Dump => "Checkpoint a process tree into image files",
            Command::PreDump => "Copy the memory of a running tree ahead of its dump",
            Command::Restore => "Restore a process tree from image files",
            Command::Check => "Tell whether this kernel has what criu-rs needs",
            Command::PageServer => "Receive memory pages over the network",
            Command::LazyPages => "Serve memory pages to restored tasks on demand",
            Command::Service => "Serve RPC requests on a unix socket",
            Command::Swrk => "Serve RPC requests on the inherited socket FD",
            Command::Dedup => "Drop pages from parent images that newer images replace",
            Command::CpuinfoDump => "Write this machine's CPU features into an image",
            Command::CpuinfoCheck => "Compare this machine's CPU features with an image",
            Command::Exec => "Deprecated: run a system call in a task",
            Command::Show => "Deprecated: print an image (use crit)",
            Command::ConfigShow => "Print every option in effect and where it came from",
            Command::ConfigCheck => "Check the syntax and the values of one configuration file",
        }
    }

    /// Deprecated commands parse, but stay out of the help text.
    pub const fn deprecated(self) -> bool {
        matches!(self, Command::Exec | Command::Show)
    }

    /// Whether the command works on the configuration itself and accepts options that are not built yet.
    pub const fn inspects_config(self) -> bool {
        matches!(self, Command::ConfigShow | Command::ConfigCheck)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(" "))
    }
}
