//! Help texts and completions.

use clap_complete::Shell;

use super::arg;
use crate::Command;

/// The help text of a command, or of criu-rs itself.
pub fn text(command: Option<Command>) -> String {
    match command {
        Some(command) => arg::leaf(command).render_help().to_string(),
        None => arg::tree().render_help().to_string(),
    }
}

/// A completion script for `bash`, `zsh`, `fish`, `elvish` or `powershell`; none for any other word.
pub fn completions(shell: &str, program: &str) -> Option<String> {
    let shell: Shell = shell.parse().ok()?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut arg::tree(), program, &mut script);
    String::from_utf8(script).ok()
}
