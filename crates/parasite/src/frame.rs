//! The signal frame by which a thread gets back, on its own, to where it was.
//!
//! `rt_sigreturn` takes general registers, the extended state and the signal mask from it. The layout is
//! the kernel's (`struct rt_sigframe` without the leading return address, arch/x86/include/asm/sigframe.h
//! and arch/x86/include/uapi/asm/sigcontext.h).

use criu_kernel::arch::UserRegs;

const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Flags that sigaltstack(2) refuses: the kernel ignores the refusal and leaves the stack as it is.
const KEEP_ALTSTACK: u64 = 0x7fff_ffff;
/// Where the extended state starts: after ucontext (304 bytes), aligned to 64.
const XSTATE: usize = 320;
/// Software-reserved bytes of the legacy area; on entry from ptrace its first word holds XCR0.
const SW_RESERVED: usize = 464;

const ERESTARTSYS: i64 = 512;
const ERESTARTNOINTR: i64 = 513;
const ERESTARTNOHAND: i64 = 514;
const ERESTART_RESTARTBLOCK: i64 = 516;

/// Room that a frame for an extended state of `xstate` bytes takes.
pub(crate) fn size(xstate: usize) -> usize {
    (XSTATE + xstate + 4).next_multiple_of(64)
}

/// Writes the frame for address `base` (aligned to 64), which is also the stack pointer to return with.
pub(crate) fn write(out: &mut [u8], base: u64, regs: &UserRegs, xstate: &[u8], sigmask: u64) {
    let (ip, ax) = resumed(regs);
    let segments = regs.cs & 0xffff | (regs.ss & 0xffff) << 48;
    let context = [
        UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
        0, // uc_link
        0, // uc_stack: pointer, flags, size
        KEEP_ALTSTACK,
        0,
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
        regs.rdi,
        regs.rsi,
        regs.rbp,
        regs.rbx,
        regs.rdx,
        ax,
        regs.rcx,
        regs.rsp,
        ip,
        regs.eflags,
        segments,
        0, // err
        0, // trapno
        0, // oldmask
        0, // cr2
        base + XSTATE as u64,
    ];
    out[..XSTATE].fill(0);
    for (word, bytes) in context.iter().zip(out.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    out[296..304].copy_from_slice(&sigmask.to_le_bytes());

    let state = &mut out[XSTATE..][..xstate.len() + 4];
    state[..xstate.len()].copy_from_slice(xstate);
    let features: [u8; 8] = xstate[SW_RESERVED..SW_RESERVED + 8].try_into().expect("eight bytes");
    let software = &mut state[SW_RESERVED..512];
    software.fill(0);
    software[..4].copy_from_slice(&FP_XSTATE_MAGIC1.to_le_bytes());
    software[4..8].copy_from_slice(&(xstate.len() as u32 + 4).to_le_bytes());
    software[8..16].copy_from_slice(&features);
    software[16..20].copy_from_slice(&(xstate.len() as u32).to_le_bytes());
    state[xstate.len()..].copy_from_slice(&FP_XSTATE_MAGIC2.to_le_bytes());
}

/// Instruction pointer and result register with an interrupted system call accounted for: what the kernel
/// does itself when it resumes the thread, but not behind `rt_sigreturn`. A call that would restart from
/// its kernel-side remains (nanosleep, poll) returns EINTR instead.
fn resumed(regs: &UserRegs) -> (u64, u64) {
    if (regs.orig_rax as i64) < 0 {
        return (regs.rip, regs.rax);
    }
    match -(regs.rax as i64) {
        ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => (regs.rip - 2, regs.orig_rax),
        ERESTART_RESTARTBLOCK => (regs.rip, -i64::from(libc::EINTR) as u64),
        _ => (regs.rip, regs.rax),
    }
}
