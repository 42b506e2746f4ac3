//! Starting the script machine in a new process.

use crate::{Area, ThreadSlot};
use criu_kernel::clone3;
use nix::errno::Errno;
use std::arch::asm;

/// Clones the calling process; the child enters the script machine at once and runs the script of `slot`.
/// `set_tid` asks for ids, innermost pid namespace first (clone3(2), Linux 5.5); empty: any id.
///
/// The child shares nothing but the area (which must be mapped at its own base, see [`Area::map`]) and the
/// open files. It runs nothing of the host's code: the host may have any number of threads and locks.
/// All signals should be blocked by the caller, since the child inherits its handlers.
pub fn launch(area: &Area, slot: ThreadSlot, flags: u64, set_tid: &[i32]) -> Result<i32, Errno> {
    // A sibling takes over this process's own exit signal; clone3 refuses to be told one.
    let exit_signal = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    let args = clone3::CloneArgs {
        flags,
        exit_signal,
        set_tid: set_tid.as_ptr() as u64,
        set_tid_size: set_tid.len() as u64,
        ..Default::default()
    };
    let ret: i64;
    // SAFETY: in the parent this is a plain system call. The child leaves for the entry in the area, a
    // program of its own, with the one argument that it takes, and never comes back.
    unsafe {
        asm!("syscall", "test rax, rax", "jnz 2f", "mov rdi, r13", "jmp r12", "2:",
             inlateout("rax") libc::SYS_clone3 => ret, in("rdi") &raw const args,
             in("rsi") size_of_val(&args), in("r12") area.entry(), in("r13") area.tcb(slot),
             lateout("rcx") _, lateout("r11") _);
    }
    match ret {
        -4095..0 => Err(Errno::from_raw(-ret as i32)),
        pid => Ok(pid as i32),
    }
}
