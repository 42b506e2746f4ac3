//! Seccomp (seccomp(2)): the mode of each thread, and its filters.
//!
//! Filters are read by ptrace(2), of threads that the calling thread has stopped. A chain that several threads
//! have in common is stored once. Where all threads of a process have the same, they get it together, as
//! SECCOMP_FILTER_FLAG_TSYNC does it: a later use of that flag would fail for threads with a chain of their own.
//!
//! On restore filters are installed while the thread has all rights, before its credentials: the task is
//! traced meanwhile, which suspends them.

use crate::error::Error;
use crate::steps::{living, prctl};
use criu_images::proto::{SeccompEntry, SeccompFilter, SeccompMode, ThreadCoreEntry};
use criu_images::{Image, Record, RecordSet, StoreExt};
use criu_kernel::proc::ProcDir;
use criu_kernel::{Pid, ptrace};
use criu_resource::{
    Answer, BoxError, BuiltTask, BuiltTree, BulkData, DumpContext, Fate, FrozenTask, FrozenTree, Place,
    Portion, RestoreContext, Stage, TreeDump, TreeRestore, TreeState,
};
use criu_script::Script;
use nix::errno::Errno;
use std::collections::HashMap;

const SET_MODE_FILTER: u64 = 1;
/// SECCOMP_FILTER_FLAG_TSYNC.
const TSYNC: u32 = 1;
/// Size of a `struct sock_filter`.
const INSTRUCTION: usize = 8;
/// Most instructions of one filter (BPF_MAXINSNS).
const LONGEST: usize = 4096;

/// One filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Its instructions, as the kernel takes them (`struct sock_filter`).
    pub program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u32,
}

/// The filters of a thread, the first installed first; none for a thread not in filter mode. The caller must
/// have stopped the thread by ptrace(2); for one that has filters, it must have CAP_SYS_ADMIN and be under no filter
/// itself.
///
/// # Errors
/// When the kernel refuses.
pub fn filters(tid: i32) -> Result<Vec<Filter>, Error> {
    let tid = Pid::from_raw(tid);
    let mut all = Vec::new();
    loop {
        let program = match ptrace::seccomp_filter(tid, all.len()) {
            Ok(program) => program,
            // ENOENT: that was the last. EINVAL: not in filter mode.
            Err(Errno::ENOENT | Errno::EINVAL) => return Ok(all),
            // Who may not ask for filters may see that there are none.
            Err(Errno::EACCES) if is_free(tid) => return Ok(all),
            Err(errno) => return Err(Error::Seccomp { tid: tid.as_raw(), errno }),
        };
        let flags = match ptrace::seccomp_filter_flags(tid, all.len()) {
            Err(Errno::EIO) => 0, // before Linux 4.16
            flags => flags.map_err(|errno| Error::Seccomp { tid: tid.as_raw(), errno })?,
        };
        let bytes = |one: libc::sock_filter| {
            let [a, b] = one.code.to_ne_bytes();
            let [c, d, e, f] = one.k.to_ne_bytes();
            [a, b, one.jt, one.jf, c, d, e, f]
        };
        all.push(Filter { program: program.into_iter().flat_map(bytes).collect(), flags: flags as u32 });
    }
}

/// Whether a thread is under no seccomp at all.
fn is_free(tid: Pid) -> bool {
    let status = ProcDir::open(tid).and_then(|proc| proc.status());
    status.is_ok_and(|status| status.seccomp == 0)
}

/// Adds the steps that install a chain in the calling thread, which needs CAP_SYS_ADMIN.
pub fn install(chain: &[Filter], script: &mut Script) {
    for Filter { program, flags } in chain {
        let instructions = script.bytes(program);
        // A `struct sock_fprog`: the number of instructions, and where they are.
        let fprog = script.words(&[(program.len() / INSTRUCTION) as u64, 0]);
        script.point(fprog, 8, instructions);
        let args = [SET_MODE_FILTER.into(), (*flags).into(), fprog.into()];
        script.syscall(libc::SYS_seccomp, args).check(criu_script::Check::Eq(0));
    }
}

/// Seccomp of the whole tree.
pub struct Seccomp;

impl TreeState for Seccomp {
    fn name(&self) -> &'static str {
        "seccomp"
    }

    fn dump<'t>(
        &'t self,
        tree: &'t FrozenTree<'t>,
        _: &'t DumpContext<'t>,
    ) -> Result<Box<dyn TreeDump + 't>, BoxError> {
        let mut dump = Dump::default();
        for task in &tree.tasks {
            let mut chains = Vec::with_capacity(task.threads.len());
            for thread in &task.threads {
                chains.push(filters(thread.tid)?);
            }
            dump.process(task.index, chains);
        }
        Ok(Box::new(dump))
    }

    fn restore<'t>(
        &'t self,
        _: &'t BuiltTree,
        context: &'t RestoreContext<'t>,
    ) -> Result<Box<dyn TreeRestore + 't>, BoxError> {
        let entry: Option<SeccompEntry> = context.store.read_one_opt(Image::Seccomp, 0)?;
        Ok(Box::new(Restore { filters: entry.unwrap_or_default().seccomp_filters }))
    }
}

/// What a thread's image says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// Filters, from this position on.
    Chain(u32),
    /// Nothing: the main thread's filters are for all.
    Main,
}

#[derive(Default)]
struct Dump {
    entry: SeccompEntry,
    /// Where a chain begins in `entry`.
    known: HashMap<Vec<Filter>, u32>,
    /// By position of the task and the thread; no entry for a thread without filters.
    said: HashMap<(usize, usize), Said>,
}

impl Dump {
    fn process(&mut self, task: usize, chains: Vec<Vec<Filter>>) {
        let together = chains.windows(2).all(|pair| pair[0] == pair[1]);
        for (thread, mut chain) in chains.into_iter().enumerate().filter(|(_, chain)| !chain.is_empty()) {
            let said = match (together, thread) {
                (true, 1..) => Said::Main,
                _ => {
                    chain.iter_mut().for_each(|filter| filter.flags |= if together { TSYNC } else { 0 });
                    Said::Chain(self.position(chain))
                }
            };
            self.said.insert((task, thread), said);
        }
    }

    /// The image has the last filter first; each but that refers to the one installed after it, and a thread
    /// to the one installed first.
    fn position(&mut self, chain: Vec<Filter>) -> u32 {
        if let Some(&position) = self.known.get(&chain) {
            return position;
        }
        let all = &mut self.entry.seccomp_filters;
        let first = all.len();
        for Filter { program, flags } in chain.iter().rev() {
            let prev = (all.len() > first).then(|| all.len() as u32 - 1);
            all.push(SeccompFilter { filter: program.clone(), prev, flags: Some(*flags) });
        }
        let position = all.len() as u32 - 1;
        self.known.insert(chain, position);
        position
    }
}

impl TreeDump for Dump {
    /// The mode is in `/proc`, and comes with the credentials; here it gets its filters.
    fn ask<'a>(&'a self, task: &'a FrozenTask<'a>, _: &mut Script) -> Result<Answer<'a>, BoxError> {
        Ok(Box::new(move |_, images| {
            for thread in 0..task.threads.len() {
                let core = images.thread(thread).thread_core.get_or_insert_default();
                match self.said.get(&(task.index, thread)) {
                    Some(&Said::Chain(position)) => {
                        core.set_seccomp_mode(SeccompMode::Filter);
                        core.seccomp_filter = Some(position);
                    }
                    Some(Said::Main) => core.seccomp_mode = None,
                    None => {}
                }
            }
            Ok(())
        }))
    }

    fn bulk<'a>(&'a self, _: Portion<'a>) -> Option<BulkData<'a>> {
        None
    }

    fn copyable(&self) -> Vec<i32> {
        Vec::new()
    }

    fn finish(&mut self, records: &mut RecordSet) -> Result<(), BoxError> {
        // The reference looks for the image in every dump.
        records.push(Record::new(Image::Seccomp, 0, &self.entry));
        Ok(())
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        Ok(())
    }
}

struct Restore {
    filters: Vec<SeccompFilter>,
}

impl Restore {
    /// The chain that begins at a position, the first to install first.
    fn chain(&self, position: u32) -> Result<Vec<Filter>, Error> {
        let mut chain = Vec::new();
        let mut next = Some(position);
        while let Some(position) = next {
            let entry = self.filters.get(position as usize);
            let entry = entry.filter(|_| chain.len() < self.filters.len());
            let entry = entry.ok_or_else(|| Error::corrupt("position in seccomp.img", position))?;
            let len = entry.filter.len();
            if len == 0 || len % INSTRUCTION != 0 || len / INSTRUCTION > LONGEST {
                return Err(Error::corrupt("seccomp filter, its size", len));
            }
            chain.push(Filter { program: entry.filter.clone(), flags: entry.flags() });
            next = entry.prev;
        }
        Ok(chain)
    }
}

/// The mode of a thread. Old images have it in the process's part.
fn mode(task: &BuiltTask, thread: usize) -> Result<(SeccompMode, u32), Error> {
    let own = |core: &ThreadCoreEntry| core.seccomp_mode.map(|mode| (mode, core.seccomp_filter()));
    let own = task.thread(thread).thread_core.as_ref().and_then(own);
    let old = || living(task).and_then(|tc| tc.old_seccomp_mode.map(|mode| (mode, tc.old_seccomp_filter())));
    let (mode, filter) = own.or_else(old).unwrap_or_default();
    match SeccompMode::try_from(mode) {
        Ok(mode) => Ok((mode, filter)),
        Err(_) => Err(Error::corrupt("seccomp mode", mode)),
    }
}

impl TreeRestore for Restore {
    fn emit(&mut self, _: Stage, _: &BuiltTask, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn emit_thread(&mut self, task: &BuiltTask, thread: usize, script: &mut Script) -> Result<(), BoxError> {
        match mode(task, thread)? {
            (SeccompMode::Disabled, _) => {}
            (SeccompMode::Strict, _) => {
                prctl(script, libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT, 0);
            }
            (SeccompMode::Filter, position) => install(&self.chain(position)?, script),
        }
        Ok(())
    }

    fn restrains(&self, task: &BuiltTask) -> bool {
        (0..=task.threads.len()).any(|thread| !matches!(mode(task, thread), Ok((SeccompMode::Disabled, _))))
    }

    fn aside(&mut self, _: &BuiltTask, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn occupied(&self) -> Vec<(u64, u64)> {
        Vec::new()
    }

    fn prepare(&mut self, _: &mut dyn Place) -> Result<(), BoxError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(n: u8) -> Filter {
        Filter { program: vec![n; INSTRUCTION], flags: 0 }
    }

    fn restored(dump: &Dump, said: Said) -> Vec<u8> {
        let restore = Restore { filters: dump.entry.seccomp_filters.clone() };
        let Said::Chain(position) = said else { return Vec::new() };
        restore.chain(position).unwrap().iter().map(|filter| filter.program[0]).collect()
    }

    #[test]
    fn chains_are_stored_once_and_come_back_in_order() {
        let mut dump = Dump::default();
        dump.process(0, vec![vec![filter(1), filter(2)], vec![filter(1)], vec![]]);
        dump.process(1, vec![vec![filter(1)], vec![filter(1), filter(2)]]);
        assert_eq!(restored(&dump, dump.said[&(0, 0)]), [1, 2]);
        assert_eq!(restored(&dump, dump.said[&(0, 1)]), [1]);
        assert_eq!(dump.said[&(1, 0)], dump.said[&(0, 1)]);
        assert_eq!(dump.said.get(&(0, 2)), None);
        assert_eq!(dump.entry.seccomp_filters.len(), 3);
        assert_eq!(dump.entry.seccomp_filters[0].prev, None, "the last installed comes first");
    }

    #[test]
    fn what_all_threads_have_they_get_together() {
        let mut dump = Dump::default();
        dump.process(0, vec![vec![filter(1)], vec![filter(1)]]);
        assert_eq!((dump.said[&(0, 0)], dump.said[&(0, 1)]), (Said::Chain(0), Said::Main));
        assert_eq!(dump.entry.seccomp_filters[0].flags(), TSYNC);
    }

    #[test]
    fn damaged_chains_are_refused() {
        let entry = |len, prev| SeccompFilter { filter: vec![0; len], prev, flags: None };
        let refusal = |filters, at| Restore { filters }.chain(at).unwrap_err().to_string();
        assert!(refusal(vec![entry(8, None)], 1).contains("position in seccomp.img: 1"));
        assert!(refusal(vec![entry(8, Some(0))], 0).contains("position"), "a loop ends");
        assert!(refusal(vec![entry(7, None)], 0).contains("size: 7"));
    }
}
