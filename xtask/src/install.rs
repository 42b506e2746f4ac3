//! `cargo xtask install [--as-criu]`

use crate::cargo::{cargo, must, workspace};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// Installs the binary; container runtimes look it up as `criu`.
pub fn run(as_criu: bool) -> Result<()> {
    must(cargo(&["install", "--locked", "--path"]).arg(workspace().join("crates/cli")))?;
    if as_criu {
        let folder = binaries()?;
        let link = folder.join("criu");
        if link.is_symlink() {
            fs::remove_file(&link)?;
        }
        symlink("criu-rs", &link).with_context(|| format!("{}: remove it first", link.display()))?;
        println!("{} -> criu-rs", link.display());
    }
    Ok(())
}

/// Where `cargo install` puts binaries.
fn binaries() -> Result<PathBuf> {
    let root = ["CARGO_INSTALL_ROOT", "CARGO_HOME"].into_iter().find_map(std::env::var_os);
    let root = root.map(PathBuf::from).or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    Ok(root.context("no home folder")?.join("bin"))
}
