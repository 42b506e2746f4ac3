//! What ptrace tells about signals, system calls, seccomp and rseq.

use libc::{c_uint, c_void};
use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

use super::{fetch, ptrace, store};
use crate::plain::{self, Plain};

/// A `siginfo_t` as raw bytes: every variant of its union survives.
pub type SigInfo = [u8; 128];

/// Which queue of pending signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingQueue {
    /// Sent to this thread.
    Thread,
    /// Sent to the process.
    Shared,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct PeekArgs {
    offset: u64,
    flags: u32,
    count: i32,
}

const PEEK_BATCH: usize = 32;

/// All signals of a pending queue, in order, left where they are.
///
/// `PTRACE_PEEKSIGINFO`, Linux 3.10.
pub fn pending_signals(tid: Pid, queue: PendingQueue) -> Result<Vec<SigInfo>> {
    let flags = match queue {
        PendingQueue::Thread => 0,
        PendingQueue::Shared => 1,
    };
    let mut all = Vec::new();
    let mut batch = [[0u8; 128]; PEEK_BATCH];
    loop {
        let args = PeekArgs { offset: all.len() as u64, flags, count: PEEK_BATCH as i32 };
        let address = std::ptr::from_ref(&args) as usize;
        // SAFETY: `args` asks for at most as many entries as `batch` holds.
        let n =
            unsafe { ptrace(libc::PTRACE_PEEKSIGINFO as c_uint, tid, address, batch.as_mut_ptr().cast()) }?
                as usize;
        all.extend_from_slice(&batch[..n]);
        if n == 0 {
            return Ok(all);
        }
    }
}

/// The siginfo of the signal that stopped the thread; `EINVAL` in a group stop.
pub fn siginfo(tid: Pid) -> Result<SigInfo> {
    fetch(libc::PTRACE_GETSIGINFO as c_uint, tid, 0)
}

/// The blocked signals, bit `n - 1` for signal `n`. Linux 3.11.
pub fn sigmask(tid: Pid) -> Result<u64> {
    fetch(libc::PTRACE_GETSIGMASK as c_uint, tid, size_of::<u64>())
}

/// Sets the blocked signals. Linux 3.11.
pub fn set_sigmask(tid: Pid, mask: u64) -> Result<()> {
    store(libc::PTRACE_SETSIGMASK as c_uint, tid, size_of::<u64>(), &mask)
}

/// The message of the last event: the new pid at fork, the status at exit.
pub fn event_message(tid: Pid) -> Result<u64> {
    fetch(libc::PTRACE_GETEVENTMSG as c_uint, tid, 0)
}

/// A thread's restartable sequence registration; all zero where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RseqConfiguration {
    /// Address of its `struct rseq`.
    pub address: u64,
    /// Its registered size.
    pub size: u32,
    /// The signature before abort handlers.
    pub signature: u32,
    /// Reserved.
    pub flags: u32,
    /// Reserved.
    pub pad: u32,
}

// SAFETY: integers in C layout without gaps.
unsafe impl Plain for RseqConfiguration {}

/// One of the thread's own entries of the GDT (set_thread_area(2)), as the words of `struct user_desc`: number,
/// base, limit, and flags, of which bit 5 says that it is absent. x86 only; `EIO` on a kernel without 32-bit
/// programs.
#[cfg(target_arch = "x86_64")]
pub fn thread_area(tid: Pid, number: u32) -> Result<[u32; 4]> {
    const PTRACE_GET_THREAD_AREA: c_uint = 25;
    fetch(PTRACE_GET_THREAD_AREA, tid, number as usize)
}

/// `PTRACE_GET_RSEQ_CONFIGURATION`, Linux 5.13.
pub fn rseq_configuration(tid: Pid) -> Result<RseqConfiguration> {
    let size = size_of::<RseqConfiguration>();
    fetch(libc::PTRACE_GET_RSEQ_CONFIGURATION as c_uint, tid, size)
}

/// Where in a system call a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyscallOp {
    /// Not in a system call stop.
    None,
    /// At the entry.
    Entry {
        /// System call number.
        number: u64,
        /// Its six arguments.
        arguments: [u64; 6],
    },
    /// At the exit.
    Exit {
        /// Return value, or a negative errno.
        value: i64,
        /// Whether it is an error.
        is_error: bool,
    },
    /// In a seccomp event stop.
    Seccomp {
        /// System call number.
        number: u64,
        /// Its six arguments.
        arguments: [u64; 6],
        /// The rule's data.
        data: u32,
    },
}

/// Answer of [`syscall_info`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyscallInfo {
    /// `AUDIT_ARCH_*` of the system call: a 32-bit call shows here.
    pub arch: u32,
    /// Instruction pointer.
    pub instruction_pointer: u64,
    /// Stack pointer.
    pub stack_pointer: u64,
    /// The call.
    pub op: SyscallOp,
}

/// `PTRACE_GET_SYSCALL_INFO`, Linux 5.3.
pub fn syscall_info(tid: Pid) -> Result<SyscallInfo> {
    // op u8, pad [3], arch u32, ip u64, sp u64, then a union of at most 8 * 8 bytes.
    let mut words = [0u64; 11];
    let size = size_of_val(&words);
    let data = words.as_mut_ptr().cast();
    // SAFETY: the kernel fills at most `size` bytes of `words`.
    unsafe { ptrace(libc::PTRACE_GET_SYSCALL_INFO as c_uint, tid, size, data) }?;
    let arguments = [words[4], words[5], words[6], words[7], words[8], words[9]];
    let op = match words[0] as u8 {
        libc::PTRACE_SYSCALL_INFO_NONE => SyscallOp::None,
        libc::PTRACE_SYSCALL_INFO_ENTRY => SyscallOp::Entry { number: words[3], arguments },
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            SyscallOp::Exit { value: words[3] as i64, is_error: words[4] as u8 != 0 }
        }
        libc::PTRACE_SYSCALL_INFO_SECCOMP => {
            SyscallOp::Seccomp { number: words[3], arguments, data: words[10] as u32 }
        }
        _ => return Err(Errno::ENOTSUP),
    };
    Ok(SyscallInfo {
        arch: (words[0] >> 32) as u32,
        instruction_pointer: words[1],
        stack_pointer: words[2],
        op,
    })
}

/// The `index`th seccomp filter as cBPF, the first installed first; `ENOENT` after the last.
///
/// `PTRACE_SECCOMP_GET_FILTER`, Linux 4.4, `CONFIG_CHECKPOINT_RESTORE`; `CAP_SYS_ADMIN` and no
/// filter on the tracer itself (`EACCES`).
pub fn seccomp_filter(tid: Pid, index: usize) -> Result<Vec<libc::sock_filter>> {
    const PTRACE_SECCOMP_GET_FILTER: c_uint = 0x420c;
    let empty = std::ptr::null_mut::<c_void>();
    // SAFETY: without a buffer the kernel only tells the length.
    let len = unsafe { ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, empty) }? as usize;
    let mut filter = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; len];
    // SAFETY: the filter of a stopped thread is immutable, so its length is the one just told.
    unsafe { ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, filter.as_mut_ptr().cast()) }?;
    Ok(filter)
}

/// The `SECCOMP_FILTER_FLAG_*` (only `LOG`) of the `index`th filter.
///
/// `PTRACE_SECCOMP_GET_METADATA`, Linux 4.16.
pub fn seccomp_filter_flags(tid: Pid, index: usize) -> Result<u64> {
    const PTRACE_SECCOMP_GET_METADATA: c_uint = 0x420d;
    let mut metadata = [index as u64, 0];
    let size = size_of_val(&metadata);
    let data = metadata.as_mut_ptr().cast();
    // SAFETY: the kernel reads and fills the two words of `metadata`.
    unsafe { ptrace(PTRACE_SECCOMP_GET_METADATA, tid, size, data) }?;
    Ok(metadata[1])
}

/// A thread's syscall user dispatch (`PR_SET_SYSCALL_USER_DISPATCH`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SyscallUserDispatch {
    /// 0 for off, 1 for on.
    pub mode: u64,
    /// Address of the selector byte.
    pub selector: u64,
    /// Start of the range whose calls always pass.
    pub offset: u64,
    /// Its length.
    pub len: u64,
}

// SAFETY: four u64.
unsafe impl Plain for SyscallUserDispatch {}

/// `PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG`, Linux 6.4.
pub fn syscall_user_dispatch(tid: Pid) -> Result<SyscallUserDispatch> {
    let size = size_of::<SyscallUserDispatch>();
    fetch(libc::PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG as c_uint, tid, size)
}

/// `PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG`, Linux 6.4.
pub fn set_syscall_user_dispatch(tid: Pid, config: &SyscallUserDispatch) -> Result<()> {
    let request = libc::PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG as c_uint;
    store(request, tid, plain::as_bytes(config).len(), config)
}
