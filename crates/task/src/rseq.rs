//! Restartable sequences of a thread (rseq(2)).
//!
//! A thread frozen inside a critical section must not go on there after any other code of its own ran: the
//! kernel would have sent it to the section's abort handler. [`abort_ip`] finds that handler. Whoever makes a
//! live thread run a script must send it there too, for the kernel takes the script for the abort.

use crate::arch::native;
use crate::error::Error;
use criu_images::proto::RseqEntry;
use criu_kernel::{Pid, memory};
use criu_resource::{BoxError, BuiltTask, FrozenTask, FrozenThread, Stage, ThreadAnswer, ThreadState};
use criu_script::{Arg, Script};

/// Where `struct rseq` holds the address of the current `struct rseq_cs`.
const RSEQ_CS: u64 = 8;

/// A critical section: `struct rseq_cs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CriticalSection {
    /// Where its descriptor lies.
    pub address: u64,
    /// First instruction.
    pub start_ip: u64,
    /// Length in bytes.
    pub post_commit_offset: u64,
    /// Where the thread goes when it was interrupted inside.
    pub abort_ip: u64,
}

impl CriticalSection {
    /// The section that a thread has announced, if any.
    ///
    /// # Errors
    /// For a version of the structure that is not known. Memory that cannot be read counts as none, as it
    /// would kill the thread sooner or later anyway.
    pub fn of(tid: i32, rseq: u64) -> Result<Option<CriticalSection>, Error> {
        let pid = Pid::from_raw(tid);
        let mut word = [0; 8];
        if memory::read_exact(pid, rseq + RSEQ_CS, &mut word).is_err() {
            return Ok(None);
        }
        let address = u64::from_ne_bytes(word);
        let mut bytes = [0; 32];
        if address == 0 || memory::read_exact(pid, address, &mut bytes).is_err() {
            return Ok(None);
        }
        let at = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        match at(0) as u32 {
            0 => Ok(Some(CriticalSection {
                address,
                start_ip: at(8),
                post_commit_offset: at(16),
                abort_ip: at(24),
            })),
            version => Err(Error::Unsupported(format!("version {version} of restartable sequences"))),
        }
    }

    /// Whether an instruction pointer lies inside.
    pub fn contains(&self, ip: u64) -> bool {
        ip.wrapping_sub(self.start_ip) < self.post_commit_offset
    }
}

/// Where a frozen thread has to go on because it was inside of a critical section.
///
/// # Errors
/// As [`CriticalSection::of`].
pub fn abort_ip(thread: &FrozenThread) -> Result<Option<u64>, Error> {
    let (Some((address, ..)), Some(&ip)) = (thread.rseq, thread.regs.get(native::IP)) else {
        return Ok(None);
    };
    let section = CriticalSection::of(thread.tid, address)?;
    Ok(section.filter(|section| section.contains(ip)).map(|section| section.abort_ip))
}

/// The registration for restartable sequences.
pub struct Rseq;

impl ThreadState for Rseq {
    fn name(&self) -> &'static str {
        "rseq"
    }

    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        thread: &'a FrozenThread,
        _: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError> {
        let Some((address, size, signature, _)) = thread.rseq else { return Ok(Box::new(|_, _| Ok(()))) };
        let section = CriticalSection::of(thread.tid, address)?;
        Ok(Box::new(move |_, core| {
            core.thread_core.get_or_insert_default().rseq_entry = Some(RseqEntry {
                rseq_abi_pointer: address,
                rseq_abi_size: size,
                signature,
                rseq_cs_pointer: section.map(|section| section.address),
            });
            if let (Some(section), Some(info)) = (section, &mut core.thread_info)
                && section.contains(info.gpregs.ip)
            {
                info.gpregs.ip = section.abort_ip;
            }
            Ok(())
        }))
    }

    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        thread: usize,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        let core = task.thread(thread).thread_core.as_ref();
        if let (Stage::State, Some(entry)) = (stage, core.and_then(|core| core.rseq_entry.as_ref()))
            && entry.rseq_abi_pointer != 0
        {
            let flags = Arg::Value(0);
            let size = entry.rseq_abi_size.into();
            let args = [entry.rseq_abi_pointer.into(), size, flags, entry.signature.into()];
            script.syscall(libc::SYS_rseq, args);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `struct rseq` and a `struct rseq_cs` behind it, in this process's own memory.
    fn announced(section: [u64; 4]) -> Vec<u64> {
        let mut memory = vec![0; 8];
        memory[4..].copy_from_slice(&section);
        memory[1] = &raw const memory[4] as u64;
        memory
    }

    fn thread(rseq: &[u64], ip: u64) -> FrozenThread {
        let mut regs = vec![0; native::REGS];
        regs[native::IP] = ip;
        FrozenThread {
            tid: std::process::id() as i32,
            ns_tid: 1,
            regs,
            xstate: Vec::new(),
            sigmask: 0,
            pending: Vec::new(),
            rseq: Some((rseq.as_ptr() as u64, 32, 0, 0)),
            robust_list: (0, 0),
        }
    }

    #[test]
    fn a_thread_inside_goes_to_the_abort_handler() {
        let memory = announced([0, 0x1000, 0x20, 0x2000]);
        for (ip, handler) in [(0xfff, None), (0x1000, Some(0x2000)), (0x101f, Some(0x2000)), (0x1020, None)] {
            assert_eq!(abort_ip(&thread(&memory, ip)).unwrap(), handler, "at {ip:#x}");
        }
    }

    #[test]
    fn no_section_and_unknown_ones() {
        assert_eq!(abort_ip(&thread(&[0; 8], 0x1000)).unwrap(), None);
        let mut unregistered = thread(&[0; 8], 0x1000);
        unregistered.rseq = None;
        assert_eq!(abort_ip(&unregistered).unwrap(), None);
        let error = abort_ip(&thread(&announced([3, 0x1000, 0x20, 0x2000]), 0x1000)).unwrap_err();
        assert!(error.to_string().contains("version 3"), "{error}");
    }
}
