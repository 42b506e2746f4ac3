//! The script machine: a list of system calls that a tiny interpreter runs inside another process.
//!
//! Two halves share this crate. [`wire`] is the binary form that the interpreter (the *blob*, built by
//! `criu-parasite`) reads straight from memory: it needs neither an allocator nor the standard library.
//! [`builder`] is the host's side: it collects [`Step`]s and the data they point to, and encodes both
//! for the address where the script will lie.
//!
//! ```
//! use criu_script::{Arg, Check, Script};
//!
//! let mut script = Script::new("example");
//! let buffer = script.zeroed(16);
//! let ask = script.syscall(36 /* getitimer */, [Arg::from(0), buffer.into()]).check(Check::Ok).id();
//! let mut memory = vec![0; script.size()];
//! script.encode(0x1000, &mut memory);
//! // … an interpreter runs `memory` mapped at 0x1000; afterwards:
//! let outcome = script.outcome(&memory, None);
//! assert_eq!(outcome.ret(ask), 0);
//! assert_eq!(outcome.bytes(buffer).len(), 16);
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod builder;
pub mod wire;

pub use builder::{Arg, Check, Data, Outcome, Script, Step, StepId, StepMut};
