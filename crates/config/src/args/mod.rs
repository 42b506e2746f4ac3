//! The command line, built from the registry.

mod arg;
pub mod docs;
pub mod help;
mod normalise;

use std::ffi::OsString;

use clap::ArgMatches;

use crate::Command;
use crate::registry::{Arity, OPTIONS, nearest};
use crate::value::{Raw, Setting};

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Run a command.
    Run(Invocation),
    /// Print this help text and end well.
    Help(String),
    /// Print the version and end well.
    Version,
}

/// A command with its options.
#[derive(Clone, Debug, PartialEq)]
pub struct Invocation {
    /// The command.
    pub command: Command,
    /// The options in the order in which they were written; the argument layer of
    /// [`Sources`](crate::Sources).
    pub settings: Vec<Setting>,
    /// What follows the command: the FD of `swrk`, the FILE of `config check`, the words of `--exec-cmd`.
    pub operands: Vec<OsString>,
    /// `config show --format`.
    pub json: bool,
}

/// A command line that makes no sense: text for standard error, ending in a hint to `--help`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl UsageError {
    fn new(message: impl std::fmt::Display) -> Self {
        UsageError(format!("{message}\nTry `criu-rs --help`."))
    }
}

/// Parses a command line, its first word being the program's name. Options may stand before or after the
/// command, long names may be cut short where that is unambiguous, and `--` ends the options.
///
/// # Errors
/// What does not fit, in words for the user. Values are not checked here but in [`load`](crate::load()).
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request, UsageError> {
    let args = normalise::normalise(args.into_iter().collect());
    let matches = arg::parser().try_get_matches_from(args).map_err(|error| usage_error(&error))?;
    let words: Vec<OsString> =
        matches.get_many::<OsString>(arg::WORDS).unwrap_or_default().cloned().collect();
    let command = find_command(&words);
    if matches.contains_id("version") {
        return Ok(Request::Version);
    }
    if matches.contains_id("help") || words.first().is_some_and(|word| word == "help") {
        let about = find_command(words.strip_prefix(&["help".into()]).unwrap_or(&words));
        return Ok(Request::Help(help::text(about.ok().map(|(command, _)| command))));
    }
    let (command, used) = command?;
    let settings = settings(&matches);
    let operands = words[used..].to_vec();
    let json = matches.get_one::<String>(arg::FORMAT).is_some_and(|format| format == "json");
    if matches.contains_id(arg::FORMAT) && command != Command::ConfigShow {
        return Err(UsageError::new("--format belongs to `config show`"));
    }
    check_operands(command, &settings, &operands)?;
    Ok(Request::Run(Invocation { command, settings, operands, json }))
}

/// clap's error in one line.
fn usage_error(error: &clap::Error) -> UsageError {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match (error.kind(), context(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(given)) => {
            let name = given.trim_start_matches('-');
            let matching: Vec<_> = OPTIONS.iter().map(|o| o.name).filter(|o| o.starts_with(name)).collect();
            let hint = match matching[..] {
                [_, _, ..] if given.starts_with("--") => format!(": it may be --{}", matching.join(" or --")),
                _ if given.starts_with("--") => {
                    nearest(name).map(|name| format!(", did you mean --{name}?")).unwrap_or_default()
                }
                _ => String::new(),
            };
            UsageError::new(format!("unknown option {given}{hint}"))
        }
        _ => {
            let text = error.render().to_string();
            UsageError::new(text.lines().next().unwrap_or_default().trim_start_matches("error: "))
        }
    }
}

/// The command that the words name, and how many of them name it.
fn find_command(words: &[OsString]) -> Result<(Command, usize), UsageError> {
    let word = |at: usize| words.get(at).map(|word| word.to_string_lossy());
    let Some(first) = word(0) else { return Err(UsageError::new("a command is required")) };
    let found = Command::ALL.iter().find(|command| {
        let name = command.words();
        name.iter().enumerate().all(|(at, part)| word(at).as_deref() == Some(*part))
    });
    if let Some(command) = found {
        return Ok((*command, command.words().len()));
    }
    let actions: Vec<_> =
        Command::ALL.iter().filter_map(|c| c.words().get(1).filter(|_| c.words()[0] == first)).collect();
    if let [one, two] = actions[..] {
        return Err(UsageError::new(format!("{first} needs an action: {one} or {two}")));
    }
    let names = Command::ALL.iter().map(|command| command.words()[0]);
    let hint = crate::registry::nearest_in(&first, names)
        .map(|name| format!(", did you mean «{name}»?"))
        .unwrap_or_default();
    Err(UsageError::new(format!("unknown command «{first}»{hint}")))
}

/// All options that were given, in the order in which they were given.
fn settings(matches: &ArgMatches) -> Vec<Setting> {
    let mut found = Vec::new();
    for option in OPTIONS {
        for (at, value) in occurrences(matches, option.name) {
            let raw = match option.arity() {
                Arity::None => Raw::Bare,
                Arity::Optional if value.is_empty() => Raw::Bare,
                _ => Raw::Text(value),
            };
            found.push((at, Setting { option, raw, line: None }));
        }
        if option.negatable {
            let off = occurrences(matches, &format!("no-{}", option.name));
            found.extend(off.into_iter().map(|(at, _)| (at, Setting { option, raw: Raw::Off, line: None })));
        }
    }
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, setting)| setting).collect()
}

fn occurrences(matches: &ArgMatches, id: &str) -> Vec<(usize, String)> {
    let indices = matches.indices_of(id).into_iter().flatten();
    let values = matches.get_many::<String>(id).into_iter().flatten();
    indices.zip(values.cloned()).collect()
}

fn check_operands(command: Command, settings: &[Setting], operands: &[OsString]) -> Result<(), UsageError> {
    let set = |name| settings.iter().any(|setting| setting.option.name == name);
    let one = |what| match operands {
        [_] => Ok(()),
        _ => Err(UsageError::new(format!("usage: criu-rs {command} {what}"))),
    };
    match command {
        Command::Swrk => one("FD"),
        Command::ConfigCheck => one("FILE"),
        Command::Exec | Command::Show => Ok(()),
        Command::Restore if set("exec-cmd") && operands.is_empty() => {
            Err(UsageError::new("--exec-cmd needs a command after «--»"))
        }
        Command::Restore if set("exec-cmd") && set("restore-detached") => {
            Err(UsageError::new("--exec-cmd and --restore-detached exclude each other"))
        }
        Command::Restore if set("exec-cmd") => Ok(()),
        _ if set("exec-cmd") => Err(UsageError::new("--exec-cmd belongs to the restore command")),
        _ => match operands.first() {
            None => Ok(()),
            Some(word) => {
                Err(UsageError::new(format!("{command} takes no further word «{}»", word.to_string_lossy())))
            }
        },
    }
}
