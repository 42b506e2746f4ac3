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
pub mod bpf;
pub mod capability;
pub mod clone3;
mod error;
pub mod features;
pub mod fhandle;
pub mod fiemap;
pub mod kcmp;
pub mod memory;
pub mod pagemap;
pub mod pidfd;
pub mod plain;
pub mod prctl;
pub mod proc;
pub mod procmap;
pub mod ptrace;
pub mod rlimit;
pub mod robust_list;
pub mod rseq;
pub mod sched;
pub mod sockdiag;
pub mod sockopt;
pub mod sysvipc;
pub mod tcp_repair;

pub use error::{ProcError, ProcResult};
pub use nix::unistd::Pid;
