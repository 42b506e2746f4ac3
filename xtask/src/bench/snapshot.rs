//! A checkpoint of a tree that runs on: how long it stands still.

use super::{Peers, Row};
use anyhow::Result;

const ROW: Row = Row { name: "snapshot", load: &["memory", "1", "2048"] };

/// 2 GiB in one process: criu-rs copies on write, the reference writes under freeze.
pub fn run(peers: &Peers) -> Result<()> {
    println!("2 GiB, --leave-running; criu-rs with --copy-on-write; times in ms\n");
    let samples = peers.samples(&ROW, [&["--leave-running", "--copy-on-write"], &["--leave-running"]])?;
    print!("{:<14}", "row");
    peers.head("dump");
    peers.head("frozen");
    print!("\n{:<14}", ROW.name);
    peers.print(&samples, |sample| sample.dump);
    peers.print(&samples, |sample| sample.frozen);
    println!("\n");
    Ok(())
}
