//! The binary form of a script and of the control blocks around it.
//!
//! All structures are `repr(C)`, hold absolute addresses of the address space that runs the script, and
//! live in memory shared between the host and the task. This file is also compiled into the blob.

use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

/// Marks the first bytes of a control area, so that a left-over one can be recognised in a later dump.
pub const MAGIC: u64 = u64::from_le_bytes(*b"criu-rs\0");

/// Issue the system call `nr` with `args`.
pub const OP_SYSCALL: u8 = 0;
/// `clone3(args[0], args[1])`; the child starts on the control block `args[2]`.
pub const OP_CLONE: u8 = 1;
/// Add one to the 32-bit word at `args[0]`; once it is `args[1]`, wake everybody who waits for that.
pub const OP_ARRIVE: u8 = 2;
/// Wait until the 32-bit word at `args[0]` is at least `args[1]`; leave when the script was aborted.
pub const OP_AWAIT: u8 = 3;
/// Copy `args[2]` bytes from address `args[1]` to address `args[0]`.
pub const OP_COPY: u8 = 4;

/// Any result will do.
pub const CHECK_ANY: u8 = 0;
/// The result must not be an error (-4095..=-1).
pub const CHECK_OK: u8 = 1;
/// The result must be `expect`.
pub const CHECK_EQ: u8 = 2;

/// One instruction.
#[repr(C)]
pub struct Instr {
    /// One of the `OP_` constants.
    pub op: u8,
    /// One of the `CHECK_` constants.
    pub check: u8,
    /// Bit i set: `args[i]` is the address of a 64-bit word that holds the argument.
    pub loads: u8,
    /// Always zero.
    pub reserved: u8,
    /// System call number for [`OP_SYSCALL`] and [`OP_CLONE`].
    pub nr: u32,
    /// Written by the interpreter: what the system call returned.
    pub ret: AtomicI64,
    /// For [`CHECK_EQ`].
    pub expect: i64,
    /// Arguments.
    pub args: [u64; 6],
}

/// Size of one encoded instruction in bytes.
pub const INSTR_SIZE: usize = size_of::<Instr>();

/// [`Tcb::state`]: nothing ran yet.
pub const STATE_IDLE: u32 = 0;
/// [`Tcb::state`]: the interpreter is at work.
pub const STATE_RUNNING: u32 = 1;
/// [`Tcb::state`]: the last instruction was done.
pub const STATE_DONE: u32 = 2;
/// [`Tcb::state`]: the instruction [`Tcb::step`] failed its check.
pub const STATE_FAILED: u32 = 3;

/// The control block of one thread that runs a script.
#[repr(C)]
pub struct Tcb {
    /// Address of the first [`Instr`].
    pub script: u64,
    /// Number of instructions.
    pub len: u64,
    /// The interpreter's stack pointer, 16-byte aligned.
    pub stack: u64,
    /// Address of the [`Shared`] block.
    pub shared: u64,
    /// Stack pointer for `rt_sigreturn`: how the thread gets back to what it did before. Zero for a
    /// task under construction, which has nothing to return to.
    pub frame: u64,
    /// One of the `STATE_` constants; a futex word.
    pub state: AtomicU32,
    /// Index of the instruction at work.
    pub step: AtomicU32,
}

/// [`Shared::lifeline`]: the kernel sets this bit when the owner died (see `FUTEX_OWNER_DIED`).
pub const OWNER_DIED: u32 = 0x4000_0000;
/// [`Shared::lifeline`]: somebody waits (see `FUTEX_WAITERS`).
pub const WAITERS: u32 = 0x8000_0000;

/// What all threads of one script run share.
#[repr(C)]
pub struct Shared {
    /// [`MAGIC`].
    pub magic: u64,
    /// A robust futex (set_robust_list(2)) held by the host thread. Zero: released. [`OWNER_DIED`]: the
    /// kernel saw the host die. Either way a waiting thread goes back to its own work or, if it has
    /// none, exits. It is the first word of the host's `pthread_mutex_t`.
    pub lifeline: AtomicU32,
    /// The rest of that mutex; its form is the C library's business.
    pub mutex: [u32; 15],
    /// Non-zero: somebody failed; everybody else leaves at the next barrier.
    pub abort: AtomicU32,
    /// Counts the threads whose script ended; a futex word.
    pub finished: AtomicU32,
    /// Always zero.
    pub reserved: AtomicU32,
    /// Address of the first [`Tcb`] that failed, or zero.
    pub failed: AtomicU64,
}
