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

/// Whether the feature of this name is there: for `check --feature` and for FEATURE_CHECK of the RPC the same.
pub fn has(name: &str) -> bool {
    table::find(name).is_some_and(Entry::is_available)
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
            let remedy = match entry.is_built() {
                true => format!("it comes with {}", entry.since),
                false => format!("this version has no --{} yet", entry.option),
            };
            say(format!("check: {name}needed for {}; {remedy}", entry.needed_for));
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
    use criu_config::registry::Support;
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
            option: "",
        };
        let unbuilt = criu_config::registry::OPTIONS.iter().find(|option| option.support == Support::NotYet);
        let option = unbuilt.expect("when all are built, this goes").name;
        let unbuilt = Entry { name: "rootless", probe: table::Probe::Here(|| true), option, ..entry };
        let lines = std::cell::RefCell::new(Vec::new());
        let names = missing([&entry, &unbuilt].into_iter(), |line| lines.borrow_mut().push(line));
        assert_eq!(names, ["antigravity", "rootless"]);
        assert_eq!(
            lines.into_inner(),
            [
                "check: antigravity is missing: needed for flying tasks; it comes with Linux 9.9",
                &format!(
                    "check: rootless is missing: needed for flying tasks; this version has no --{option} yet"
                ),
            ]
        );
    }

    #[test]
    fn options_of_features_are_there() {
        let options = FEATURES.iter().map(|entry| entry.option).filter(|option| !option.is_empty());
        options.for_each(|option| assert!(criu_config::registry::find(option).is_some(), "{option}"));
    }
}
