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

/// What was found.
pub struct Verdict {
    /// For people and scripts, on standard output.
    pub text: String,
    /// A line about each missing feature. Empty means success.
    pub missing: Vec<String>,
}

/// Checks, prints the verdict and gives the exit code.
///
/// # Errors
/// A name that no feature has.
pub fn run(options: &Options) -> Result<u8> {
    let verdict = look(options)?;
    if !verdict.text.is_empty() {
        let _ = writeln!(std::io::stdout(), "{}", verdict.text); // a closed pipe is none of the check's business
    }
    Ok(u8::from(!verdict.missing.is_empty()))
}

/// Checks, and names each missing feature in the log.
///
/// # Errors
/// As [`run`].
pub fn look(options: &Options) -> Result<Verdict> {
    if options.feature.is_empty() {
        return Ok(verdict(options));
    }
    if options.feature.iter().any(|name| name == "list") {
        return Ok(Verdict { text: table::names().join("\n"), missing: Vec::new() });
    }
    let asked: Vec<_> = options.feature.iter().map(|name| find(name)).collect::<Result<_>>()?;
    let there = asked.iter().filter(|entry| entry.is_available());
    let text = there.map(|entry| format!("{} is supported", entry.name)).collect::<Vec<_>>().join("\n");
    let missing = missing(asked.into_iter());
    missing.iter().for_each(|line| tracing::error!("{line}"));
    Ok(Verdict { text, missing })
}

/// The verdict on the kernel as a whole.
fn verdict(options: &Options) -> Verdict {
    let of = |level| FEATURES.iter().filter(move |entry| entry.level == level);
    let required = missing(of(Level::Required));
    if !required.is_empty() {
        required.iter().for_each(|line| tracing::error!("{line}"));
        return Verdict { text: BAD.into(), missing: required };
    }
    let mut wanting = Vec::new();
    if options.check_extra() {
        wanting.extend(missing(of(Level::Extra)));
    }
    if options.check_experimental() {
        wanting.extend(missing(of(Level::Experimental)));
    }
    wanting.iter().for_each(|line| tracing::warn!("{line}"));
    Verdict { text: if wanting.is_empty() { GOOD } else { MAYBE }.into(), missing: wanting }
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

/// A line about each of those that are not there.
fn missing<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<String> {
    let line = |entry: &Entry| {
        let name = if entry.name.is_empty() { String::new() } else { format!("{} is missing: ", entry.name) };
        let remedy = match entry.is_built() {
            true => format!("it comes with {}", entry.since),
            false => format!("this version has no --{} yet", entry.option),
        };
        format!("check: {name}needed for {}; {remedy}", entry.needed_for)
    };
    entries.filter(|entry| !entry.is_available()).map(line).collect()
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
        assert_eq!(
            missing([&entry, &unbuilt].into_iter()),
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
