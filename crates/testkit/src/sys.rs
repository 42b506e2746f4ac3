//! System calls that the fixtures need and nix lacks, in a form that needs no `unsafe` at the caller.

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// A system call with plain numbers for arguments.
///
/// Fixtures use it for calls that take no pointer, or a pointer to what outlives the call.
pub fn call(number: i64, arguments: [u64; 6]) -> Result<i64, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: what a pointer among the arguments leads to is the caller's to guarantee, and stays within testkit.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

/// prctl(2) with one argument.
pub fn prctl(option: i32, argument: u64) -> Result<i64, Errno> {
    call(libc::SYS_prctl, [option as u64, argument, 0, 0, 0, 0])
}

/// gettid(2)
pub fn tid() -> i32 {
    nix::unistd::gettid().as_raw()
}

/// An area of memory that is never unmapped.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub length: usize,
}

/// Bytes of a page.
pub const PAGE: usize = 4096;

impl Area {
    /// Maps it: `flags` beside MAP_ANONYMOUS or with a file.
    pub fn map(length: usize, protection: i32, flags: i32, file: Option<(i32, u64)>) -> Result<Area> {
        let (fd, offset) = file.unwrap_or((-1, 0));
        let flags = if file.is_none() { flags | libc::MAP_ANONYMOUS } else { flags };
        let arguments = [0, length as u64, protection as u64, flags as u64, fd as u64, offset];
        let start = call(libc::SYS_mmap, arguments).context("mmap")? as u64;
        Ok(Area { start, length })
    }

    /// Private anonymous memory.
    pub fn private(length: usize) -> Result<Area> {
        Area::map(length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE, None)
    }

    /// Anonymous memory that children share.
    pub fn shared(length: usize) -> Result<Area> {
        Area::map(length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, None)
    }

    /// Its bytes; the caller sees to it that they are readable and writable.
    #[allow(clippy::mut_from_ref)]
    pub fn bytes(&self) -> &'static mut [u8] {
        // SAFETY: the area stays mapped to the end of the process; fixtures use it as a device would be.
        unsafe { std::slice::from_raw_parts_mut(self.start as *mut u8, self.length) }
    }

    /// One page of it.
    pub fn page(&self, index: usize) -> &'static mut [u8] {
        Area { start: self.start + (index * PAGE) as u64, length: PAGE }.bytes()
    }

    /// madvise(2)
    pub fn advise(&self, advice: i32) -> Result<()> {
        call(libc::SYS_madvise, [self.start, self.length as u64, advice as u64, 0, 0, 0])
            .with_context(|| format!("madvise {advice}"))?;
        Ok(())
    }

    /// mprotect(2)
    pub fn protect(&self, protection: i32) -> Result<()> {
        call(libc::SYS_mprotect, [self.start, self.length as u64, protection as u64, 0, 0, 0])
            .context("mprotect")?;
        Ok(())
    }
}

/// Fills bytes with a pattern that tells place and seed.
pub fn fill(bytes: &mut [u8], seed: u64) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = pattern(index, seed);
    }
}

/// The first index where bytes differ from the pattern.
pub fn unlike(bytes: &[u8], seed: u64) -> Option<usize> {
    bytes.iter().enumerate().position(|(index, &byte)| byte != pattern(index, seed))
}

fn pattern(index: usize, seed: u64) -> u8 {
    let mixed = (index as u64 ^ seed.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

/// Waits until a thread of this process blocks in a system call.
pub fn await_call(tid: i32, number: i64) -> Result<()> {
    for _ in 0..5_000 {
        let text = fs::read_to_string(format!("/proc/self/task/{tid}/syscall")).unwrap_or_default();
        if text.split(' ').next().is_some_and(|first| first == number.to_string()) {
            return Ok(());
        }
        sleep(Duration::from_millis(1));
    }
    anyhow::bail!("thread {tid} does not come to system call {number}")
}

/// The lines of a /proc file that begin with one of these words.
pub fn proc_lines(path: &str, words: &[&str]) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let lines: Vec<_> = text
        .lines()
        .filter(|line| words.iter().any(|word| line.starts_with(word)))
        .map(str::to_owned)
        .collect();
    ensure!(!lines.is_empty(), "{path} has no line for {words:?}");
    Ok(lines)
}
