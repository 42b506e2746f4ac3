//! x86-64: the order of the general registers, interrupted system calls, and the register image.

pub mod xstate;

use crate::error::Error;
use criu_images::proto::{self, UserX86RegsMode};
use criu_kernel::{Pid, ptrace};

/// Positions in the kernel's `user_regs_struct`.
mod at {
    pub const R10: usize = 7;
    pub const AX: usize = 10;
    pub const DX: usize = 12;
    pub const SI: usize = 13;
    pub const DI: usize = 14;
    pub const ORIG_AX: usize = 15;
    pub const IP: usize = 16;
}

/// Number of words in `user_regs_struct`.
pub const REGS: usize = 27;
/// Length of a `syscall` instruction.
const SYSCALL_LEN: u64 = 2;

// Results that the kernel keeps to itself (linux/errno.h), seen by tracers only.
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;

/// Position of the instruction pointer in the general registers.
pub const IP: usize = at::IP;

/// What [`settle`] made of a system call that the stop interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// There was none.
    No,
    /// It is issued again, and means the same.
    Again,
    /// It fails with EINTR: the kernel alone knows how much of its timeout is left.
    Eintr,
}

/// Takes an interrupted system call out of the general registers, so that they can be continued on
/// another kernel, which knows nothing of the interruption.
///
/// Most calls are issued again. A call with a relative timeout is issued again only where that does not
/// change when it ends: the timeout is infinite (poll), or absolute (futex with a bitset), or the kernel has
/// just written the time left to where the call reads it from (nanosleep with both pointers the same, as
/// libraries use it). Otherwise the thread sees EINTR.
pub fn settle(regs: &mut [u64]) -> Interrupted {
    if (regs[at::ORIG_AX] as i64) < 0 {
        return Interrupted::No;
    }
    let again = match regs[at::AX] as i64 {
        ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => true,
        ERESTART_RESTARTBLOCK => same_when_repeated(regs),
        _ => return Interrupted::No,
    };
    if again {
        regs[at::AX] = regs[at::ORIG_AX];
        regs[at::IP] = regs[at::IP].wrapping_sub(SYSCALL_LEN);
        Interrupted::Again
    } else {
        regs[at::AX] = -i64::from(libc::EINTR) as u64;
        Interrupted::Eintr
    }
}

/// The registers that issue a system call again which the kernel would continue as restart_syscall(2), if
/// that means the same.
pub fn anew(regs: &[u64]) -> Option<Vec<u64>> {
    let mut new = regs.to_vec();
    let continued = regs.get(at::AX).is_some_and(|&ax| ax as i64 == ERESTART_RESTARTBLOCK);
    if !continued || settle(&mut new) != Interrupted::Again {
        return None;
    }
    new[at::ORIG_AX] = u64::MAX;
    Some(new)
}

fn same_when_repeated(regs: &[u64]) -> bool {
    match regs[at::ORIG_AX] as i64 {
        libc::SYS_nanosleep => regs[at::DI] == regs[at::SI],
        libc::SYS_clock_nanosleep => regs[at::DX] == regs[at::R10],
        libc::SYS_poll => (regs[at::DX] as i32) < 0,
        libc::SYS_futex => regs[at::SI] as i32 & libc::FUTEX_CMD_MASK == libc::FUTEX_WAIT_BITSET,
        _ => false,
    }
}

macro_rules! registers {
    ($($name:ident),*) => {
        fn to_entry(regs: &[u64; REGS]) -> proto::UserX86RegsEntry {
            let [$($name),*] = *regs;
            proto::UserX86RegsEntry { $($name,)* mode: Some(UserX86RegsMode::Native as i32) }
        }

        fn from_entry(entry: &proto::UserX86RegsEntry) -> [u64; REGS] {
            [$(entry.$name),*]
        }
    };
}
registers!(
    r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss,
    fs_base, gs_base, ds, es, fs, gs
);

/// The general registers as an image entry, an interrupted system call settled.
pub fn general_to_image(regs: &[u64]) -> Result<proto::UserX86RegsEntry, Error> {
    let mut regs: [u64; REGS] = regs.try_into().map_err(|_| Error::Registers {
        part: "general registers",
        got: regs.len(),
        want: REGS,
    })?;
    settle(&mut regs);
    Ok(to_entry(&regs))
}

/// The general registers from an image entry. They name no system call any more, so that nothing the
/// kernel does when it lets the thread go takes the value of `ax` for an interrupted one.
pub fn general_from_image(entry: &proto::UserX86RegsEntry) -> Result<Vec<u64>, Error> {
    if entry.mode() != UserX86RegsMode::Native {
        return Err(Error::Unsupported("a 32-bit task".into()));
    }
    let mut regs = from_entry(entry);
    regs[at::ORIG_AX] = u64::MAX;
    Ok(regs.to_vec())
}

/// The thread's own entries of the GDT (set_thread_area(2)), which only 32-bit code uses: from
/// `GDT_ENTRY_TLS_MIN` on.
const OWN_ENTRIES: std::ops::Range<u32> = 12..15;

/// Whether a thread that the caller has stopped has such entries. A kernel without 32-bit programs gives none.
pub fn has_tls(tid: Pid) -> bool {
    const ABSENT: u32 = 1 << 5;
    let is_present = |number| ptrace::thread_area(tid, number).is_ok_and(|[.., flags]| flags & ABSENT == 0);
    OWN_ENTRIES.into_iter().any(is_present)
}

/// Their descriptors: none present.
pub fn no_tls() -> Vec<proto::UserDescT> {
    let absent = |entry_number| proto::UserDescT {
        entry_number,
        read_exec_only: true,
        seg_not_present: true,
        ..Default::default()
    };
    OWN_ENTRIES.map(absent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regs(nr: i64, ax: i64) -> [u64; REGS] {
        let mut regs = [0; REGS];
        regs[at::ORIG_AX] = nr as u64;
        regs[at::AX] = ax as u64;
        regs[at::IP] = 0x1000;
        regs
    }

    #[test]
    fn interrupted_calls_are_issued_again() {
        for code in [ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND] {
            let mut regs = regs(libc::SYS_read, code);
            assert_eq!(settle(&mut regs), Interrupted::Again);
            assert_eq!((regs[at::AX], regs[at::IP]), (libc::SYS_read as u64, 0xffe));
        }
    }

    #[test]
    fn other_values_stay() {
        for (nr, ax) in [(-1, ERESTARTSYS), (0, 5), (0, -4), (202, -110)] {
            let before = regs(nr, ax);
            let mut after = before;
            assert_eq!(settle(&mut after), Interrupted::No);
            assert_eq!(before, after);
        }
    }

    #[test]
    fn timeouts_are_kept_or_given_up() {
        let try_it = |nr, set: &[(usize, u64)]| {
            let mut regs = regs(nr, ERESTART_RESTARTBLOCK);
            set.iter().for_each(|&(at, value)| regs[at] = value);
            settle(&mut regs)
        };
        assert_eq!(try_it(libc::SYS_nanosleep, &[(at::DI, 8), (at::SI, 8)]), Interrupted::Again);
        assert_eq!(try_it(libc::SYS_nanosleep, &[(at::DI, 8)]), Interrupted::Eintr);
        assert_eq!(try_it(libc::SYS_clock_nanosleep, &[(at::DX, 8), (at::R10, 8)]), Interrupted::Again);
        assert_eq!(try_it(libc::SYS_clock_nanosleep, &[(at::DX, 8)]), Interrupted::Eintr);
        assert_eq!(try_it(libc::SYS_poll, &[(at::DX, u64::from(u32::MAX))]), Interrupted::Again);
        assert_eq!(try_it(libc::SYS_poll, &[(at::DX, 100)]), Interrupted::Eintr);
        assert_eq!(try_it(libc::SYS_futex, &[(at::SI, 0x189)]), Interrupted::Again);
        assert_eq!(try_it(libc::SYS_futex, &[(at::SI, 0x80)]), Interrupted::Eintr);
        assert_eq!(try_it(libc::SYS_restart_syscall, &[]), Interrupted::Eintr);
    }

    #[test]
    fn calls_that_would_be_continued_are_issued_anew() {
        let mut sleeping = regs(libc::SYS_nanosleep, ERESTART_RESTARTBLOCK);
        let new = anew(&sleeping).unwrap();
        let set = (new[at::AX], new[at::IP], new[at::ORIG_AX]);
        assert_eq!(set, (libc::SYS_nanosleep as u64, 0xffe, u64::MAX));
        sleeping[at::SI] = 8;
        assert_eq!(anew(&sleeping), None, "the time left is not where the call reads it");
        assert_eq!(anew(&regs(libc::SYS_read, ERESTARTSYS)), None, "the kernel does so itself");
    }

    #[test]
    fn general_registers_survive() {
        let before: Vec<u64> = (1..=27).collect();
        let entry = general_to_image(&before).unwrap();
        assert_eq!((entry.r15, entry.ip, entry.gs), (1, 17, 27));
        let mut after = general_from_image(&entry).unwrap();
        assert_eq!(after[at::ORIG_AX], u64::MAX);
        after[at::ORIG_AX] = 16;
        assert_eq!(before, after);
        assert!(general_to_image(&before[..26]).is_err());
        let compat = proto::UserX86RegsEntry { mode: Some(UserX86RegsMode::Compat as i32), ..entry };
        assert!(general_from_image(&compat).unwrap_err().to_string().contains("32-bit"));
    }
}
