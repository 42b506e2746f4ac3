//! ptrace(2) as a checkpointer uses it: seize, stop, look, change, let go.
//!
//! All calls must come from the thread that seized the target, and all but [`seize`] and
//! [`interrupt`] need the target in a ptrace stop; otherwise they fail with `ESRCH`.
//! Signals are plain numbers, as real-time signals are meant too.

mod info;
mod wait;

#[cfg(target_arch = "x86_64")]
pub use info::thread_area;
pub use info::{
    PendingQueue, RseqConfiguration, SigInfo, SyscallInfo, SyscallOp, SyscallUserDispatch, event_message,
    pending_signals, rseq_configuration, seccomp_filter, seccomp_filter_flags, set_sigmask,
    set_syscall_user_dispatch, siginfo, sigmask, syscall_info, syscall_user_dispatch,
};
pub use wait::{Event, Stop, Waited, decode, wait, wait_any, wait_no_hang, wait_while};

use libc::{c_long, c_uint, c_void, iovec};
use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::arch::UserRegs;
use crate::plain::{self, Plain};

/// Note type of the x86 XSAVE area.
pub const NT_X86_XSTATE: u32 = 0x202;
/// Note type of the general registers.
pub const NT_PRSTATUS: u32 = 1;

bitflags::bitflags! {
    /// `PTRACE_O_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Options: u32 {
        /// System call stops are told apart from other traps ([`Stop::Syscall`]).
        const SYSGOOD = libc::PTRACE_O_TRACESYSGOOD as u32;
        /// Stop at fork.
        const FORK = libc::PTRACE_O_TRACEFORK as u32;
        /// Stop at vfork.
        const VFORK = libc::PTRACE_O_TRACEVFORK as u32;
        /// Stop at clone.
        const CLONE = libc::PTRACE_O_TRACECLONE as u32;
        /// Stop at exec.
        const EXEC = libc::PTRACE_O_TRACEEXEC as u32;
        /// Stop when a vfork is done.
        const VFORK_DONE = libc::PTRACE_O_TRACEVFORKDONE as u32;
        /// Stop before exit.
        const EXIT = libc::PTRACE_O_TRACEEXIT as u32;
        /// Stop at a seccomp rule that asks for it.
        const SECCOMP = libc::PTRACE_O_TRACESECCOMP as u32;
        /// Kill the target when its tracer ends.
        const EXIT_KILL = libc::PTRACE_O_EXITKILL as u32;
        /// Seccomp filters do not apply while traced. Linux 4.3, `CAP_SYS_ADMIN`, and a tracer
        /// without seccomp filters of its own.
        const SUSPEND_SECCOMP = libc::PTRACE_O_SUSPEND_SECCOMP as u32;
    }
}

/// The bare call; the request is typed differently in glibc and musl, so it goes past both.
///
/// # Safety
///
/// `address` and `data` must be what `request` expects; pointers must be valid for its access.
unsafe fn ptrace(request: c_uint, pid: Pid, address: usize, data: *mut c_void) -> Result<c_long> {
    // SAFETY: the caller's promise.
    let r = unsafe { libc::syscall(libc::SYS_ptrace, request, pid.as_raw(), address, data) };
    Errno::result(r)
}

/// A request whose arguments are plain numbers.
fn simple(request: c_uint, pid: Pid, address: usize, data: usize) -> Result<()> {
    // SAFETY: all requests that come through here take numbers, no pointers.
    unsafe { ptrace(request, pid, address, data as *mut c_void) }.map(drop)
}

/// A request that fills one structure at `data`.
fn fetch<T: Plain>(request: c_uint, pid: Pid, address: usize) -> Result<T> {
    let mut value = plain::zeroed::<T>();
    // SAFETY: `data` points to a structure of the size this request fills, and any content is valid.
    unsafe { ptrace(request, pid, address, std::ptr::from_mut(&mut value).cast()) }?;
    Ok(value)
}

/// A request that reads one structure at `data`.
fn store<T: Plain>(request: c_uint, pid: Pid, address: usize, value: &T) -> Result<()> {
    let value = std::ptr::from_ref(value).cast_mut().cast();
    // SAFETY: the request only reads the structure, which is alive and of the right size.
    unsafe { ptrace(request, pid, address, value) }.map(drop)
}

/// Becomes the tracer of one thread without stopping it (Linux 3.4).
///
/// Fails with `EPERM` where access is refused, the thread is traced already, or is a kernel
/// thread; `ESRCH` where there is none.
pub fn seize(tid: Pid, options: Options) -> Result<()> {
    simple(libc::PTRACE_SEIZE as c_uint, tid, 0, options.bits() as usize)
}

/// Asks a seized thread to stop; [`wait`] then tells [`Stop::EventStop`] or something earlier.
pub fn interrupt(tid: Pid) -> Result<()> {
    simple(libc::PTRACE_INTERRUPT as c_uint, tid, 0, 0)
}

/// Lets a stopped thread run on, delivering `signal` unless 0.
pub fn cont(tid: Pid, signal: i32) -> Result<()> {
    simple(libc::PTRACE_CONT as c_uint, tid, 0, signal as usize)
}

/// Lets a stopped thread run to the next entry to or exit from a system call.
pub fn cont_to_syscall(tid: Pid, signal: i32) -> Result<()> {
    simple(libc::PTRACE_SYSCALL as c_uint, tid, 0, signal as usize)
}

/// Lets a thread in a group stop stay stopped, but listening for events.
pub fn listen(tid: Pid) -> Result<()> {
    simple(libc::PTRACE_LISTEN as c_uint, tid, 0, 0)
}

/// Lets go of a stopped thread, delivering `signal` unless 0.
pub fn detach(tid: Pid, signal: i32) -> Result<()> {
    simple(libc::PTRACE_DETACH as c_uint, tid, 0, signal as usize)
}

/// Replaces the options of a stopped thread.
pub fn set_options(tid: Pid, options: Options) -> Result<()> {
    simple(libc::PTRACE_SETOPTIONS as c_uint, tid, 0, options.bits() as usize)
}

/// The general registers.
pub fn registers(tid: Pid) -> Result<UserRegs> {
    let mut regs = std::mem::MaybeUninit::<UserRegs>::zeroed();
    let mut vector = iovec { iov_base: regs.as_mut_ptr().cast(), iov_len: size_of::<UserRegs>() };
    let vector = std::ptr::from_mut(&mut vector).cast();
    // SAFETY: the vector describes `regs`, which the kernel may fill up to its size.
    unsafe { ptrace(libc::PTRACE_GETREGSET as c_uint, tid, NT_PRSTATUS as usize, vector) }?;
    // SAFETY: the structure consists of integers only and was zeroed before the kernel filled it.
    Ok(unsafe { regs.assume_init() })
}

/// Sets the general registers. Setting `orig_rax` to -1 keeps the kernel from restarting an
/// interrupted system call.
pub fn set_registers(tid: Pid, regs: &UserRegs) -> Result<()> {
    let base = std::ptr::from_ref(regs).cast_mut().cast();
    let mut vector = iovec { iov_base: base, iov_len: size_of::<UserRegs>() };
    let vector = std::ptr::from_mut(&mut vector).cast();
    // SAFETY: the vector describes `regs`, which the kernel only reads.
    unsafe { ptrace(libc::PTRACE_SETREGSET as c_uint, tid, NT_PRSTATUS as usize, vector) }?;
    Ok(())
}

/// Room for any register set: AMX tiles make the XSAVE area 11 KiB, and more may come.
const REGSET_MAX: usize = 32 << 10;

/// Any register set, by its note type.
pub fn regset(tid: Pid, note: u32) -> Result<Vec<u8>> {
    let mut bytes = [0u8; REGSET_MAX];
    let mut vector = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let pointer = std::ptr::from_mut(&mut vector).cast();
    // SAFETY: the vector describes `bytes`; the kernel fills at most that and stores the length.
    unsafe { ptrace(libc::PTRACE_GETREGSET as c_uint, tid, note as usize, pointer) }?;
    Ok(bytes[..vector.iov_len].to_vec())
}

/// Sets a register set; its length must be one the kernel knows (`EINVAL`).
pub fn set_regset(tid: Pid, note: u32, bytes: &[u8]) -> Result<()> {
    let mut vector = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let pointer = std::ptr::from_mut(&mut vector).cast();
    // SAFETY: the vector describes `bytes`, which the kernel only reads.
    unsafe { ptrace(libc::PTRACE_SETREGSET as c_uint, tid, note as usize, pointer) }.map(drop)
}

/// The XSAVE area: x87, SSE, AVX, AVX-512, PKRU… in the processor's standard layout, see
/// [`crate::arch`]. Linux 2.6.35.
pub fn xstate(tid: Pid) -> Result<Vec<u8>> {
    regset(tid, NT_X86_XSTATE)
}

/// Sets the XSAVE area, all of it: it must have the length that [`xstate`] gives on this machine.
/// Fails with `EINVAL` for features that the processor lacks.
pub fn set_xstate(tid: Pid, bytes: &[u8]) -> Result<()> {
    set_regset(tid, NT_X86_XSTATE, bytes)
}

#[cfg(test)]
mod tests;
