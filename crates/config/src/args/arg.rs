//! clap's view of the registry.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command as Clap, value_parser};

use crate::Command;
use crate::registry::{Arity, OPTIONS, Opt};

/// The command's words and what follows them.
pub(super) const WORDS: &str = "WORDS";
/// `--format` of `config show`.
pub(super) const FORMAT: &str = "format";

/// The parser: flat, so that options may stand on either side of the command.
pub(super) fn parser() -> Clap {
    let mut parser = Clap::new("criu-rs")
        .infer_long_args(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .override_usage("criu-rs COMMAND [OPTIONS]")
        .arg(format())
        .arg(bare("help", Some('h'), "Print this text"))
        .arg(bare("version", Some('V'), "Print the version"))
        .arg(Arg::new(WORDS).num_args(0..).value_parser(value_parser!(OsString)).action(ArgAction::Append));
    for option in OPTIONS {
        parser = parser.arg(argument(option));
        if option.negatable {
            parser = parser.arg(bare(format!("no-{}", option.name), None, ""));
        }
    }
    parser
}

/// An argument without value that may be repeated and remembers each place.
fn bare(name: impl Into<clap::builder::Str>, short: Option<char>, help: &'static str) -> Arg {
    let name = name.into();
    let arg = Arg::new(name.clone()).long(name).help(help);
    let arg = if let Some(short) = short { arg.short(short) } else { arg };
    arg.num_args(0).default_missing_value("").action(ArgAction::Append)
}

fn format() -> Arg {
    Arg::new(FORMAT)
        .long(FORMAT)
        .value_name("FORMAT")
        .value_parser(["text", "json"])
        .help("Form of the output")
}

/// An option of the registry.
fn argument(option: &'static Opt) -> Arg {
    let arg = bare(option.name, option.short, option.help).help_heading(option.group.title());
    match option.arity() {
        Arity::None => arg,
        Arity::Optional => arg.num_args(0..=1).require_equals(true).value_name(option.value_name),
        // A value may start with a dash, as getopt has it.
        Arity::Required => arg.num_args(1).value_name(option.value_name).allow_hyphen_values(true),
    }
}

/// The tree of commands, each with the options that it looks at: for help, completions and the man page.
pub(super) fn tree() -> Clap {
    let mut root = shell(Clap::new("criu-rs"), "criu-rs")
        .about("Checkpoint and restore of Linux process trees")
        .override_usage("criu-rs COMMAND [OPTIONS]")
        .subcommand_help_heading("Commands")
        .subcommand_value_name("COMMAND")
        .arg(bare("help", Some('h'), "Print this text; after a command, its options"))
        .arg(bare("version", Some('V'), "Print the version"));
    root = root.args(OPTIONS.iter().filter(|option| option.commands == Command::ALL).map(argument));
    for family in ["cpuinfo", "config"] {
        let mut parent = shell(Clap::new(family), &format!("criu-rs {family}"));
        for command in Command::ALL.iter().filter(|command| command.words()[0] == family) {
            parent = parent.subcommand(leaf(*command));
        }
        let about =
            if family == "cpuinfo" { "CPU features: dump or check" } else { "Options: show or check" };
        root = root.subcommand(parent.about(about).subcommand_required(true));
    }
    for command in Command::ALL.iter().filter(|command| command.words().len() == 1) {
        root = root.subcommand(leaf(*command));
    }
    root
}

/// One command with its options.
pub(super) fn leaf(command: Command) -> Clap {
    let name = command.words().last().copied().unwrap_or_default();
    let path = format!("criu-rs {command}");
    let operands = match command {
        Command::Dump | Command::PreDump => " -t PID",
        Command::Swrk => " FD",
        Command::ConfigCheck => " FILE",
        _ => "",
    };
    let mut clap = shell(Clap::new(name), &path)
        .about(command.about())
        .hide(command.deprecated())
        .override_usage(format!("{path}{operands} [OPTIONS]"));
    if command == Command::ConfigShow {
        clap = clap.arg(format());
    }
    let relevant = |option: &&Opt| option.commands.contains(&command) || command == Command::ConfigShow;
    clap.args(OPTIONS.iter().filter(relevant).map(argument))
}

fn shell(clap: Clap, path: &str) -> Clap {
    clap.bin_name(path.to_owned())
        .display_name(path.replace(' ', "-"))
        .term_width(80)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
}
