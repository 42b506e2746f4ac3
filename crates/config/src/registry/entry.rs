//! The shape of one entry of the table.

use crate::Command;

/// One option.
#[derive(Debug)]
pub struct Opt {
    /// Long name, also the file key; the environment name is `CRIU_` and this in capitals with underscores.
    pub name: &'static str,
    /// Letter of the short form.
    pub short: Option<char>,
    /// What its value may be.
    pub kind: Kind,
    /// What the help text calls the value.
    pub value_name: &'static str,
    /// The value where nothing sets one; empty for none.
    pub default: &'static str,
    /// The value meant by the bare name, for an option whose argument may be left out.
    pub implied: Option<&'static str>,
    /// Whether `no-NAME` exists.
    pub negatable: bool,
    /// The option that setting this one switches off.
    pub unsets: Option<&'static str>,
    /// Its place in the help text.
    pub group: Group,
    /// The commands that look at it. Others accept and ignore it, as the reference does.
    pub commands: &'static [Command],
    /// Fields of `criu_opts` that set it.
    pub rpc: &'static [&'static str],
    /// Whether its function is built.
    pub support: Support,
    /// One line of help.
    pub help: &'static str,
}

/// What the value of an option may be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// On or off.
    Flag,
    /// A level: the bare name adds one, a number sets it.
    Count,
    /// Any text.
    Text,
    /// A path.
    Path,
    /// A whole number between the two bounds.
    Int(i64, i64),
    /// Bytes, with an optional suffix K, M or G.
    Size,
    /// One of some words.
    Choice(&'static [Choice]),
    /// A set of CPU capabilities.
    CpuCap,
    /// Off, or on with a list of numbers separated by commas (which may be empty).
    Ids,
    /// Values that collect.
    List(Item),
}

/// What one element of a list may be.
#[derive(Clone, Copy, Debug)]
pub enum Item {
    /// Any text.
    Text,
    /// A file descriptor number.
    Fd,
    /// Words separated by commas.
    Words,
    /// Text of a form, which the name describes and the function tests.
    Form(&'static str, fn(&str) -> bool),
}

/// One word of a [`Kind::Choice`].
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// The word.
    pub name: &'static str,
    /// Another word for the same.
    pub alias: Option<&'static str>,
    /// Its number in RPC messages; none where RPC cannot name it.
    pub rpc: Option<i64>,
}

impl Choice {
    /// A word with its RPC number.
    pub const fn new(name: &'static str, rpc: i64) -> Self {
        Choice { name, alias: None, rpc: Some(rpc) }
    }

    /// A word that RPC cannot name.
    pub const fn local(name: &'static str) -> Self {
        Choice { name, alias: None, rpc: None }
    }
}

/// Whether an option's argument is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Takes none.
    None,
    /// May be left out.
    Optional,
    /// Must be there.
    Required,
}

/// Whether the function of an option is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Works.
    Supported,
    /// Accepted; there is nothing for it to change.
    NoEffect,
    /// Parses, then fails when a command would need it.
    NotYet,
    /// The reference refuses it too; the text says what to use instead.
    Removed(&'static str),
}

/// Headings of the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// What to dump or restore, and what becomes of it.
    Tasks,
    /// Directories and files.
    Files,
    /// Resources that need a permission.
    Resources,
    /// Things outside the tree.
    External,
    /// Namespaces and mounts.
    Namespaces,
    /// Control groups.
    Cgroups,
    /// Memory and incremental dumps.
    Memory,
    /// Page server and service.
    Server,
    /// Options of `check`.
    Check,
    /// Log and statistics.
    Logging,
    /// Configuration files, help and the rest.
    General,
}

impl Group {
    /// All headings in order.
    pub const ALL: &[Group] = &[
        Group::Tasks,
        Group::Files,
        Group::Resources,
        Group::External,
        Group::Namespaces,
        Group::Cgroups,
        Group::Memory,
        Group::Server,
        Group::Check,
        Group::Logging,
        Group::General,
    ];

    /// The heading.
    pub const fn title(self) -> &'static str {
        match self {
            Group::Tasks => "Tasks",
            Group::Files => "Directories and files",
            Group::Resources => "Resources",
            Group::External => "External resources",
            Group::Namespaces => "Namespaces and mounts",
            Group::Cgroups => "Control groups",
            Group::Memory => "Memory",
            Group::Server => "Page server and service",
            Group::Check => "Check",
            Group::Logging => "Logging",
            Group::General => "General",
        }
    }
}

impl Opt {
    pub(super) const fn new(name: &'static str, kind: Kind, group: Group, help: &'static str) -> Self {
        Opt {
            name,
            short: None,
            kind,
            value_name: "",
            default: "",
            implied: None,
            negatable: false,
            unsets: None,
            group,
            commands: Command::ALL,
            rpc: &[],
            support: Support::Supported,
            help,
        }
    }

    pub(super) const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    pub(super) const fn value(mut self, value_name: &'static str) -> Self {
        self.value_name = value_name;
        self
    }

    pub(super) const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    pub(super) const fn implied(mut self, implied: &'static str) -> Self {
        self.implied = Some(implied);
        self
    }

    pub(super) const fn no(mut self) -> Self {
        self.negatable = true;
        self
    }

    pub(super) const fn unsets(mut self, other: &'static str) -> Self {
        self.unsets = Some(other);
        self
    }

    pub(super) const fn on(mut self, commands: &'static [Command]) -> Self {
        self.commands = commands;
        self
    }

    pub(super) const fn rpc(mut self, fields: &'static [&'static str]) -> Self {
        self.rpc = fields;
        self
    }

    pub(super) const fn support(mut self, support: Support) -> Self {
        self.support = support;
        self
    }

    /// Whether the option takes an argument.
    pub const fn arity(&self) -> Arity {
        match self.kind {
            Kind::Flag => Arity::None,
            Kind::Count | Kind::CpuCap | Kind::Ids => Arity::Optional,
            _ if self.implied.is_some() => Arity::Optional,
            _ => Arity::Required,
        }
    }

    /// Whether several settings of it add up rather than replace each other.
    pub const fn accumulates(&self) -> bool {
        matches!(self.kind, Kind::Count | Kind::CpuCap | Kind::Ids | Kind::List(_))
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("CRIU_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}
