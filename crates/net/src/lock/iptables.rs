//! The lock as iptables rules, for kernels without nftables. Needs the tools `iptables-restore`,
//! `iptables-save` and their ip6tables siblings.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use super::{MARK, Pair};
use crate::error::{Error, Result};

/// The lock of a dump that is under way. Its rules carry a comment with the tree's pid.
#[derive(Debug)]
pub(super) struct Held {
    pairs: Vec<Pair>,
    comment: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = change("-D", &self.pairs, Some(&self.comment)) {
            tracing::error!(
                "net: the network stays locked: {error}; see `iptables -S | grep {}`",
                self.comment
            );
        }
    }
}

fn comment(root: i32) -> String {
    format!("criu-rs-{root}")
}

/// Locks for as long as the answer lives.
pub(super) fn hold(root: i32, pairs: &[Pair]) -> Result<Held> {
    remove_stale(root)?;
    let held = Held { pairs: pairs.to_vec(), comment: comment(root) };
    change("-I", pairs, Some(&held.comment))?;
    Ok(held)
}

/// Locks until a restore.
pub(super) fn keep(held: Held, pairs: &[Pair]) -> Result<()> {
    change("-I", pairs, None)?;
    drop(held);
    Ok(())
}

/// Removes the rules of [`keep`]. Rules that are not there are no error.
pub(super) fn remove(pairs: &[Pair]) -> Result<()> {
    match change("-D", pairs, None) {
        Ok(()) => Ok(()),
        // Some are missing: one by one then.
        Err(_) => {
            for pair in pairs {
                if let Err(error) = change("-D", std::slice::from_ref(pair), None) {
                    tracing::debug!("net: {} -> {} was not locked: {error}", pair.0, pair.1);
                }
            }
            Ok(())
        }
    }
}

/// Removes the rules of a dump that died; tells whether there were any.
pub(super) fn remove_stale(root: i32) -> Result<bool> {
    let mut found = false;
    let word = comment(root);
    for tool in ["iptables", "ip6tables"] {
        let saved =
            Command::new(format!("{tool}-save")).args(["-t", "filter"]).stderr(Stdio::null()).output();
        let Ok(saved) = saved else { continue };
        let rules: String = String::from_utf8_lossy(&saved.stdout)
            .lines()
            .filter(|line| line.split([' ', '"']).any(|part| part == word))
            .filter_map(|line| line.strip_prefix("-A"))
            .map(|rule| format!("-D{rule}\n"))
            .collect();
        if !rules.is_empty() {
            found = true;
            restore(tool, &rules)?;
        }
    }
    Ok(found)
}

/// Inserts (`-I`) or deletes (`-D`) the rules of all pairs, in one transaction a family.
fn change(action: &str, pairs: &[Pair], comment: Option<&str>) -> Result<()> {
    for (tool, v4) in [("iptables", true), ("ip6tables", false)] {
        let rules: String = pairs
            .iter()
            .filter(|(local, _)| local.is_ipv4() == v4)
            .flat_map(|(local, remote)| [("INPUT", remote, local), ("OUTPUT", local, remote)])
            .map(|(chain, from, to)| {
                let comment = comment.map(|text| format!(" -m comment --comment {text}")).unwrap_or_default();
                format!(
                    "{action} {chain} --protocol tcp -m mark ! --mark {MARK:#x} --source {} --sport {} \
                     --destination {} --dport {}{comment} -j DROP\n",
                    from.ip(),
                    from.port(),
                    to.ip(),
                    to.port()
                )
            })
            .collect();
        if !rules.is_empty() {
            restore(tool, &rules)?;
        }
    }
    Ok(())
}

/// Feeds rules to `iptables-restore`.
fn restore(tool: &str, rules: &str) -> Result<()> {
    let command = format!("{tool}-restore");
    let failed = |reason: String| Error::Tool { command: command.clone(), reason };
    let run = || -> io::Result<_> {
        let mut child = Command::new(&command)
            .args(["--noflush", "--wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            write!(stdin, "*filter\n{rules}COMMIT\n")?;
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(said.lines().next().unwrap_or("no reason given").to_owned()))
}
