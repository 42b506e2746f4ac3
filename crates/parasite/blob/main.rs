//! The blob: the interpreter of the script machine, mapped into a target.
//!
//! It runs on a stack inside its own shared mapping, allocates nothing and calls nothing. It depends on
//! no tracer: when a script ends, the thread waits for the host to take it over, and when the host
//! lets go or dies (the kernel marks the robust futex `Shared::lifeline`), the thread goes back on its
//! own to what it did before, by `rt_sigreturn` to a frame that the host has laid out beforehand.
#![no_std]
#![no_main]

#[allow(dead_code, reason = "the host uses the rest")]
#[path = "../../script/src/wire.rs"]
mod wire;

use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use wire::{Instr, Shared, Tcb};

// The entry: the control block's address is in rdi, the stack pointer is anything.
global_asm!(
    ".globl _start",
    "_start:",
    "mov rsp, [rdi + {stack}]",
    "xor ebp, ebp",
    "call {run}",
    stack = const offset_of!(Tcb, stack),
    run = sym run,
);

const NR_RT_SIGPROCMASK: u64 = 14;
const NR_RT_SIGRETURN: u64 = 15;
const NR_FUTEX: u64 = 202;
const NR_EXIT_GROUP: u64 = 231;
const FUTEX_WAIT: u64 = 0;
const FUTEX_WAKE: u64 = 1;
/// How long a thread waits at a barrier before it looks whether the host still lives.
const PATIENCE: [u64; 2] = [0, 100_000_000];

#[inline(always)]
fn syscall(nr: u64, args: [u64; 6]) -> i64 {
    let ret;
    // SAFETY: the script's author answers for what the system call does to the target; the interpreter
    // keeps nothing outside of its stack and the shared blocks.
    unsafe {
        asm!("syscall", inlateout("rax") nr => ret, in("rdi") args[0], in("rsi") args[1],
             in("rdx") args[2], in("r10") args[3], in("r8") args[4], in("r9") args[5],
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    ret
}

fn wake_all(word: &AtomicU32) {
    syscall(NR_FUTEX, [word.as_ptr() as u64, FUTEX_WAKE, i32::MAX as u64, 0, 0, 0]);
}

fn futex_wait(word: &AtomicU32, seen: u32, timeout: u64) {
    syscall(NR_FUTEX, [word.as_ptr() as u64, FUTEX_WAIT, u64::from(seen), timeout, 0, 0]);
}

extern "C" fn run(tcb: &Tcb) -> ! {
    let all = u64::MAX;
    syscall(NR_RT_SIGPROCMASK, [2, &raw const all as u64, 0, 8, 0, 0]);
    // SAFETY: the host fills the blocks before it starts a thread here and keeps them mapped.
    let shared = unsafe { &*(tcb.shared as *const Shared) };
    tcb.state.store(wire::STATE_RUNNING, SeqCst);
    let done = steps(tcb, shared);
    tcb.state.store(if done { wire::STATE_DONE } else { wire::STATE_FAILED }, SeqCst);
    wake_all(&tcb.state);
    if !done {
        let first = tcb as *const Tcb as u64;
        let _ = shared.failed.compare_exchange(0, first, SeqCst, SeqCst);
        shared.abort.store(1, SeqCst);
    }
    shared.finished.fetch_add(1, SeqCst);
    wake_all(&shared.finished);
    await_host(shared);
    leave(tcb)
}

/// Runs all steps; false when one fails its check.
fn steps(tcb: &Tcb, shared: &Shared) -> bool {
    for index in 0..tcb.len {
        tcb.step.store(index as u32, SeqCst);
        // SAFETY: `script` and `len` describe instructions that the host encoded.
        let instr = unsafe { &*(tcb.script as *const Instr).add(index as usize) };
        let ret = step(instr, shared);
        instr.ret.store(ret, SeqCst);
        let fine = match instr.check {
            wire::CHECK_OK => !(-4095..0).contains(&ret),
            wire::CHECK_EQ => ret == instr.expect,
            _ => true,
        };
        if !fine {
            return false;
        }
    }
    true
}

fn step(instr: &Instr, shared: &Shared) -> i64 {
    let mut args = instr.args;
    for (i, arg) in args.iter_mut().enumerate() {
        if instr.loads & (1 << i) != 0 {
            // SAFETY: the host set the bit because the argument is the address of a result.
            *arg = unsafe { core::ptr::read_volatile(*arg as *const u64) };
        }
    }
    match instr.op {
        wire::OP_SYSCALL => syscall(u64::from(instr.nr), args),
        wire::OP_CLONE => clone(u64::from(instr.nr), args),
        wire::OP_ARRIVE => {
            // SAFETY: the host gave the address of a barrier word in the shared mapping.
            let word = unsafe { &*(args[0] as *const AtomicU32) };
            // Only the last one to arrive wakes the others: of n tasks, each wakes once, not n times.
            if word.fetch_add(1, SeqCst) + 1 >= args[1] as u32 {
                wake_all(word);
            }
            0
        }
        wire::OP_AWAIT => {
            // SAFETY: as above.
            let word = unsafe { &*(args[0] as *const AtomicU32) };
            barrier(word, args[1] as u32, shared)
        }
        wire::OP_COPY => {
            for i in 0..args[2] {
                // SAFETY: the host gave two ranges of this length.
                unsafe {
                    let byte = core::ptr::read_volatile((args[1] + i) as *const u8);
                    core::ptr::write_volatile((args[0] + i) as *mut u8, byte);
                }
            }
            0
        }
        _ => -38, // ENOSYS
    }
}

fn barrier(word: &AtomicU32, count: u32, shared: &Shared) -> i64 {
    loop {
        let seen = word.load(SeqCst);
        if seen >= count {
            return 0;
        }
        if shared.abort.load(SeqCst) != 0 || gone(shared.lifeline.load(SeqCst)) {
            return -125; // ECANCELED
        }
        futex_wait(word, seen, PATIENCE.as_ptr() as u64);
    }
}

fn gone(lifeline: u32) -> bool {
    lifeline == 0 || lifeline & wire::OWNER_DIED != 0
}

/// Waits until the host releases the lifeline or dies. A host that takes the thread over by ptrace never
/// lets this return.
fn await_host(shared: &Shared) {
    let word = &shared.lifeline;
    loop {
        let seen = word.load(SeqCst);
        if gone(seen) {
            break;
        }
        let waiting = seen | wire::WAITERS;
        if seen == waiting || word.compare_exchange(seen, waiting, SeqCst, SeqCst).is_ok() {
            futex_wait(word, waiting, 0);
        }
    }
    // The kernel wakes one waiter for a dead owner; it wakes the others.
    wake_all(word);
}

fn leave(tcb: &Tcb) -> ! {
    if tcb.frame != 0 {
        // SAFETY: the host laid out a signal frame there; the kernel takes every register from it.
        unsafe {
            asm!("mov rsp, {frame}", "syscall", frame = in(reg) tcb.frame, in("rax") NR_RT_SIGRETURN,
                 options(noreturn));
        }
    }
    loop {
        syscall(NR_EXIT_GROUP, [137, 0, 0, 0, 0, 0]);
    }
}

/// clone3; the child starts over at the entry with its own control block and, by that, its own stack.
fn clone(nr: u64, args: [u64; 6]) -> i64 {
    let ret;
    // SAFETY: the child never returns here: it goes to the entry with the control block that the host
    // prepared for it, and takes its stack from there before it uses any.
    unsafe {
        asm!("syscall", "test rax, rax", "jnz 2f", "mov rdi, rdx", "jmp _start", "2:",
             inlateout("rax") nr => ret, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
             lateout("rcx") _, lateout("r11") _);
    }
    ret
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        syscall(NR_EXIT_GROUP, [134, 0, 0, 0, 0, 0]);
    }
}
