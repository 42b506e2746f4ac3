//! Reference texts made from the registry: docs/options.md and the man page.

use std::fmt::Write as _;
use std::io;

use super::arg;
use crate::Command;
use crate::registry::{Arity, Group, Kind, OPTIONS, Opt, Support};

/// Where values come from, weakest first: the words shared by both texts.
const LAYERS: &[(&str, &str)] = &[
    ("default", "built in"),
    ("system-file", "/etc/criu/default.conf"),
    ("user-file", "$HOME/.criu/default.conf"),
    ("env-file", "the file that $CRIU_CONFIG_FILE names"),
    ("config-file", "the file of --config, which must exist; it switches the two default files off"),
    ("environment", "CRIU_<OPTION> variables"),
    ("argument", "the command line"),
    ("rpc", "the fields of an RPC request"),
    ("rpc-file", "the file that an RPC request names (a warning if it is missing)"),
];

const SYNTAX: &str = "\
One option a line, without dashes; # starts a comment; a value with blanks stands in double quotes, where \\\" is a \
quote. Repeated options collect where they are lists, otherwise the last one holds. A flag with a no- form is \
switched off by it.";

const ENVIRONMENT: &str = "\
In the environment a flag is on for an empty value, 1, on, yes or true, and off for 0, off, no or false; lists have \
one entry a line.";

/// The text of docs/options.md.
pub fn options_markdown() -> String {
    let mut text = String::from(
        "# Options\n\n<!-- Generated from crates/config/src/registry/table.rs; do not edit. -->\n\n\
         Every option can be set on the command line, in a configuration file, in the environment and, where a field \
         is named, by RPC. A stronger layer replaces the value of a weaker one; lists grow, `verbosity` without a \
         number adds one, `cpu-cap` adds and takes away. `criu-rs config show` prints the values in effect and where \
         each was set. The layers, weakest first:\n\n",
    );
    for (at, (layer, what)) in LAYERS.iter().enumerate() {
        let _ = writeln!(text, "{}. {layer}: {}", at + 1, what.replace('<', "\\<"));
    }
    let _ = writeln!(text, "\n{SYNTAX}\n\n{ENVIRONMENT}");
    for group in Group::ALL {
        let _ = writeln!(text, "\n## {}\n", group.title());
        for option in OPTIONS.iter().filter(|option| option.group == *group) {
            entry(&mut text, option);
        }
    }
    text
}

fn entry(text: &mut String, option: &Opt) {
    let short = option.short.map(|letter| format!("`-{letter}`, ")).unwrap_or_default();
    let (name, value) = (option.name, option.value_name);
    let argument = match option.arity() {
        Arity::None => String::new(),
        Arity::Optional => format!("[={value}]"),
        Arity::Required => format!(" {value}"),
    };
    let _ = writeln!(text, "### {short}`--{name}{argument}`\n\n{}.\n", option.help);
    if let Some(detail) = option.detail() {
        let _ = writeln!(text, "{}\n", detail.replace('^', "\\^"));
    }
    let mut facts = Vec::new();
    if option.negatable {
        facts.push(format!("switched off by `--no-{name}`"));
    }
    if let Kind::Choice(choices) = option.kind {
        let names: Vec<_> = choices.iter().map(|choice| format!("`{}`", choice.name)).collect();
        facts.push(format!("one of {}", names.join(", ")));
    }
    if matches!(option.kind, Kind::List(_)) {
        facts.push("may be repeated".into());
    }
    if !option.default.is_empty() {
        facts.push(format!("default `{}`", option.default));
    }
    if let Some(implied) = option.implied {
        facts.push(format!("`{implied}` without a value"));
    }
    if let Some(other) = option.unsets {
        facts.push(format!("switches `--{other}` off"));
    }
    if option.commands != Command::ALL {
        let commands: Vec<_> = option.commands.iter().map(|command| format!("`{command}`")).collect();
        facts.push(format!("for {}", commands.join(", ")));
    }
    if !option.rpc.is_empty() {
        let fields: Vec<_> = option.rpc.iter().map(|field| format!("`{field}`")).collect();
        facts.push(format!("RPC {}", fields.join(", ")));
    }
    match option.support {
        Support::Supported => {}
        Support::NoEffect => facts.push("accepted without effect".into()),
        Support::NotYet => facts.push("**not supported yet**".into()),
        Support::Removed(instead) => facts.push(format!("**refused**; use {instead}")),
    }
    if !facts.is_empty() {
        let facts = facts.join("; ");
        let capital = facts.get(..1).unwrap_or_default().to_uppercase();
        let _ = writeln!(text, "{capital}{}.\n", facts.get(1..).unwrap_or_default());
    }
}

/// The man page criu-rs(8) in roff.
///
/// # Errors
/// None in practice: it writes into memory.
pub fn man_page() -> io::Result<String> {
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(arg::everything()).section("8").manual("criu-rs").date("");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    page.extend_from_slice(b".SH SYNOPSIS\n\\fBcriu\\-rs\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n");
    man.render_description_section(&mut page)?;
    let mut text = String::from_utf8(page).map_err(io::Error::other)?;
    let _ = writeln!(text, ".SH COMMANDS");
    for command in Command::ALL.iter().filter(|command| !command.deprecated()) {
        let _ = writeln!(text, ".TP\n\\fB{}\\fR\n{}.", roff(&command.to_string()), roff(command.about()));
    }
    let mut page = Vec::new();
    man.render_options_section(&mut page)?;
    text.push_str(&String::from_utf8(page).map_err(io::Error::other)?);
    let _ = writeln!(text, ".SH \"CONFIGURATION FILES\"\n{}\n.PP\n{}", roff(SYNTAX), roff(ENVIRONMENT));
    let _ = writeln!(text, ".PP\nThe layers, weakest first:");
    for (layer, what) in LAYERS {
        let _ = writeln!(text, ".TP\n\\fB{}\\fR\n{}", roff(layer), roff(what));
    }
    let _ = writeln!(
        text,
        ".SH \"EXIT STATUS\"\n0 for done, 1 for failed.\n.SH EXAMPLES\n.nf\n\
         criu\\-rs dump \\-t 1234 \\-D checkpoint\ncriu\\-rs restore \\-d \\-D checkpoint\n.fi"
    );
    Ok(text)
}

/// Text with roff's special characters escaped.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    // A line that starts with a dot or a quote would be a request.
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
