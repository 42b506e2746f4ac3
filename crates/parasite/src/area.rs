//! The control area: shared memory that holds the blob, control blocks, stacks and scripts.

use crate::blob::blob;
use crate::frame;
use criu_kernel::arch::UserRegs;
use criu_script::wire::{self, Shared, Tcb};
use criu_script::{Outcome, Script};
use nix::errno::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

const PAGE: usize = 4096;
/// Where barrier words lie: behind [`Shared`], up to the blob.
const WORDS: usize = 256;
const BLOB: usize = PAGE;
/// Stack of the interpreter, in bytes. No signal is ever delivered on it.
const STACK: usize = 1024;
const ALIGN: usize = 64;

/// Control block and stack of one thread inside of an [`Area`].
#[derive(Clone, Copy, Debug)]
pub struct ThreadSlot {
    offset: usize,
}

/// A control area, seen by the host. Its layout is append-only.
pub struct Area {
    memory: NonNull<u8>,
    len: usize,
    base: u64,
    words: usize,
}

/// Plans an area before it is mapped: hands out the addresses that scripts refer to.
#[derive(Clone, Debug)]
pub struct Layout {
    base: u64,
    used: usize,
    words: usize,
}

impl Layout {
    /// An empty area that the target sees at `base` (page-aligned).
    pub fn new(base: u64) -> Layout {
        Layout { base, used: (BLOB + blob().image.len()).next_multiple_of(ALIGN), words: WORDS }
    }

    /// A new barrier word: its address in the target.
    ///
    /// # Panics
    /// After some nine hundred of them.
    pub fn word(&mut self) -> u64 {
        assert!(self.words + 4 <= BLOB, "too many barrier words");
        self.words += 4;
        self.base + self.words as u64 - 4
    }

    /// Room for a thread's control block and stack.
    pub fn thread(&mut self) -> ThreadSlot {
        ThreadSlot { offset: self.take(size_of::<Tcb>().next_multiple_of(ALIGN) + STACK) }
    }

    /// The control block's address in the target.
    pub fn tcb(&self, slot: ThreadSlot) -> u64 {
        self.base + slot.offset as u64
    }

    /// Room for a script; its offset.
    pub fn script(&mut self, script: &Script) -> usize {
        self.take(script.size())
    }

    /// Room for a way back, see [`Area::set_return`]; its offset.
    pub fn frame(&mut self, xstate: usize) -> usize {
        self.take(frame::size(xstate))
    }

    fn take(&mut self, size: usize) -> usize {
        let offset = self.used;
        self.used = (self.used + size).next_multiple_of(ALIGN);
        offset
    }

    /// Bytes to map, a multiple of the page size.
    pub fn len(&self) -> usize {
        self.used.next_multiple_of(PAGE)
    }

    /// Never: an area always holds the blob.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Address in the target.
    pub fn base(&self) -> u64 {
        self.base
    }
}

impl Area {
    /// Maps a laid-out area into the host, from the file behind the target's mapping. `at` forces the
    /// host's address to be the target's too (for restore, where the target is cloned from the host).
    ///
    /// The calling thread becomes the owner of the lifeline.
    pub fn map(layout: &Layout, file: impl AsFd, at: bool) -> Result<Area, Errno> {
        let len = layout.len();
        let (address, fixed) =
            if at { (layout.base as *mut _, libc::MAP_FIXED_NOREPLACE) } else { (std::ptr::null_mut(), 0) };
        let prot = libc::PROT_READ | libc::PROT_WRITE | if at { libc::PROT_EXEC } else { 0 };
        // SAFETY: a new mapping that replaces nothing.
        let memory =
            unsafe { libc::mmap(address, len, prot, libc::MAP_SHARED | fixed, file.as_fd().as_raw_fd(), 0) };
        if memory == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let memory = NonNull::new(memory.cast()).ok_or(Errno::EFAULT)?;
        let mut area = Area { memory, len, base: layout.base, words: layout.words };
        area.bytes(BLOB, blob().image.len()).copy_from_slice(&blob().image);
        area.hold_lifeline()?;
        Ok(area)
    }

    /// Address of the entry in the target.
    pub fn entry(&self) -> u64 {
        self.base + BLOB as u64 + blob().entry
    }

    /// Address in the target.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: an area always holds the blob.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The control block's address in the target.
    pub fn tcb(&self, slot: ThreadSlot) -> u64 {
        self.base + slot.offset as u64
    }

    /// Encodes a script at its place and points the control block to it.
    pub fn set_script(&mut self, slot: ThreadSlot, place: usize, script: &Script) {
        let address = self.base + place as u64;
        script.encode(address, self.bytes(place, script.size()));
        let tcb = Tcb {
            script: address,
            len: script.steps().len() as u64,
            stack: self.tcb(slot) + (size_of::<Tcb>().next_multiple_of(ALIGN) + STACK) as u64,
            shared: self.base,
            frame: 0,
            state: AtomicU32::new(wire::STATE_IDLE),
            step: AtomicU32::new(0),
        };
        // SAFETY: the slot lies inside of the mapping and is aligned; nobody runs on it yet.
        unsafe { self.memory.add(slot.offset).cast::<Tcb>().write(tcb) };
    }

    /// Lays out the thread's way back at `place`.
    pub fn set_return(&mut self, slot: ThreadSlot, place: usize, regs: &UserRegs, xstate: &[u8], mask: u64) {
        let address = self.base + place as u64;
        frame::write(self.bytes(place, frame::size(xstate.len())), address, regs, xstate, mask);
        // SAFETY: as in `set_script`, which came before.
        unsafe { (*self.memory.add(slot.offset).cast::<Tcb>().as_ptr()).frame = address };
    }

    /// The control block.
    pub fn thread(&self, slot: ThreadSlot) -> &Tcb {
        // SAFETY: inside of the mapping, initialised by `set_script`; what the target changes is atomic.
        unsafe { self.memory.add(slot.offset).cast::<Tcb>().as_ref() }
    }

    /// The block that all threads share.
    pub fn shared(&self) -> &Shared {
        // SAFETY: the start of the mapping, where zero bytes are a valid value; all that the target
        // changes is atomic.
        unsafe { self.memory.cast::<Shared>().as_ref() }
    }

    /// A barrier word, by its address in the target.
    pub fn word(&self, address: u64) -> &AtomicU32 {
        let offset = (address - self.base) as usize;
        assert!((WORDS..self.words).contains(&offset), "not a barrier word");
        // SAFETY: inside of the mapping, aligned to 4, only ever used atomically.
        unsafe { self.memory.add(offset).cast::<AtomicU32>().as_ref() }
    }

    /// What the script at `place` found, once its thread stands still.
    pub fn outcome(&mut self, slot: ThreadSlot, place: usize, script: &Script) -> Outcome {
        let tcb = self.thread(slot);
        let failed = (tcb.state.load(Ordering::SeqCst) == wire::STATE_FAILED)
            .then(|| tcb.step.load(Ordering::SeqCst) as usize);
        script.outcome(self.bytes(place, script.size()), failed)
    }

    /// What the step number `index` of the script at `place` returned.
    pub fn result(&self, place: usize, index: usize) -> i64 {
        let offset = place + index * wire::INSTR_SIZE;
        assert!(offset + wire::INSTR_SIZE <= self.len, "outside of the control area");
        // SAFETY: inside of the mapping, where an instruction was encoded; its result is atomic.
        unsafe { self.memory.add(offset).cast::<wire::Instr>().as_ref() }.ret.load(Ordering::SeqCst)
    }

    fn bytes(&mut self, offset: usize, len: usize) -> &mut [u8] {
        assert!(offset + len <= self.len, "outside of the control area");
        // SAFETY: inside of the mapping. The target reads it only while its threads run, and the host
        // calls this only while they do not.
        unsafe { std::slice::from_raw_parts_mut(self.memory.add(offset).as_ptr(), len) }
    }

    /// Takes the robust lock in [`Shared`]: from now on the kernel tells the target when this thread dies.
    fn hold_lifeline(&mut self) -> Result<(), Errno> {
        // SAFETY: the lock lies in the mapping, at a place made for it, and is unlocked on drop.
        unsafe {
            self.memory.cast::<u64>().write(wire::MAGIC);
            let mut attributes = MaybeUninit::uninit();
            check(libc::pthread_mutexattr_init(attributes.as_mut_ptr()))?;
            check(libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED))?;
            check(libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST))?;
            check(libc::pthread_mutex_init(self.lifeline(), attributes.as_ptr()))?;
            check(libc::pthread_mutex_lock(self.lifeline()))?;
        }
        let held = self.shared().lifeline.load(Ordering::SeqCst) & !wire::WAITERS;
        if held != nix::unistd::gettid().as_raw() as u32 {
            return Err(Errno::ENOSYS); // a C library that keeps the futex word elsewhere
        }
        Ok(())
    }

    fn lifeline(&self) -> *mut libc::pthread_mutex_t {
        // SAFETY: inside of the mapping.
        unsafe { self.memory.add(std::mem::offset_of!(Shared, lifeline)).cast().as_ptr() }
    }
}

/// Waits, at most a tenth of a second, until the word is no longer `seen` (ETIMEDOUT: it still is).
pub fn wait_for_change(word: &AtomicU32, seen: u32) -> Result<(), Errno> {
    let patience = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    // SAFETY: a futex word in a mapping that outlives the call, and a timeout on the stack.
    let ret = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, seen, &raw const patience, 0, 0)
    };
    Errno::result(ret).map(drop)
}

fn check(errno: i32) -> Result<(), Errno> {
    if errno == 0 { Ok(()) } else { Err(Errno::from_raw(errno)) }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: this thread locked it, and nobody else refers to the mapping.
        unsafe {
            libc::pthread_mutex_unlock(self.lifeline());
            libc::munmap(self.memory.as_ptr().cast(), self.len);
        }
    }
}
