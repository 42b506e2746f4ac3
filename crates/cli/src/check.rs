//! `criu-rs check`: does this kernel have what criu-rs needs?

use anyhow::Result;
use criu_config::Options;

/// Checks; the exit code.
pub fn run(_options: &Options) -> Result<u8> {
    anyhow::bail!("`check` is not supported yet")
}
