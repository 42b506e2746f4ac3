//! x86-64: registers and the XSAVE area.

/// The general registers, as `PTRACE_GETREGSET` with `NT_PRSTATUS` gives them.
pub type UserRegs = libc::user_regs_struct;

/// Offset of the first `syscall` instruction in a piece of code, for instance the vDSO.
///
/// The bytes might be part of a longer instruction; jumping to them is what counts.
pub fn find_syscall(code: &[u8]) -> Option<usize> {
    code.windows(2).position(|bytes| bytes == [0x0f, 0x05])
}
