//! Registers of a live thread: stopped inside a system call, wiped, set again from the image.
#![cfg(target_arch = "x86_64")]

use criu_images::proto::CoreEntry;
use criu_kernel::ptrace;
use criu_resource::FrozenThread;
use criu_task::regs::{Interrupted, from_image, settle, to_image};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe, write};
use std::arch::asm;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const NT_PRSTATUS: u32 = 1;

/// Forks; the child's exit code is 0 when `body` says so.
fn child(body: impl FnOnce() -> bool) -> Pid {
    // SAFETY: the child runs `body`, which only computes and sleeps, and leaves by _exit.
    match unsafe { fork() }.unwrap() {
        // SAFETY: ends this process only.
        ForkResult::Child => unsafe { libc::_exit(i32::from(!body())) },
        ForkResult::Parent { child } => child,
    }
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect()
}

/// Stops the child, turns its registers into an image, spoils them, and sets them from the image.
fn through_an_image(pid: Pid) -> Interrupted {
    ptrace::seize(pid, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(pid).unwrap();
    ptrace::wait(pid).unwrap();
    let regs = words(&ptrace::regset(pid, NT_PRSTATUS).unwrap());
    let mut settled = regs.clone();
    let interrupted = settle(&mut settled);
    let thread = FrozenThread {
        tid: pid.as_raw(),
        ns_tid: pid.as_raw(),
        regs,
        xstate: ptrace::xstate(pid).unwrap(),
        sigmask: 0,
        pending: Vec::new(),
        rseq: None,
        robust_list: (0, 0),
    };
    let mut core = CoreEntry::default();
    to_image(&thread, &mut core).unwrap();

    // Everything in its initial state: nothing of what is set later may come from before.
    let mut initial = thread.xstate.clone();
    initial.fill(0);
    initial[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    ptrace::set_xstate(pid, &initial).unwrap();

    let registers = from_image(&core).unwrap();
    let bytes: Vec<u8> = registers.regs.iter().flat_map(|word| word.to_ne_bytes()).collect();
    ptrace::set_regset(pid, NT_PRSTATUS, &bytes).unwrap();
    ptrace::set_xstate(pid, &registers.xstate).unwrap();
    ptrace::detach(pid, 0).unwrap();
    interrupted
}

fn assert_good_end(pid: Pid) {
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 0));
}

#[test]
fn vector_registers_and_a_read() {
    if !std::arch::is_x86_feature_detected!("avx") {
        eprintln!("not run: the processor has no AVX");
        return;
    }
    let (from, to) = pipe().unwrap();
    let pid = child(|| {
        let values: [u64; 8] = std::array::from_fn(|i| 0x0101_0101_0101_0101 * (i as u64 + 1));
        let (mut after, mut byte, mut ret) = ([0_u64; 8], 0_u8, libc::SYS_read);
        // SAFETY: reads one byte into `byte`, and stores two registers into `after`.
        unsafe {
            asm!(
                "vmovdqu ymm3, [{values}]",
                "vmovdqu ymm15, [{values} + 32]",
                "syscall",
                "vmovdqu [{after}], ymm3",
                "vmovdqu [{after} + 32], ymm15",
                values = in(reg) values.as_ptr(),
                after = in(reg) after.as_mut_ptr(),
                inout("rax") ret,
                in("rdi") from.as_raw_fd(),
                in("rsi") &raw mut byte,
                in("rdx") 1,
                out("rcx") _, out("r11") _, out("ymm3") _, out("ymm15") _,
            );
        }
        ret == 1 && byte == 42 && after == values
    });
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(through_an_image(pid), Interrupted::Again);
    write(&to, &[42]).unwrap();
    assert_good_end(pid);
}

#[test]
fn a_sleep_ends_when_it_should() {
    let start = Instant::now();
    let pid = child(|| {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 600_000_000 };
        let place = &raw mut time;
        // SAFETY: as libraries do it, the time left goes where the time was.
        unsafe { libc::syscall(libc::SYS_nanosleep, place, place) == 0 }
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(through_an_image(pid), Interrupted::Again);
    assert_good_end(pid);
    let took = start.elapsed();
    assert!((600..850).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn a_sleep_without_place_for_the_rest_says_eintr() {
    let pid = child(|| {
        let time = libc::timespec { tv_sec: 5, tv_nsec: 0 };
        // SAFETY: reads `time` only.
        let ret = unsafe { libc::syscall(libc::SYS_nanosleep, &time, std::ptr::null::<u8>()) };
        ret == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
    });
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(through_an_image(pid), Interrupted::Eintr);
    assert_good_end(pid);
}

#[test]
fn an_endless_poll_goes_on() {
    let (from, to) = pipe().unwrap();
    let pid = child(|| {
        let mut fd = libc::pollfd { fd: from.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, ours.
        let ret = unsafe { libc::syscall(libc::SYS_poll, &raw mut fd, 1, -1) };
        ret == 1 && fd.revents == libc::POLLIN
    });
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(through_an_image(pid), Interrupted::Again);
    write(&to, &[1]).unwrap();
    assert_good_end(pid);
}
