//! What depends on the processor, one module an architecture.

#[cfg(target_arch = "x86_64")]
pub mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::{RSEQ_SIGNATURE, UserRegs, cpu, find_syscall, thread_pointer};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("criu-kernel supports x86-64 only; another architecture is a module here");
