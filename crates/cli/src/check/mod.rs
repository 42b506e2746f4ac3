//! `criu-rs check`: does this kernel have what criu-rs needs?

mod probes;
mod table;

use anyhow::{Context, Result};
use criu_config::Options;
use std::io::Write;
use table::{Entry, FEATURES, Level};

const GOOD: &str = "Looks good.";
const BAD: &str = "Does not look good.";
const MAYBE: &str = "Looks good but some kernel features are missing\n\
    (--verbosity=2 names them); a tree that needs one cannot be dumped or restored.";

/// Checks, names each missing feature in the log and prints the verdict; the exit code.
///
/// # Errors
/// A name that no feature has.
pub fn run(options: &Options) -> Result<u8> {
    if options.feature.is_empty() {
        let (verdict, code) = verdict(options);
        print(verdict);
        return Ok(code);
    }
    if options.feature.iter().any(|name| name == "list") {
        print(&table::names().join("\n"));
        return Ok(0);
    }
    let asked: Vec<_> = options.feature.iter().map(|name| find(name)).collect::<Result<_>>()?;
    let missing = missing(asked.iter().copied(), |line| tracing::error!("{line}"));
    let there = asked.iter().filter(|entry| !missing.contains(&entry.name));
    there.for_each(|entry| print(&format!("{} is supported", entry.name)));
    Ok(u8::from(!missing.is_empty()))
}

/// The verdict on the kernel as a whole, with its exit code.
fn verdict(options: &Options) -> (&'static str, u8) {
    let of = |level| FEATURES.iter().filter(move |entry| entry.level == level);
    if !missing(of(Level::Required), |line| tracing::error!("{line}")).is_empty() {
        return (BAD, 1);
    }
    let mut wanting = Vec::new();
    let warn = |line: String| tracing::warn!("{line}");
    if options.check_extra() {
        wanting.extend(missing(of(Level::Extra), warn));
    }
    if options.check_experimental() {
        wanting.extend(missing(of(Level::Experimental), warn));
    }
    if wanting.is_empty() { (GOOD, 0) } else { (MAYBE, 1) }
}

fn find(name: &str) -> Result<&'static Entry> {
    table::find(name).with_context(|| {
        let near = criu_config::registry::nearest_in(name, table::names());
        let hint = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
        format!("check: unknown feature {name}{hint}; `check --feature list` names them all")
    })
}

/// The names of those that are not there, each with a line about it.
fn missing<'a>(entries: impl Iterator<Item = &'a Entry>, say: impl Fn(String)) -> Vec<&'a str> {
    let absent = entries.filter(|entry| !entry.is_available());
    absent
        .map(|entry| {
            let name =
                if entry.name.is_empty() { String::new() } else { format!("{} is missing: ", entry.name) };
            say(format!("check: {name}needed for {}; it comes with {}", entry.needed_for, entry.since));
            entry.name
        })
        .collect()
}

/// For people and scripts; a closed pipe is none of the check's business.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_there_once() {
        let names = table::names();
        assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len());
        assert!(names.iter().all(|name| find(name).is_ok()));
        let error = find("kcmp_epol").unwrap_err().to_string();
        assert!(error.contains("did you mean kcmp_epoll?"), "{error}");
    }

    #[test]
    fn a_missing_feature_says_what_for_and_since_when() {
        let entry = Entry {
            name: "antigravity",
            probe: table::Probe::Here(|| false),
            level: Level::Extra,
            since: "Linux 9.9",
            needed_for: "flying tasks",
        };
        let lines = std::cell::RefCell::new(Vec::new());
        let names = missing([&entry].into_iter(), |line| lines.borrow_mut().push(line));
        assert_eq!(names, ["antigravity"]);
        assert_eq!(
            lines.into_inner(),
            ["check: antigravity is missing: needed for flying tasks; it comes with Linux 9.9"]
        );
    }
}
