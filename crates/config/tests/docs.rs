//! The committed reference texts are those that the registry gives.
//!
//! After a change: `OPTION_DOCS=write cargo test -p criu-config --test docs`.
#![cfg(feature = "cli")]

use std::path::PathBuf;

use criu_config::args::{docs, help};

#[track_caller]
fn compare(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if std::env::var_os("OPTION_DOCS").is_some_and(|mode| mode == "write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let line = committed.lines().zip(text.lines()).position(|(a, b)| a != b);
    assert!(
        committed == text,
        "docs/{name} drifted from crates/config/src/registry at line {}; \
         `OPTION_DOCS=write cargo test -p criu-config --test docs` writes it anew",
        line.unwrap_or_else(|| committed.lines().count().min(text.lines().count())) + 1
    );
}

#[test]
fn options_page() {
    compare("options.md", &docs::options_markdown());
}

#[test]
fn man_page() {
    compare("criu-rs.8", &docs::man_page().unwrap());
}

#[test]
fn completions_name_commands_and_options() {
    for shell in ["bash", "zsh", "fish"] {
        let script = help::completions(shell, "criu-rs").unwrap();
        for word in ["pre-dump", "cpuinfo", "tcp-established", "feature"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    assert!(help::completions("cmd.exe", "criu-rs").is_none());
}
