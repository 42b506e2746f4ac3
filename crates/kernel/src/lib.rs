//! Typed wrappers for Linux system calls that nix lacks, `/proc` readers and feature probes.
//!
//! Three rules hold in every module:
//!
//! - a wrapper takes borrowed descriptors and gives owned ones;
//! - a bare system call fails with [`nix::errno::Errno`], a `/proc` reader with [`ProcError`],
//!   which names the file;
//! - parsers take `impl BufRead` or `&str`, so that they work on saved text just as well.
//!
//! Nothing is probed or opened before its first use.

pub mod arch;
pub mod clone3;
mod error;
pub mod kcmp;
pub mod memory;
pub mod pagemap;
pub mod pidfd;
pub mod plain;
pub mod proc;
pub mod procmap;
pub mod ptrace;

pub use error::{ProcError, ProcResult};
pub use nix::unistd::Pid;
