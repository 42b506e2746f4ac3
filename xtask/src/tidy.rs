//! `cargo xtask tidy`: what ARCHITECTURE.md promises, checked.

use crate::cargo::{cargo, workspace};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A package and the packages of the workspace that its normal and build dependencies may name.
type Floors = &'static [(&'static str, &'static [&'static str])];

const RESOURCE_MAY_USE: &[&str] = &["criu-resource", "criu-images", "criu-kernel", "criu-script"];

/// The table of the house. Dependencies point down only.
const FLOORS: Floors = &[
    ("criu-script", &[]),
    ("criu-kernel", &[]),
    ("criu-config", &[]),
    ("criu-images", &[]),
    ("criu-resource", &["criu-images", "criu-script"]),
    ("criu-parasite", &["criu-script", "criu-kernel"]),
    ("criu-task", RESOURCE_MAY_USE),
    ("criu-mem", RESOURCE_MAY_USE),
    ("criu-fds", RESOURCE_MAY_USE),
    ("criu-net", RESOURCE_MAY_USE),
    ("criu-tty", RESOURCE_MAY_USE),
    ("criu-ns", RESOURCE_MAY_USE),
    ("criu-cgroup", RESOURCE_MAY_USE),
    ("criu-engine", &["criu-resource", "criu-parasite", "criu-images", "criu-kernel", "criu-script"]),
    ("criu-rpc", &["criu-engine", "criu-config", "criu-images"]),
    (
        "criu-cli",
        &[
            "criu-rpc",
            "criu-engine",
            "criu-task",
            "criu-mem",
            "criu-fds",
            "criu-net",
            "criu-tty",
            "criu-ns",
            "criu-cgroup",
            "criu-resource",
            "criu-parasite",
            "criu-images",
            "criu-config",
            "criu-kernel",
            "criu-script",
        ],
    ),
    ("criu-testkit", &[]),
    ("xtask", &["criu-testkit", "criu-config"]),
];

/// For tests, a crate may use these beside its floor's.
const TESTS_MAY_USE: &[&str] =
    &["criu-testkit", "criu-parasite", "criu-kernel", "criu-images", "criu-script"];

/// No source file is longer.
const LINES: usize = 800;

/// Checks everything and tells all that is wrong at once.
pub fn run() -> Result<()> {
    let output = cargo(&["metadata", "--format-version=1", "--no-deps"]).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let mut faults = arrows(&serde_json::from_slice(&output.stdout)?)?;
    for folder in ["crates", "xtask"] {
        long_files(&workspace().join(folder), &mut faults)?;
    }
    ensure!(faults.is_empty(), "tidy: {} faults\n{}", faults.len(), faults.join("\n"));
    println!("tidy: no forbidden arrow, no file over {LINES} lines");
    Ok(())
}

/// Every dependency within the workspace that the table does not allow.
fn arrows(metadata: &Value) -> Result<Vec<String>> {
    let floors: BTreeMap<_, _> = FLOORS.iter().copied().collect();
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let Some(allowed) = floors.get(name) else {
            faults.push(format!("{name}: not in the table of xtask/src/tidy.rs; give it a floor"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let target = dependency["name"].as_str().context("a dependency without a name")?;
            let for_tests = dependency["kind"] == "dev" && TESTS_MAY_USE.contains(&target);
            if floors.contains_key(target) && !allowed.contains(&target) && !for_tests {
                faults.push(format!(
                    "{name} -> {target}: forbidden by the floor table (ARCHITECTURE.md); {name} may use {}",
                    if allowed.is_empty() { "no crate of this workspace".into() } else { allowed.join(", ") }
                ));
            }
        }
    }
    Ok(faults)
}

fn long_files(folder: &Path, faults: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                long_files(&path, faults)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let lines = fs::read_to_string(&path)?.lines().count();
            if lines > LINES {
                let path = path.strip_prefix(workspace())?.display();
                faults.push(format!("{path}: {lines} lines, at most {LINES}; split it by kind"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(package: &str, dependency: &str, kind: Value) -> Value {
        json!({"packages": [{"name": package, "dependencies": [{"name": dependency, "kind": kind}]}]})
    }

    #[test]
    fn an_arrow_down_is_allowed() {
        let down = metadata("criu-fds", "criu-resource", Value::Null);
        assert_eq!(arrows(&down).unwrap(), Vec::<String>::new());
        let elsewhere = metadata("criu-fds", "libc", Value::Null);
        assert_eq!(arrows(&elsewhere).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn arrows_between_resources_and_upwards_are_named() {
        for (from, to) in [
            ("criu-mem", "criu-fds"),
            ("criu-fds", "criu-config"),
            ("criu-net", "criu-engine"),
            ("criu-kernel", "criu-cli"),
        ] {
            let faults = arrows(&metadata(from, to, Value::Null)).unwrap();
            assert!(faults[0].starts_with(&format!("{from} -> {to}: forbidden")), "{faults:?}");
        }
    }

    #[test]
    fn tests_may_use_the_testkit() {
        assert!(arrows(&metadata("criu-cli", "criu-testkit", json!("dev"))).unwrap().is_empty());
        assert!(!arrows(&metadata("criu-cli", "criu-testkit", Value::Null)).unwrap().is_empty());
        assert!(!arrows(&metadata("criu-mem", "criu-fds", json!("dev"))).unwrap().is_empty());
    }

    #[test]
    fn a_package_without_a_floor_is_named() {
        assert!(arrows(&metadata("criu-new", "libc", Value::Null)).unwrap()[0].contains("give it a floor"));
    }
}
