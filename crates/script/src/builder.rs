//! Building scripts on the host and reading back what they found.

use crate::wire;
use alloc::vec;
use alloc::vec::Vec;

/// A piece of the script's own data, zeroed or filled at build time, readable after the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    offset: u32,
    len: u32,
}

impl Data {
    /// Length in bytes.
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether the piece is empty.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The part of this piece that starts `offset` bytes into it.
    ///
    /// # Panics
    /// When the part does not lie inside.
    pub fn part(self, offset: usize, len: usize) -> Data {
        assert!(offset + len <= self.len(), "part outside of its data");
        Data { offset: self.offset + offset as u32, len: len as u32 }
    }
}

/// Names a step of one [`Script`], to use or read its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepId(u32);

impl StepId {
    /// Position of the step in its script.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An argument of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// A number or an address that is known already.
    Value(u64),
    /// The address of a piece of the script's data.
    Data(Data),
    /// The result of an earlier step.
    Ret(StepId),
}

macro_rules! arg_from {
    ($($int:ty),*) => { $(impl From<$int> for Arg {
        fn from(value: $int) -> Arg { Arg::Value(value as i64 as u64) }
    })* };
}
arg_from!(i32, u32, i64, usize);

impl From<u64> for Arg {
    fn from(value: u64) -> Arg {
        Arg::Value(value)
    }
}

impl From<Data> for Arg {
    fn from(data: Data) -> Arg {
        Arg::Data(data)
    }
}

impl From<StepId> for Arg {
    fn from(step: StepId) -> Arg {
        Arg::Ret(step)
    }
}

/// What a step's result must be; otherwise the script stops there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Anything: the caller looks at the result afterwards.
    Any,
    /// Not an error.
    Ok,
    /// Exactly this.
    Eq(i64),
}

/// One instruction before it is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// One of the `OP_` constants of [`wire`].
    pub op: u8,
    /// System call number, for the operations that issue one.
    pub nr: u32,
    /// Arguments; unused ones are zero.
    pub args: [Arg; 6],
    /// What the result must be.
    pub check: Check,
    /// Who asked for it: a resource name for messages, such as `timers`.
    pub what: &'static str,
}

/// A list of steps and the data they use. See the crate documentation for an example.
#[derive(Clone, Debug, Default)]
pub struct Script {
    what: &'static str,
    steps: Vec<Step>,
    data: Vec<u8>,
    /// (where in `data`, what its address is to be written there)
    pointers: Vec<(u32, Data)>,
}

const ALIGN: usize = 64;

impl Script {
    /// An empty script whose first steps belong to the resource `what`.
    pub fn new(what: &'static str) -> Script {
        Script { what, ..Script::default() }
    }

    /// Steps added from now on belong to the resource `what`.
    pub fn set_what(&mut self, what: &'static str) {
        self.what = what;
    }

    /// The steps so far.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The bytes behind `data` as they are before the run.
    pub fn initial(&self, data: Data) -> &[u8] {
        &self.data[data.offset as usize..][..data.len()]
    }

    /// Adds bytes to the script's data, aligned to 16 bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Data {
        self.data.resize(self.data.len().next_multiple_of(16), 0);
        let offset = self.data.len();
        self.data.extend_from_slice(bytes);
        Data { offset: u32::try_from(offset).expect("script data over 4 GiB"), len: bytes.len() as u32 }
    }

    /// Adds bytes aligned to 64, as XRSTOR and a few others demand.
    pub fn aligned(&mut self, bytes: &[u8]) -> Data {
        self.data.resize(self.data.len().next_multiple_of(ALIGN), 0);
        self.bytes(bytes)
    }

    /// Adds a string with its terminating zero.
    pub fn c_string(&mut self, bytes: &[u8]) -> Data {
        let data = self.bytes(bytes);
        self.data.push(0);
        Data { len: data.len + 1, ..data }
    }

    /// Adds `len` zero bytes: room for a result.
    pub fn zeroed(&mut self, len: usize) -> Data {
        self.bytes(&vec![0; len])
    }

    /// Adds 64-bit words in native byte order.
    pub fn words(&mut self, words: &[u64]) -> Data {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.bytes(&bytes)
    }

    /// Writes, at `offset` inside `place`, the address that `target` will have.
    ///
    /// # Panics
    /// When the eight bytes do not lie inside `place`.
    pub fn point(&mut self, place: Data, offset: usize, target: Data) {
        self.pointers.push((place.part(offset, 8).offset, target));
    }

    /// Adds a system call whose result must not be an error. Change that with [`StepMut::check`].
    pub fn syscall<const N: usize>(&mut self, nr: i64, args: [Arg; N]) -> StepMut<'_> {
        self.push(wire::OP_SYSCALL, nr as u32, args)
    }

    /// Adds any operation. `nr` only counts for those that issue a system call.
    ///
    /// # Panics
    /// For more than six arguments.
    pub fn push<const N: usize>(&mut self, op: u8, nr: u32, args: [Arg; N]) -> StepMut<'_> {
        let mut all = [Arg::Value(0); 6];
        all[..N].copy_from_slice(&args);
        self.steps.push(Step { op, nr, args: all, check: Check::Ok, what: self.what });
        StepMut { script: self }
    }

    /// Adds one to the barrier word at address `word`, for which others wait to reach `count`.
    pub fn arrive(&mut self, word: u64, count: u32) {
        self.push(wire::OP_ARRIVE, 0, [word.into(), count.into()]);
    }

    /// Waits until the barrier word at address `word` has reached `count`.
    pub fn wait(&mut self, word: u64, count: u32) {
        self.push(wire::OP_AWAIT, 0, [word.into(), count.into()]);
    }

    fn data_offset(&self) -> usize {
        (self.steps.len() * wire::INSTR_SIZE).next_multiple_of(ALIGN)
    }

    /// How many bytes the encoded script takes.
    pub fn size(&self) -> usize {
        self.data_offset() + self.data.len().next_multiple_of(ALIGN)
    }

    /// Encodes the script for the address `base` (aligned to 64) into `out`.
    ///
    /// # Panics
    /// When `out` is smaller than [`Script::size`].
    pub fn encode(&self, base: u64, out: &mut [u8]) {
        let data_base = base + self.data_offset() as u64;
        let address = |data: Data| data_base + u64::from(data.offset);
        for (step, room) in self.steps.iter().zip(out.chunks_exact_mut(wire::INSTR_SIZE)) {
            let (check, expect) = match step.check {
                Check::Any => (wire::CHECK_ANY, 0),
                Check::Ok => (wire::CHECK_OK, 0),
                Check::Eq(value) => (wire::CHECK_EQ, value),
            };
            let mut loads = 0;
            let mut words = [0u64; 9];
            for (i, arg) in step.args.iter().enumerate() {
                words[3 + i] = match *arg {
                    Arg::Value(value) => value,
                    Arg::Data(data) => address(data),
                    Arg::Ret(step) => {
                        loads |= 1 << i;
                        base + (step.index() * wire::INSTR_SIZE + core::mem::offset_of!(wire::Instr, ret))
                            as u64
                    }
                };
            }
            words[0] = u64::from_le_bytes([step.op, check, loads, 0, 0, 0, 0, 0]) | u64::from(step.nr) << 32;
            words[2] = expect as u64;
            for (word, bytes) in words.iter().zip(room.chunks_exact_mut(8)) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        }
        let data = &mut out[self.data_offset()..][..self.data.len()];
        data.copy_from_slice(&self.data);
        for &(place, target) in &self.pointers {
            data[place as usize..][..8].copy_from_slice(&address(target).to_ne_bytes());
        }
    }

    /// Reads back an encoded script after its run. `failed` is the step that stopped it, if any.
    ///
    /// # Panics
    /// When `memory` is smaller than [`Script::size`].
    pub fn outcome(&self, memory: &[u8], failed: Option<usize>) -> Outcome {
        let ret = |instr: &[u8]| {
            let at = core::mem::offset_of!(wire::Instr, ret);
            let bytes = instr[at..at + 8].try_into().expect("eight bytes");
            i64::from_le_bytes(bytes)
        };
        Outcome {
            rets: memory.chunks_exact(wire::INSTR_SIZE).take(self.steps.len()).map(ret).collect(),
            data: memory[self.data_offset()..][..self.data.len()].to_vec(),
            failed,
        }
    }
}

/// The step just added, to refine it.
pub struct StepMut<'a> {
    script: &'a mut Script,
}

impl StepMut<'_> {
    /// Replaces what the result must be.
    pub fn check(self, check: Check) -> Self {
        self.script.steps.last_mut().expect("a step was just added").check = check;
        self
    }

    /// The step's name, for [`Arg::Ret`] and [`Outcome::ret`].
    pub fn id(self) -> StepId {
        StepId((self.script.steps.len() - 1) as u32)
    }
}

/// What a script found.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    rets: Vec<i64>,
    data: Vec<u8>,
    failed: Option<usize>,
}

impl Outcome {
    /// What a step returned: a value, or -errno.
    pub fn ret(&self, step: StepId) -> i64 {
        self.rets[step.index()]
    }

    /// What the step at a position returned.
    pub fn ret_at(&self, index: usize) -> i64 {
        self.rets[index]
    }

    /// What a step returned, an error as its errno (positive).
    pub fn result(&self, step: StepId) -> Result<i64, i32> {
        match self.ret(step) {
            ret @ -4095..=-1 => Err(-ret as i32),
            ret => Ok(ret),
        }
    }

    /// The bytes of a piece of data after the run.
    pub fn bytes(&self, data: Data) -> &[u8] {
        &self.data[data.offset as usize..][..data.len()]
    }

    /// The 32-bit word at the start of a piece of data.
    pub fn u32(&self, data: Data) -> u32 {
        u32::from_ne_bytes(self.bytes(data)[..4].try_into().expect("four bytes"))
    }

    /// The 64-bit word number `index` of a piece of data.
    pub fn u64(&self, data: Data, index: usize) -> u64 {
        u64::from_ne_bytes(self.bytes(data)[index * 8..][..8].try_into().expect("eight bytes"))
    }

    /// The step that failed its check and stopped the script.
    pub fn failed(&self) -> Option<usize> {
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_and_results_become_addresses() {
        let mut script = Script::new("test");
        let text = script.c_string(b"x");
        let iov = script.words(&[0, 1]);
        script.point(iov, 0, text);
        let first = script.syscall(1, [Arg::from(-1)]).check(Check::Eq(7)).id();
        script.syscall(2, [first.into(), iov.into()]);
        let mut memory = vec![0; script.size()];
        script.encode(0x10000, &mut memory);
        let word = |at: usize| u64::from_ne_bytes(memory[at..at + 8].try_into().unwrap());
        let data = script.data_offset();
        assert_eq!(word(24), u64::MAX, "a negative number is sign-extended");
        assert_eq!(word(72) & 0xff_0000, 1 << 16, "the first argument is loaded");
        assert_eq!(word(72 + 24), 0x10000 + 8, "from the first step's result");
        assert_eq!(word(data + 16), 0x10000 + data as u64, "iov_base points to the text");
    }
}
