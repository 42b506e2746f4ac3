//! Runs a script in the calling thread: for tools that look at or change themselves, and for tests.

use criu_script::wire::{self, Instr};
use criu_script::{Outcome, Script};
use std::sync::atomic::Ordering::Relaxed;

/// Script memory must be aligned like this.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// Runs a script's steps one after the other, up to the first that fails its check; barriers count as passed.
///
/// # Safety
/// The steps must be system calls that are sound here, and the addresses in them valid. Steps that only ask,
/// such as those of [`timers::ask`](crate::timers::ask), always are.
///
/// # Panics
/// For a script that clones.
pub unsafe fn run(script: &Script) -> Outcome {
    let mut lines = vec![Line([0; 64]); script.size().div_ceil(64)];
    let base = lines.as_mut_ptr().cast::<u8>();
    // SAFETY: the lines are `lines.len() * 64` initialised bytes, and nobody else uses them by now.
    let memory = unsafe { std::slice::from_raw_parts_mut(base, lines.len() * 64) };
    script.encode(base as u64, memory);
    let mut failed = None;
    for index in 0..script.steps().len() {
        // SAFETY: the encoded script starts with that many instructions, aligned to 64.
        let instr = unsafe { &*base.cast::<Instr>().add(index) };
        // SAFETY: the caller vouches for the steps; arguments that are loaded point into the script itself.
        let ret = unsafe { step(instr) };
        instr.ret.store(ret, Relaxed);
        let good = match instr.check {
            wire::CHECK_OK => !(-4095..=-1).contains(&ret),
            wire::CHECK_EQ => ret == instr.expect,
            _ => true,
        };
        if !good {
            failed = Some(index);
            break;
        }
    }
    // SAFETY: as above; the steps are over.
    script.outcome(unsafe { std::slice::from_raw_parts(base, lines.len() * 64) }, failed)
}

/// # Safety
/// As [`run`].
unsafe fn step(instr: &Instr) -> i64 {
    let mut args = instr.args;
    for (i, arg) in args.iter_mut().enumerate() {
        if instr.loads >> i & 1 == 1 {
            // SAFETY: the argument is the address of an earlier step's result.
            *arg = unsafe { *(*arg as *const u64) };
        }
    }
    let [a, b, c, d, e, f] = args;
    match instr.op {
        // SAFETY: the caller vouches for it.
        wire::OP_SYSCALL => match unsafe { libc::syscall(i64::from(instr.nr), a, b, c, d, e, f) } {
            -1 => -i64::from(nix::errno::Errno::last_raw()),
            ret => ret,
        },
        wire::OP_COPY => {
            // SAFETY: the caller vouches for it.
            unsafe { std::ptr::copy(b as *const u8, a as *mut u8, c as usize) };
            0
        }
        wire::OP_ARRIVE | wire::OP_AWAIT => 0,
        op => panic!("operation {op} takes the script machine"),
    }
}
