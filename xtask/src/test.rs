//! `cargo xtask test`

use crate::cargo::{build, cargo, must};
use crate::tidy;
use anyhow::{Result, ensure};
use std::fs;
use std::process::Command;

/// Tidy, then all tests; tells what cannot run here.
pub fn run() -> Result<()> {
    tidy::run()?;
    let root = is_root()?;
    ensure!(root, "the live tests make namespaces and trace other processes: run this as root");
    let fixture = build("criu-testkit", "criu-fixture", false)?;
    let nextest = runs(cargo(&["nextest", "--version"]));
    let mut tests = match nextest {
        true => cargo(&["nextest", "run", "--workspace", "--no-fail-fast"]),
        false => cargo(&["test", "--workspace", "--no-fail-fast"]),
    };
    must(tests.env("LIVE_FIXTURE", &fixture))?;
    if nextest {
        must(&mut cargo(&["test", "--workspace", "--doc", "--quiet"]))?;
    }
    let missing = missing();
    if missing.is_empty() {
        println!("Nothing was left out.");
    } else {
        println!("Left out on this machine:");
        missing.iter().for_each(|line| println!("- {line}"));
    }
    Ok(())
}

fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(status.lines().any(|line| line.starts_with("Uid:\t0\t0")))
}

fn runs(mut command: Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// What parts of tests cannot show here, and why.
fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    for (flag, what) in
        [("avx", "AVX registers"), ("avx512f", "AVX-512 registers"), ("ospke", "protection keys")]
    {
        if !processor.split_whitespace().any(|word| word == flag) {
            missing.push(format!("{what}: the processor has none ({flag})"));
        }
    }
    for (tool, what) in
        [("nft", "leftovers of the network lock are not looked for"), ("iptables", "its network lock")]
    {
        if !runs(tool_version(tool)) {
            missing.push(format!("{what}: no {tool} here"));
        }
    }
    if fs::read_to_string("/proc/2/comm").unwrap_or_default().trim() != "kthreadd" {
        missing.push("a dump of a kernel thread: this pid namespace shows none".into());
    }
    if std::env::var_os("CRIU_REFERENCE").is_none() {
        missing.push("comparison with the reference: CRIU_REFERENCE names no binary".into());
    }
    missing
}

fn tool_version(tool: &str) -> Command {
    let mut command = Command::new(tool);
    command.arg("--version");
    command
}
