//! Dumps and restores descriptors of real processes, as a descriptor table would.
#![allow(dead_code)]

use criu_images::{Image, MemoryStore, Record, RecordSet, StoreExt, proto};
use criu_kernel::clone3::{CloneArgs, clone3};
use criu_resource::{
    BoxError, BuiltTask, BuiltTree, Descriptor, DumpContext, Fate, FileKind, FrozenTask, FrozenThread,
    FrozenTree, Life, Numbers, Options, Place, RestoreContext, Stage, TreeState,
};
use criu_script::{Script, wire};
use criu_tty::Terminals;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::fstat;
use nix::unistd::{Pid, getpgid, getsid};
use proto::{FownEntry, PstreeEntry};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Numbers of ptys are given out to everybody: each test has a devpts, and by that numbers, of its own. One test
/// at a time, since descriptors are the whole process's.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
    let options = "newinstance,ptmxmode=0666,mode=0620";
    mount(Some("devpts"), "/dev/pts", Some("devpts"), MsFlags::empty(), Some(options)).unwrap();
    mount(Some("/dev/pts/ptmx"), "/dev/ptmx", nothing, MsFlags::MS_BIND, nothing).unwrap();
    guard
}

/// A frozen task of a dump.
pub struct Task {
    pub pid: i32,
    pidfd: OwnedFd,
    proc: OwnedFd,
}

impl Task {
    pub fn new(pid: i32) -> Task {
        Task {
            pid,
            pidfd: criu_kernel::pidfd::open(Pid::from_raw(pid), Default::default()).unwrap(),
            proc: File::open(format!("/proc/{pid}")).unwrap().into(),
        }
    }

    pub fn fetch(&self, number: i32) -> OwnedFd {
        criu_kernel::pidfd::getfd(self.pidfd.as_fd(), number).unwrap()
    }
}

fn frozen(tasks: &[Task]) -> FrozenTree<'_> {
    let tasks = tasks.iter().enumerate().map(|(index, task)| FrozenTask {
        index,
        parent: index.checked_sub(1),
        pid: task.pid,
        ns_pid: task.pid,
        ns_pgid: getpgid(Some(Pid::from_raw(task.pid))).unwrap().as_raw(),
        ns_sid: getsid(Some(Pid::from_raw(task.pid))).unwrap().as_raw(),
        life: Life::Alive,
        pidfd: task.pidfd.as_fd(),
        proc: task.proc.as_fd(),
        threads: vec![FrozenThread {
            tid: task.pid,
            ns_tid: task.pid,
            regs: Vec::new(),
            xstate: Vec::new(),
            sigmask: 0,
            pending: Vec::new(),
            rseq: None,
            robust_list: (0, 0),
        }],
        pending: Vec::new(),
    });
    FrozenTree { tasks: tasks.collect() }
}

/// A description: its id, a descriptor of it, who has it where.
pub struct Open<'a>(pub u32, pub BorrowedFd<'a>, pub i32, pub i32);

fn with_descriptor<T>(open: &Open<'_>, work: impl FnOnce(&Descriptor<'_>) -> T) -> T {
    let Open(id, fd, pid, number) = *open;
    let link = std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
    let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL).unwrap() as u32;
    let stat = fstat(fd).unwrap();
    work(&Descriptor {
        fd,
        id,
        pid,
        number,
        link: &link,
        pos: 0,
        flags,
        mnt_id: 0,
        extra: "",
        dev: stat.st_dev,
        ino: stat.st_ino,
        rdev: stat.st_rdev,
        mode: stat.st_mode,
        size: 0,
        nlink: stat.st_nlink,
        fown: FownEntry { uid: 0, euid: 0, signum: 0, pid_type: 0, pid: 0 },
    })
}

/// Dumps descriptions of tasks.
pub fn dump(
    tasks: &[Task],
    open: &[Open<'_>],
    options: &Options,
    fate: Fate,
) -> Result<MemoryStore, BoxError> {
    dump_with(&Terminals::new(), tasks, open, options, fate)
}

pub fn dump_with(
    terminals: &Terminals,
    tasks: &[Task],
    open: &[Open<'_>],
    options: &Options,
    fate: Fate,
) -> Result<MemoryStore, BoxError> {
    let store = MemoryStore::new();
    let context = DumpContext { options, store: &store };
    let tree = frozen(tasks);
    let mut sessions = TreeState::dump(terminals, &tree, &context)?;
    let mut files = FileKind::dump(terminals, &context);
    let mut records = RecordSet::new();
    for file in open {
        with_descriptor(file, |d| {
            assert!(terminals.claims(d), "{}", d.link.display());
            files.lock(d)
        })?;
    }
    for file in open {
        let entry = with_descriptor(file, |d| files.entry(d, &mut records))?;
        records.push(Record::new(Image::Files, 0, &entry));
    }
    sessions.finish(&mut records)?;
    files.finish(&|_, _| None, &mut records)?;
    records.write_to(&store)?;
    sessions.commit(fate)?;
    files.commit(fate)?;
    Ok(store)
}

/// The entries about terminals.
pub fn infos(store: &MemoryStore) -> Vec<proto::TtyInfoEntry> {
    store.read_image(Image::TtyInfo, 0).unwrap()
}

/// A task of the tree to be built: pid, session, group.
pub fn built(tasks: &[(i32, i32, i32)]) -> BuiltTree {
    let tasks = tasks.iter().enumerate().map(|(index, &(pid, sid, pgid))| BuiltTask {
        index,
        parent: index.checked_sub(1),
        pstree: PstreeEntry {
            pid: pid as u32,
            sid: sid as u32,
            pgid: pgid as u32,
            threads: vec![pid as u32],
            ..Default::default()
        },
        life: Life::Alive,
        core: proto::CoreEntry::default(),
        threads: Vec::new(),
        ids: None,
    });
    BuiltTree { tasks: tasks.collect() }
}

struct Placed(Vec<OwnedFd>);

impl Place for Placed {
    fn place(&mut self, number: i32, fd: OwnedFd, _: bool) -> std::io::Result<()> {
        // SAFETY: the number was reserved, and nobody else owns the result.
        self.0.push(unsafe {
            OwnedFd::from_raw_fd(Errno::result(libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC))?)
        });
        Ok(())
    }
}

/// What a restore gives: descriptions by id, and what became of `work` between the scripts and the end.
pub type Files = BTreeMap<u32, OwnedFd>;

/// Restores all terminals of the images; `work` gets the scripts of the tasks, to run them.
pub fn restore<T>(
    terminals: &Terminals,
    store: &MemoryStore,
    tree: &BuiltTree,
    options: &Options,
    work: impl FnOnce(&[Script]) -> T,
) -> Result<(Files, T), BoxError> {
    let numbers = Mutex::new(Numbers::default());
    numbers.lock().unwrap().claim(200);
    let context = RestoreContext { options, store, numbers: &numbers };
    let mut sessions = TreeState::restore(terminals, tree, &context)?;
    let mut kind = FileKind::restore(terminals, &context)?;
    let entries: Vec<proto::FileEntry> = store.read_image(Image::Files, 0)?;
    let entries: Vec<_> = entries.into_iter().filter(|entry| entry.tty.is_some()).collect();
    for entry in &entries {
        kind.plan(entry)?;
    }
    let mut scripts = Vec::new();
    for task in &tree.tasks {
        let mut script = Script::new("test");
        for stage in Stage::ALL {
            sessions.emit(stage, task, &mut script)?;
        }
        scripts.push(script);
    }
    let mut placed = Placed(Vec::new());
    sessions.prepare(&mut placed)?;
    let mut files = Files::new();
    for entry in &entries {
        files.insert(entry.id, kind.open(entry)?);
    }
    kind.connect(&|id| files.get(&id).and_then(|fd| fd.try_clone().ok()))?;
    let result = work(&scripts);
    sessions.finish()?;
    kind.finish()?;
    Ok((files, result))
}

/// Runs the steps in the present process; returns the step that failed.
pub fn run(script: &Script) -> Result<(), (usize, i64)> {
    let mut memory = vec![0u8; script.size() + 64];
    let skip = memory.as_ptr().align_offset(64);
    let base = memory[skip..].as_ptr() as u64;
    script.encode(base, &mut memory[skip..]);
    for index in 0..script.steps().len() {
        // SAFETY: an encoded script is an array of instructions.
        let instr = unsafe { &*memory[skip..].as_ptr().cast::<wire::Instr>().add(index) };
        let [a, b, c, d, e, f] = instr.args;
        // SAFETY: what the steps do is what is tested.
        let mut ret = unsafe { libc::syscall(instr.nr.into(), a, b, c, d, e, f) };
        if ret == -1 {
            ret = -i64::from(Errno::last_raw());
        }
        if instr.check == wire::CHECK_OK && (-4095..0).contains(&ret) {
            return Err((index, ret));
        }
    }
    Ok(())
}

/// Starts a process, with this pid if given, that does `work` and then waits to be killed when dropped.
pub struct Child(pub i32);

impl Child {
    pub fn start(pid: Option<i32>, work: impl FnOnce()) -> Child {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let pids = [pid.unwrap_or(0)];
        let mut args = CloneArgs { exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
        if pid.is_some() {
            (args.set_tid, args.set_tid_size) = (pids.as_ptr() as u64, 1);
        }
        // SAFETY: the tests that run at the same time hold no lock that the child's work needs for long.
        match unsafe { clone3(&args) }.unwrap() {
            None => {
                drop(reader);
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
                let _ = nix::unistd::write(&writer, &[u8::from(done)]);
                drop(writer);
                loop {
                    nix::unistd::pause();
                }
            }
            Some(child) => {
                drop(writer);
                let mut done = [0];
                let length = nix::unistd::read(&reader, &mut done).unwrap();
                let child = Child(child.as_raw());
                assert_eq!((length, done), (1, [1]), "the child's own checks");
                child
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(Pid::from_raw(self.0), nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(Pid::from_raw(self.0), None);
    }
}
