//! Contexts of asynchronous I/O: io_setup(2) and its ring of events.
//!
//! A context is known by the address of its ring, which the kernel chooses and mremap(2) may change. Where
//! the kernel stands in the ring (`tail`) is its own knowledge; the only way there is to let it complete that
//! many requests. Writes to /dev/null do.
//!
//! What was submitted and had not completed is not restored: no interface tells of it, neither from outside
//! nor from inside. Only where it completes while the task is frozen it is seen, and the dump refused.

use crate::error::{Error, Place};
use criu_images::proto::{AioRingEntry, VmaEntry};
use criu_kernel::Pid;
use criu_kernel::memory::{self, RemoteRange};
use criu_script::{Check, Script, StepId};
use std::io::IoSliceMut;

/// Bytes of the ring's header; the events follow.
pub const HEADER: usize = 32;
/// Bytes of an event.
const EVENT: u64 = 32;
/// Bytes of the header's first field, by which the kernel finds the context: it must not be changed.
const ID: u64 = 4;
/// Bytes of a request.
const REQUEST: usize = 64;
const IOCB_CMD_PWRITE: u16 = 1;
/// Requests submitted at once, at most.
const BATCH: u32 = 128;

/// A context to be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    address: u64,
    len: u64,
    requests: u32,
    head: u32,
    tail: u32,
    /// Place of its content in the pages image.
    offset: u64,
}

/// The entry of the context whose ring is `area`.
///
/// The kernel makes room for twice the requests that io_setup(2) is asked for, and two, and fills whole pages.
pub fn entry(area: &VmaEntry) -> AioRingEntry {
    let len = area.end - area.start;
    AioRingEntry { id: area.start, nr_req: ((events(len) - 2) / 2) as u32, ring_len: len as u32 }
}

fn events(len: u64) -> u64 {
    (len - HEADER as u64) / EVENT
}

/// How far the kernel has come in a task's rings: their tails.
///
/// # Errors
/// Those of process_vm_readv(2).
pub fn tails(pid: i32, rings: &[AioRingEntry]) -> Result<Vec<u32>, Error> {
    const TAIL: u64 = 12;
    let tail = |ring: &AioRingEntry| {
        let address = ring.id + TAIL;
        let mut word = [0; 4];
        memory::read_vectored(
            Pid::from_raw(pid),
            &mut [IoSliceMut::new(&mut word)],
            &[RemoteRange { address, len: 4 }],
        )
        .map_err(|errno| Error::Call {
            pid,
            call: "process_vm_readv",
            address,
            source: errno.into(),
        })?;
        Ok(u32::from_ne_bytes(word))
    };
    rings.iter().map(tail).collect()
}

/// Refuses a task whose requests completed since `before` was read.
///
/// # Errors
/// [`Error::Unsupported`], and those of [`tails`].
pub fn refuse_progress(pid: i32, rings: &[AioRingEntry], before: &[u32]) -> Result<(), Error> {
    let after = tails(pid, rings)?;
    let moved = rings.iter().zip(before.iter().zip(&after)).find(|(_, (before, after))| before != after);
    match moved {
        None => Ok(()),
        Some((ring, _)) => {
            let place = Place { pid, start: ring.id, end: ring.id + u64::from(ring.ring_len) };
            let what = "asynchronous I/O (io_submit) completed while the task was frozen, its buffers may be older \
                        than that; dump again when it has no requests in flight";
            Err(Error::Unsupported { place, what: what.into() })
        }
    }
}

impl Ring {
    /// From its entry, the first bytes of its content, and the place of that in the pages image.
    ///
    /// # Errors
    /// Says what is wrong with the content.
    pub fn new(entry: &AioRingEntry, header: &[u8; HEADER], offset: u64) -> Result<Ring, String> {
        let word = |index: usize| u32::from_ne_bytes(std::array::from_fn(|byte| header[index * 4 + byte]));
        let [count, head, tail] = [1, 2, 3].map(word);
        let len = u64::from(entry.ring_len);
        if len <= HEADER as u64 || u64::from(count) != events(len) || head >= count || tail >= count {
            return Err(format!(
                "the I/O context at {:#x} has a ring of {len} bytes, {count} events, head {head}, tail {tail}",
                entry.id
            ));
        }
        Ok(Ring { address: entry.id, len, requests: entry.nr_req, head, tail, offset })
    }

    /// Has the kernel complete requests until its tail is right: the head requests that the task has
    /// seen, and those that wait in the ring.
    fn turn_steps(&self, at: StepId, null: i32, script: &mut Script) {
        let count = events(self.len) as u32;
        let waiting = (self.tail + count - self.head) % count;
        // Each processor takes a share of the ring for itself, so that not all of it can be had at once.
        let batch = (count / 4).clamp(1, BATCH).min(self.head.max(waiting));
        if batch == 0 {
            return;
        }
        let request = script.bytes(&write_of_nothing(null));
        let byte = script.zeroed(1);
        script.point(request, 24, byte);
        let list = script.zeroed(batch as usize * 8);
        (0..batch as usize).for_each(|index| script.point(list, index * 8, request));
        let seen = script.zeroed((u64::from(batch) * EVENT) as usize);
        for (mut left, is_seen) in [(self.head, true), (waiting, false)] {
            while left > 0 {
                let part = left.min(batch);
                left -= part;
                script
                    .syscall(libc::SYS_io_submit, [at.into(), part.into(), list.into()])
                    .check(Check::Eq(part.into()));
                if is_seen {
                    let args = [at.into(), part.into(), part.into(), seen.into(), 0.into()];
                    script.syscall(libc::SYS_io_getevents, args).check(Check::Eq(part.into()));
                }
            }
        }
    }
}

/// An iocb that writes one byte to the file open at `null`; its buffer is still to be filled in.
fn write_of_nothing(null: i32) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    request[16..18].copy_from_slice(&IOCB_CMD_PWRITE.to_ne_bytes());
    request[20..24].copy_from_slice(&null.to_ne_bytes());
    request[32..40].copy_from_slice(&1u64.to_ne_bytes());
    request
}

/// Adds steps that make contexts and put them to their addresses, which must be free. `null` is /dev/null,
/// open for writing, `pages` the pages image.
pub fn place_steps(rings: &[Ring], null: i32, pages: i32, script: &mut Script) {
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let map = |at: u64, len: u64, flags: i32| {
        [at.into(), len.into(), libc::PROT_NONE.into(), (anonymous | flags).into(), (-1).into(), 0.into()]
    };
    // A ring cannot be moved onto itself: the kernel shall not choose the final address.
    for Ring { address, len, .. } in rings {
        script
            .syscall(libc::SYS_mmap, map(*address, *len, libc::MAP_FIXED_NOREPLACE))
            .check(Check::Eq(*address as i64));
    }
    for ring in rings {
        let Ring { address, len, .. } = *ring;
        // A script cannot use what io_setup writes to memory. But the kernel chooses the address that it chose
        // for a mapping of the same size just before; were it another one, the next steps would fail.
        let at = script.syscall(libc::SYS_mmap, map(0, len, 0)).id();
        script.syscall(libc::SYS_munmap, [at.into(), len.into()]);
        let context = script.zeroed(8);
        script.syscall(libc::SYS_io_setup, [ring.requests.into(), context.into()]);
        ring.turn_steps(at, null, script);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        script
            .syscall(libc::SYS_mremap, [at.into(), len.into(), len.into(), flags.into(), address.into()])
            .check(Check::Eq(address as i64));
        let passed_over = script.zeroed(ID as usize);
        let vector = script.words(&[0, ID, address + ID, len - ID]);
        script.point(vector, 0, passed_over);
        script
            .syscall(libc::SYS_preadv, [pages.into(), vector.into(), 2.into(), ring.offset.into(), 0.into()])
            .check(Check::Eq(len as i64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(len: u64) -> VmaEntry {
        VmaEntry { start: 0x7000_0000, end: 0x7000_0000 + len, ..VmaEntry::default() }
    }

    fn header(words: [u32; 8]) -> [u8; HEADER] {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.try_into().unwrap()
    }

    #[test]
    fn entries_ask_for_what_gives_the_same_ring() {
        for asked in [62u64, 64, 100, 1000] {
            let len = (HEADER as u64 + (asked * 2 + 2) * EVENT).next_multiple_of(4096);
            let entry = entry(&area(len));
            let again = (HEADER as u64 + (u64::from(entry.nr_req) * 2 + 2) * EVENT).next_multiple_of(4096);
            assert_eq!((entry.ring_len as u64, again), (len, len));
        }
    }

    #[test]
    fn damaged_rings_are_refused() {
        let entry = entry(&area(4096));
        let ring = |words| Ring::new(&entry, &header(words), 0);
        assert!(ring([9, 127, 3, 126, 0, 0, 0, 32]).is_ok());
        assert!(ring([9, 128, 3, 126, 0, 0, 0, 32]).is_err());
        assert!(ring([9, 127, 127, 126, 0, 0, 0, 32]).unwrap_err().contains("head 127"));
        assert!(ring([9, 127, 3, 127, 0, 0, 0, 32]).is_err());
    }

    #[test]
    fn as_many_requests_complete_as_bring_the_tail_back() {
        let entry = entry(&area(4096));
        let submitted = |head, tail| {
            let ring = Ring::new(&entry, &header([9, 127, head, tail, 0, 0, 0, 32]), 0).unwrap();
            let mut script = Script::new("test");
            place_steps(&[ring], 5, 6, &mut script);
            let sum = |nr: i64| -> i64 {
                let steps = script.steps().iter().filter(|step| step.nr == nr as u32);
                steps.map(|step| if let Check::Eq(count) = step.check { count } else { 0 }).sum()
            };
            (sum(libc::SYS_io_submit), sum(libc::SYS_io_getevents))
        };
        assert_eq!(submitted(0, 0), (0, 0));
        assert_eq!(submitted(0, 5), (5, 0));
        assert_eq!(submitted(64, 64), (64, 64));
        assert_eq!(submitted(64, 2), (127 + 2, 64), "once round");
    }
}
