//! Cargo, called from a task.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// A cargo command in the workspace.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(arguments).current_dir(workspace());
    command
}

/// Runs a command; its failure is an error that shows the command.
pub fn must(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| shown.clone())?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}

/// criu-rs as users get it: `$LIVE_CRIU`, or built for release.
pub fn criu() -> Result<PathBuf> {
    match std::env::var_os("LIVE_CRIU") {
        Some(path) => Ok(path.into()),
        None => build("criu-cli", "criu-rs", true),
    }
}

/// Builds a binary of the workspace and tells where it lies.
pub fn build(package: &str, binary: &str, release: bool) -> Result<PathBuf> {
    let mut command = cargo(&["build", "--quiet", "--locked", "--package", package, "--bin", binary]);
    if release {
        command.arg("--release");
    }
    // xtask itself lies in target/debug.
    let this = std::env::current_exe()?;
    let target = this.ancestors().nth(2).context("xtask lies in target/debug")?;
    must(command.arg("--target-dir").arg(target))?;
    Ok(target.join(if release { "release" } else { "debug" }).join(binary))
}
