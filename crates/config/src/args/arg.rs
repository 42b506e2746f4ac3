//! clap's view of the registry.

use std::ffi::OsString;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command as Clap, ValueHint, value_parser};

use crate::Command;
use crate::registry::{Arity, Kind, OPTIONS, Opt, Support};

/// The command's words and what follows them.
pub(super) const WORDS: &str = "WORDS";
/// `--format` of `config show`.
pub(super) const FORMAT: &str = "format";

const AFTER_HELP: &str = "\
`criu-rs COMMAND --help` lists the options of a command. Each may also stand
in a configuration file, without dashes, or in the environment as
CRIU_<OPTION>. `criu-rs config show` tells which value holds, and why.";

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
        .hide_possible_values(true)
        .help("text or json")
}

/// An option of the registry as the help text shows it.
fn shown(option: &'static Opt) -> Arg {
    let help = match option.default {
        "" | "on" => option.help.to_owned(),
        default => format!("{} ({default})", option.help),
    };
    let works = matches!(option.support, Support::Supported | Support::NoEffect);
    let arg = argument(option).help(help).help_heading(option.group.title()).hide(!works);
    match option.kind {
        Kind::Choice(choices) => {
            let names = choices.iter().map(|choice| choice.name);
            arg.value_parser(PossibleValuesParser::new(names)).hide_possible_values(true)
        }
        Kind::Path => arg.value_hint(ValueHint::AnyPath),
        _ => arg,
    }
}

/// An option of the registry.
fn argument(option: &'static Opt) -> Arg {
    let arg = bare(option.name, option.short, option.help);
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
        .after_help(AFTER_HELP)
        .arg(bare("help", Some('h'), "Print this text; after a command, its options"))
        .arg(bare("version", Some('V'), "Print the version"));
    root = root.args(OPTIONS.iter().filter(|option| option.commands == Command::ALL).map(shown));
    for command in Command::ALL {
        let [family, _] = command.words() else {
            root = root.subcommand(leaf(*command));
            continue;
        };
        if root.find_subcommand(family).is_none() {
            let about =
                if *family == "config" { "Options: show or check" } else { "CPU features: dump or check" };
            let parent = shell(Clap::new(*family), &format!("criu-rs {family}"));
            root = root.subcommand(parent.about(about).subcommand_required(true));
        }
        root = root.mut_subcommand(family, |parent| parent.subcommand(leaf(*command)));
    }
    root
}

/// All options under one name, for the man page.
pub(super) fn everything() -> Clap {
    shell(Clap::new("criu-rs"), "criu-rs")
        .about("checkpoint and restore of Linux process trees")
        .override_usage("criu-rs COMMAND [OPTIONS]")
        .long_about(
            "criu-rs writes the state of running processes into image files and makes equal processes from them, \
             at another time or on another machine. It reads and writes the images of CRIU and takes its options.",
        )
        .arg(bare("help", Some('h'), "Print help; after a command, its options"))
        .arg(bare("version", Some('V'), "Print the version"))
        .args(OPTIONS.iter().map(|option| match option.detail() {
            Some(detail) => shown(option).long_help(format!("{}. {detail}", option.help)),
            None => shown(option),
        }))
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
    clap.args(OPTIONS.iter().filter(relevant).map(shown))
}

fn shell(clap: Clap, path: &str) -> Clap {
    clap.bin_name(path.to_owned())
        .display_name(path.replace(' ', "-"))
        .term_width(80)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
}
