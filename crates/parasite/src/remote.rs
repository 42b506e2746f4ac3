//! One system call on a stopped thread's behalf.

use crate::{Error, Result, Thread};
use criu_kernel::arch::UserRegs;
use criu_kernel::ptrace::{self, Stop};
use criu_kernel::{Pid, memory};
use nix::errno::Errno;
use std::fs;

const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// The word of the auxiliary vector that tells where the vDSO is (getauxval(3)).
const AT_SYSINFO_EHDR: u64 = 33;
/// As much of a vDSO as surely is there.
const VDSO_READ: usize = 4096;

/// Finds the address of a `syscall` instruction in the process: where a thread stands that is about to enter
/// a system call or inside of one, or else in the vDSO.
pub fn find_syscall(pid: i32, ip: u64) -> Result<u64> {
    let target = Pid::from_raw(pid);
    let mut around = [0; 4];
    let before = ip.wrapping_sub(2);
    if memory::read_exact(target, before, &mut around).is_ok()
        && let Some(at) = around.chunks(2).position(|instruction| instruction == SYSCALL)
    {
        return Ok(before + 2 * at as u64);
    }
    // The list of mappings may be long; the auxiliary vector knows the place too.
    match vdso_start(pid).and_then(|start| in_vdso(target, start, VDSO_READ)) {
        Some(at) => Ok(at),
        None => find_by_name(target),
    }
}

/// AT_SYSINFO_EHDR of `/proc/PID/auxv`.
fn vdso_start(pid: i32) -> Option<u64> {
    let words = fs::read(format!("/proc/{pid}/auxv")).ok()?;
    let (pairs, _) = words.as_chunks::<16>();
    let word = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_ne_bytes);
    pairs.iter().find_map(|pair| (word(&pair[..8])? == AT_SYSINFO_EHDR).then(|| word(&pair[8..]))?)
}

/// Looks into the `len` bytes at `start`, if an ELF object begins there.
fn in_vdso(target: Pid, start: u64, len: usize) -> Option<u64> {
    let mut code = vec![0; len];
    memory::read_exact(target, start, &mut code).ok()?;
    let at = code.windows(2).position(|window| window == SYSCALL)?;
    code.starts_with(b"\x7fELF").then_some(start + at as u64)
}

/// Asks the list of mappings where the vDSO is.
fn find_by_name(target: Pid) -> Result<u64> {
    let pid = target.as_raw();
    // Names of files need not be UTF-8.
    let maps = fs::read(format!("/proc/{pid}/maps")).map_err(|_| Error::Died { pid })?;
    let maps = String::from_utf8_lossy(&maps);
    let vdso = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(|line| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    });
    let (start, end) = vdso.ok_or(Error::NoEntry { pid })?;
    in_vdso(target, start, (end - start) as usize).ok_or(Error::NoEntry { pid })
}

/// Issues `nr(args)` in a stopped thread and puts its registers back. Signals stay blocked meanwhile.
///
/// Between the first and the last register change here the thread depends on its tracer: this is the
/// window the crate documentation speaks of.
pub(crate) fn syscall(thread: &Thread, at: u64, call: &'static str, nr: i64, args: [u64; 6]) -> Result<u64> {
    let tid = thread.tid;
    let regs = UserRegs {
        rip: at,
        rax: nr as u64,
        rdi: args[0],
        rsi: args[1],
        rdx: args[2],
        r10: args[3],
        r8: args[4],
        r9: args[5],
        orig_rax: u64::MAX,
        ..thread.regs
    };
    let ret = ptrace::set_sigmask(tid, u64::MAX)
        .and_then(|()| ptrace::set_registers(tid, &regs))
        .and_then(|()| run_to_exit(tid));
    let back =
        ptrace::set_registers(tid, &thread.regs).and_then(|()| ptrace::set_sigmask(tid, thread.sigmask));
    let ret = ret.and_then(|ret| back.map(|()| ret)).map_err(Error::system(tid, "PTRACE_SYSCALL"))?;
    match ret as i64 {
        error @ -4095..=-1 => {
            Err(Error::Inside { pid: tid.as_raw(), call, errno: Errno::from_raw(-error as i32) })
        }
        _ => Ok(ret),
    }
}

fn run_to_exit(tid: Pid) -> nix::Result<u64> {
    let mut stops = 0;
    while stops < 2 {
        ptrace::cont_to_syscall(tid, 0)?;
        match ptrace::wait(tid)? {
            Stop::Syscall => stops += 1,
            stop if stop.is_end() => return Err(Errno::ESRCH),
            _ => {}
        }
    }
    Ok(ptrace::registers(tid)?.rax)
}
