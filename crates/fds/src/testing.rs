//! For tests: real processes whose tables are dumped, and others that the emitted steps are run in.

use crate::{Files, Kind, Memfd, Pipe, Regular, Table};
use criu_images::{MemoryStore, RecordSet, proto};
use criu_resource::{
    BoxError, BuiltTask, BuiltTree, DumpContext, Fate, FileKind, FrozenTask, FrozenThread, FrozenTree, Life,
    Numbers, Options, Place, RestoreContext, Stage, TreeState,
};
use criu_script::{Script, wire};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Every kind of this crate.
pub fn table() -> Table {
    let files = Arc::new(Files::new());
    Table::new(kinds(&files), files)
}

fn kinds(files: &Arc<Files>) -> Vec<Box<dyn FileKind>> {
    vec![
        Box::new(Memfd::new(files)),
        Box::new(Regular::new(files)),
        Box::new(Pipe),
        Box::new(crate::Fifo::new(files)),
        Box::new(crate::Inotify::new(files)),
        Box::new(crate::Fanotify::new(files)),
        Box::new(Kind::<crate::Eventfd>::new()),
        Box::new(crate::Eventpoll),
        Box::new(Kind::<crate::Signalfd>::new()),
        Box::new(Kind::<crate::Timerfd>::new()),
        Box::new(crate::Pidfd),
        Box::new(crate::Bpfmap),
        Box::new(Kind::<crate::Nsfile>::new()),
    ]
}

/// A stopped process of the test's own; it ends with this value.
pub struct Stopped(pub i32);

impl Stopped {
    /// Forks; the child has no descriptors but three of `/dev/null`, runs `work`, and stops.
    pub fn after(work: impl FnOnce()) -> Stopped {
        // SAFETY: the child only runs code of the tests, which take no lock that another thread may hold.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                close_from(0);
                let null = File::options().read(true).write(true).open("/dev/null").unwrap();
                for number in [1, 2] {
                    std::mem::forget(crate::sys::duplicate_from(null.as_fd(), number).unwrap());
                    clear_cloexec(number);
                }
                clear_cloexec(0);
                std::mem::forget(null);
                work();
                nix::sys::signal::raise(Signal::SIGSTOP).unwrap();
                // SAFETY: leaves without running what belongs to the parent.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                let status = waitpid(child, Some(WaitPidFlag::WUNTRACED)).unwrap();
                assert!(matches!(status, WaitStatus::Stopped(..)), "{status:?}");
                Stopped(child.as_raw())
            }
        }
    }

    /// A descriptor of it.
    pub fn fd(&self, number: i32) -> OwnedFd {
        let pidfd = criu_kernel::pidfd::open(Pid::from_raw(self.0), Default::default()).unwrap();
        criu_kernel::pidfd::getfd(pidfd.as_fd(), number).unwrap()
    }

    /// What procfs calls a descriptor.
    pub fn link(&self, number: i32) -> String {
        std::fs::read_link(format!("/proc/{}/fd/{number}", self.0)).unwrap().to_string_lossy().into_owned()
    }

    /// All its descriptor numbers.
    pub fn numbers(&self) -> Vec<i32> {
        criu_kernel::proc::ProcDir::open(Pid::from_raw(self.0)).unwrap().descriptors().unwrap()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
        let _ = waitpid(Pid::from_raw(self.0), None);
    }
}

fn close_from(first: u32) {
    // SAFETY: the process is the test's own child, and about to open its own.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

fn clear_cloexec(number: i32) {
    // SAFETY: changes a flag of a descriptor of this process.
    unsafe { libc::fcntl(number, libc::F_SETFD, 0) };
}

/// Gives a descriptor of the present process a number for good.
pub fn keep(fd: impl Into<OwnedFd>, number: i32) {
    let fd = fd.into();
    if fd.as_raw_fd() != number {
        // SAFETY: the caller chose a number that nothing else uses.
        assert_eq!(unsafe { libc::dup3(fd.as_raw_fd(), number, 0) }, number);
        return;
    }
    clear_cloexec(number);
    std::mem::forget(fd);
}

/// Dumps the tables of stopped processes.
pub fn dump(table: &Table, pids: &[i32], options: &Options, fate: Fate) -> Result<MemoryStore, BoxError> {
    let held: Vec<(OwnedFd, OwnedFd)> = pids
        .iter()
        .map(|&pid| {
            let proc = File::open(format!("/proc/{pid}")).unwrap();
            (criu_kernel::pidfd::open(Pid::from_raw(pid), Default::default()).unwrap(), proc.into())
        })
        .collect();
    let tasks = pids.iter().zip(&held).enumerate().map(|(index, (&pid, (pidfd, proc)))| FrozenTask {
        index,
        parent: index.checked_sub(1),
        pid,
        ns_pid: pid,
        ns_pgid: pid,
        ns_sid: pid,
        life: Life::Alive,
        pidfd: pidfd.as_fd(),
        proc: proc.as_fd(),
        threads: vec![FrozenThread {
            tid: pid,
            ns_tid: pid,
            regs: Vec::new(),
            xstate: Vec::new(),
            sigmask: 0,
            pending: Vec::new(),
            rseq: None,
            robust_list: (0, 0),
        }],
        pending: Vec::new(),
    });
    let tree = FrozenTree { tasks: tasks.collect() };
    let store = MemoryStore::new();
    let context = DumpContext { options, store: &store };
    let mut dump = table.dump(&tree, &context)?;
    let mut records = RecordSet::new();
    dump.finish(&mut records)?;
    records.write_to(&store)?;
    dump.commit(fate)?;
    Ok(store)
}

/// Only one test at a time plays the coordinator: its descriptors come to all that it forks.
static COORDINATOR: Mutex<()> = Mutex::new(());

struct Placed(Vec<OwnedFd>);

impl Place for Placed {
    fn place(&mut self, number: i32, fd: OwnedFd, cloexec: bool) -> io::Result<()> {
        let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
        if fd.as_raw_fd() == number {
            nix::fcntl::fcntl(
                &fd,
                nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::from_bits_retain(i32::from(cloexec))),
            )?;
            self.0.push(fd);
            return Ok(());
        }
        // SAFETY: the number was reserved.
        self.0.push(unsafe {
            OwnedFd::from_raw_fd(nix::errno::Errno::result(libc::dup3(fd.as_raw_fd(), number, flags))?)
        });
        Ok(())
    }
}

/// Restores the tables of `pids` into new processes, which stop afterwards.
pub fn restore(
    table: &Table,
    pids: &[i32],
    store: &MemoryStore,
    options: &Options,
) -> Result<Vec<Stopped>, BoxError> {
    let _alone: MutexGuard<'_, ()> = COORDINATOR.lock().unwrap_or_else(PoisonError::into_inner);
    let tasks = pids.iter().enumerate().map(|(index, &pid)| BuiltTask {
        index,
        parent: index.checked_sub(1),
        pstree: proto::PstreeEntry { pid: pid as u32, threads: vec![pid as u32], ..Default::default() },
        life: Life::Alive,
        core: proto::CoreEntry::default(),
        threads: Vec::new(),
        ids: Some(proto::TaskKobjIdsEntry { files_id: index as u32 + 1, ..Default::default() }),
    });
    let tree = BuiltTree { tasks: tasks.collect() };
    let numbers = Mutex::new(Numbers::default());
    let context = RestoreContext { options, store, numbers: &numbers };
    let mut restore = table.restore(&tree, &context)?;
    for number in criu_kernel::proc::ProcDir::current()?.descriptors()? {
        numbers.lock().unwrap().occupy(number);
    }
    let mut scripts = Vec::new();
    for task in &tree.tasks {
        let mut script = Script::new("test");
        for stage in Stage::ALL {
            restore.emit(stage, task, &mut script)?;
        }
        scripts.push(script);
    }
    let mut placed = Placed(Vec::new());
    restore.prepare(&mut placed)?;
    let tasks = scripts.iter().map(run).collect();
    restore.finish()?;
    Ok(tasks)
}

/// Runs the steps in a new process, as the interpreter of the real restore would.
fn run(script: &Script) -> Stopped {
    let mut memory = vec![0u8; script.size() + 64];
    let skip = memory.as_ptr().align_offset(64);
    let base = memory[skip..].as_ptr() as u64;
    script.encode(base, &mut memory[skip..]);
    let memory = &mut memory[skip..];
    // SAFETY: the child only issues system calls.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            for index in 0..script.steps().len() {
                // SAFETY: an encoded script is an array of instructions.
                let instr = unsafe { &*memory.as_ptr().cast::<wire::Instr>().add(index) };
                let mut args = instr.args;
                for (i, arg) in args.iter_mut().enumerate() {
                    if instr.loads & 1 << i != 0 {
                        // SAFETY: the encoder says that the argument is the address of a result.
                        *arg = unsafe { *(*arg as *const u64) };
                    }
                }
                let [a, b, c, d, e, f] = args;
                // SAFETY: what the steps do is what is tested.
                let mut ret = unsafe { libc::syscall(instr.nr.into(), a, b, c, d, e, f) };
                if ret == -1 {
                    ret = -i64::from(nix::errno::Errno::last_raw());
                }
                instr.ret.store(ret, std::sync::atomic::Ordering::Relaxed);
                let fine = match instr.check {
                    wire::CHECK_OK => !(-4095..0).contains(&ret),
                    wire::CHECK_EQ => ret == instr.expect,
                    _ => true,
                };
                if !fine {
                    // SAFETY: leaves without running what belongs to the parent.
                    unsafe { libc::_exit(index as i32) }
                }
            }
            nix::sys::signal::raise(Signal::SIGSTOP).unwrap();
            // SAFETY: leaves without running what belongs to the parent.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, Some(WaitPidFlag::WUNTRACED)).unwrap();
            if let WaitStatus::Exited(_, index) = status {
                panic!("step {index} failed: {:?}", script.steps()[index as usize]);
            }
            assert!(matches!(status, WaitStatus::Stopped(..)), "{status:?}");
            Stopped(child.as_raw())
        }
    }
}

/// Dumps a process, kills it, and restores it elsewhere.
pub fn round_trip(task: Stopped, options: &Options) -> Stopped {
    let table = table();
    let store = dump(&table, &[task.0], options, Fate::Kill).unwrap();
    let pid = task.0;
    drop(task);
    restore(&table, &[pid], &store, options).unwrap().remove(0)
}
