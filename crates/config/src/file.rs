//! The syntax of configuration files: one option a line, without dashes.
//!
//! ```text
//! # a comment
//! tcp-established
//! no-restore-sibling        # another
//! verbosity 4
//! work-dir "/home/me/my \"work\" directory"
//! ```
//!
//! A value with blanks or `#` stands in double quotes, where `\"` is a quote and every other backslash is itself.
//! `key=value` works too. An argument that may be left out may also stand behind a blank, which the reference
//! silently ignores; and `#` inside quotes is text, where the reference cuts the value.

use std::fmt::Write as _;

use crate::registry::{self, Arity};
use crate::value::{Raw, Setting};

/// The largest file that is read, in bytes.
pub const MAX_SIZE: u64 = 1 << 20;

/// One wrong line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// Its number, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: Wrong,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Not in the syntax; a sentence.
    Syntax(String),
    /// No option has this key.
    UnknownKey {
        /// The key as written.
        key: String,
        /// The key that may have been meant.
        nearest: Option<String>,
    },
    /// The option does not take this value.
    Value {
        /// The option's name.
        option: String,
        /// A sentence.
        reason: String,
    },
}

/// A setting that a configuration file cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: a configuration file cannot hold {what}")]
pub struct Unrepresentable {
    /// The option.
    pub option: &'static str,
    /// What the syntax has no words for.
    pub what: &'static str,
}

/// Reads a file's text: the settings of all right lines, and all wrong lines. Never panics.
pub fn parse(bytes: &[u8]) -> (Vec<Setting>, Vec<LineError>) {
    let (mut settings, mut errors) = (Vec::new(), Vec::new());
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = at + 1;
        let parsed = std::str::from_utf8(line)
            .map_err(|_| Wrong::Syntax("not UTF-8 text".into()))
            .and_then(|line| parse_line(line, number));
        match parsed {
            Ok(Some(setting)) => settings.push(setting),
            Ok(None) => {}
            Err(what) => errors.push(LineError { line: number, what }),
        }
    }
    (settings, errors)
}

fn parse_line(line: &str, number: usize) -> Result<Option<Setting>, Wrong> {
    let line = line.trim_matches(blank);
    let end = line.find(|c| blank(c) || c == '#' || c == '=').unwrap_or(line.len());
    let (key, rest) = line.split_at(end);
    if key.is_empty() {
        return match rest.chars().next() {
            None | Some('#') => Ok(None),
            Some(_) => Err(Wrong::Syntax("no option before «=»".into())),
        };
    }
    let (option, negated) = registry::find_key(key).ok_or_else(|| unknown(key))?;
    let value = parse_value(rest.strip_prefix('=').unwrap_or(rest))?;
    let wrong = |reason: String| Wrong::Value { option: key.into(), reason };
    let raw = match (value, negated) {
        (None, true) => Raw::Off,
        (None, false) => Raw::Bare,
        (Some(_), true) => return Err(wrong("takes no value".into())),
        // An empty value means the bare name where the argument may be left out, as on the command line.
        (Some(text), _) if text.is_empty() && option.arity() == Arity::Optional => Raw::Bare,
        (Some(text), _) => Raw::Text(text),
    };
    option.apply(&option.default_value(), &raw).map_err(wrong)?;
    Ok(Some(Setting { option, raw, line: Some(number) }))
}

fn unknown(key: &str) -> Wrong {
    let bare = key.trim_start_matches('-');
    if bare.len() < key.len() && registry::find_key(bare).is_some() {
        return Wrong::Syntax(format!("«{key}»: write the option without dashes, «{bare}»"));
    }
    Wrong::UnknownKey { key: key.chars().take(60).collect(), nearest: registry::nearest(bare) }
}

/// The value in the rest of a line; a comment may follow it.
fn parse_value(rest: &str) -> Result<Option<String>, Wrong> {
    let rest = rest.trim_start_matches(blank);
    if rest.is_empty() || rest.starts_with('#') {
        return Ok(None);
    }
    let (value, after) = match rest.strip_prefix('"') {
        Some(quoted) => unquote(quoted)?,
        None => {
            let end = rest.find(|c| blank(c) || c == '#').unwrap_or(rest.len());
            (rest[..end].replace("\\\"", "\""), &rest[end..])
        }
    };
    let after = after.trim_start_matches(blank);
    if after.is_empty() || after.starts_with('#') {
        return Ok(Some(value));
    }
    Err(Wrong::Syntax("more than one value; put a value that contains blanks in double quotes".into()))
}

/// Text up to the closing quote, and what follows it.
fn unquote(quoted: &str) -> Result<(String, &str), Wrong> {
    let mut value = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &quoted[at + 1..])),
            '\\' if chars.next_if(|(_, next)| *next == '"').is_some() => value.push('"'),
            _ => value.push(c),
        }
    }
    Err(Wrong::Syntax("the closing quote is missing".into()))
}

fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\x0b' | '\x0c' | '\n')
}

/// Writes settings as a file that parses back to the same settings.
///
/// # Errors
/// The syntax has no words for a value with a line break, nor for one that needs quotes and ends in a backslash.
pub fn format<'a>(settings: impl IntoIterator<Item = &'a Setting>) -> Result<String, Unrepresentable> {
    let mut text = String::new();
    for setting in settings {
        let option = setting.option.name;
        let unrepresentable = |what| Unrepresentable { option, what };
        match &setting.raw {
            Raw::Off => text.push_str("no-"),
            Raw::Bare | Raw::Text(_) => {}
        }
        text.push_str(option);
        if let Raw::Text(value) = &setting.raw {
            let quotes = value.is_empty() || value.contains(|c| blank(c) || c == '#' || c == '"');
            if value.contains('\n') {
                return Err(unrepresentable("a line break"));
            } else if quotes && value.ends_with('\\') {
                return Err(unrepresentable("a quoted value that ends in a backslash"));
            } else if quotes {
                let _ = write!(text, " \"{}\"", value.replace('"', "\\\""));
            } else {
                let _ = write!(text, " {value}");
            }
        }
        text.push('\n');
    }
    Ok(text)
}
