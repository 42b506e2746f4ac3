//! criu-rs: checkpoint and restore of Linux process trees.

fn main() {}
