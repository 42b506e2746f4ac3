//! Compiles one script for each thread of the tree.

use super::pids::Spare;
use super::space::{Space, TASK_END};
use crate::{Error, Resources, Result};
use criu_kernel::clone3::CloneArgs;
use criu_kernel::plain::as_bytes;
use criu_parasite::ThreadSlot;
use criu_parasite::area::Layout;
use criu_resource::{Births, BuiltTask, BuiltTree, Helper, Life, RestoreContext, Stage, TreeRestore};
use criu_script::{Check, Script, wire};

/// What becomes of the thread that runs a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The main thread of a task that lives on.
    Main,
    /// Another thread of such a task.
    Thread,
    /// A process that ends by itself: a zombie, a helper.
    Brief,
}

/// One thread of the restored tree, or of a helper.
pub(crate) struct Job {
    /// Position of the task; of the one that it helps.
    pub task: usize,
    pub kind: Kind,
    pub tid: i32,
    pub slot: ThreadSlot,
    pub script: Script,
}

/// All that is run.
pub(crate) struct Program {
    /// The root's main thread comes first.
    pub jobs: Vec<Job>,
    pub layout: Layout,
    pub restraint: Option<Restraint>,
}

/// Tasks that take system calls from themselves: they wait until criu-rs traces them, which suspends that.
#[derive(Clone)]
pub(crate) struct Restraint {
    /// Their positions.
    pub tasks: Vec<usize>,
    /// How many threads they have.
    pub threads: u32,
    /// The barrier word where these threads arrive.
    pub ready: u64,
    /// The one they wait for.
    pub traced: u64,
}

/// A tree restore in progress, with its resource's name.
pub(crate) type Part<'t> = (&'static str, Box<dyn TreeRestore + 't>);

const THREAD_FLAGS: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;

struct Compiler<'a, 't> {
    tree: &'a BuiltTree,
    resources: Resources<'a>,
    context: &'a RestoreContext<'a>,
    births: Vec<Births>,
    space: &'a Space,
    parts: &'a mut Vec<Part<'t>>,
    slots: Vec<Vec<ThreadSlot>>,
    layout: Layout,
    born: u64,
    /// How many processes arrive at `born`.
    all: usize,
    /// Where tasks arrive that have joined their group; none where nobody waits for that.
    joined: Option<u64>,
    state: u64,
    /// How many threads arrive at `state`.
    threads: u32,
    restraint: Option<Restraint>,
    helpers: Vec<Job>,
    /// Made where it is needed.
    spare: Option<Spare>,
}

pub(crate) fn compile<'t>(
    tree: &BuiltTree,
    resources: Resources<'_>,
    context: &RestoreContext<'_>,
    space: &Space,
    parts: &mut Vec<Part<'t>>,
) -> Result<Program> {
    let mut layout = Layout::new(space.area);
    let born = layout.word();
    let state = layout.word();
    let count = |task: &BuiltTask| 1 + task.threads.len();
    let slots = tree.tasks.iter().map(|task| (0..count(task)).map(|_| layout.thread()).collect()).collect();
    let births = resources.family.births(tree).map_err(Error::resource("sessions"))?;
    let helpers = births.iter().map(|births| count_helpers(&births.helpers)).sum::<usize>();
    let joined = (helpers > 0).then(|| layout.word());
    let restraint = restraint(tree, parts, &mut layout);
    let living = tree.tasks.iter().filter(|task| !matches!(task.life, Life::Zombie(_)));
    let mut compiler = Compiler {
        tree,
        resources,
        context,
        births,
        space,
        parts,
        slots,
        layout,
        born,
        all: tree.tasks.len() + helpers,
        joined,
        state,
        threads: living.map(|task| count(task) as u32).sum(),
        restraint,
        helpers: Vec::new(),
        spare: None,
    };
    let mut jobs = Vec::new();
    for task in &tree.tasks {
        compiler.task(task, &mut jobs)?;
    }
    jobs.append(&mut compiler.helpers);
    Ok(Program { jobs, layout: compiler.layout, restraint: compiler.restraint })
}

fn count_helpers(helpers: &[Helper]) -> usize {
    helpers.iter().map(|helper| 1 + count_helpers(&helper.helpers)).sum()
}

fn restraint(tree: &BuiltTree, parts: &[Part<'_>], layout: &mut Layout) -> Option<Restraint> {
    let restrained = |task: &&BuiltTask| parts.iter().any(|(_, part)| part.restrains(task));
    let tasks: Vec<&BuiltTask> = tree.tasks.iter().filter(restrained).collect();
    let threads = tasks.iter().map(|task| 1 + task.threads.len() as u32).sum();
    let tasks: Vec<usize> = tasks.iter().map(|task| task.index).collect();
    (!tasks.is_empty()).then(|| Restraint { tasks, threads, ready: layout.word(), traced: layout.word() })
}

impl Compiler<'_, '_> {
    fn task(&mut self, task: &BuiltTask, jobs: &mut Vec<Job>) -> Result<()> {
        let slots = self.slots[task.index].clone();
        let mut script = Script::new("restore");
        if task.parent.is_none() {
            self.empty_address_space(&mut script);
        }
        if let Life::Zombie(status) = task.life {
            self.family(task, &mut script)?;
            self.stage(Stage::Born, task, &mut script)?;
            self.dismiss(task, &mut script);
            die(task, status, &mut script);
            let tid = task.pid() as i32;
            jobs.push(Job { task: task.index, kind: Kind::Brief, tid, slot: slots[0], script });
            return Ok(());
        }
        self.stage(Stage::Inherit, task, &mut script)?;
        self.family(task, &mut script)?;
        self.stage(Stage::Born, task, &mut script)?;
        self.dismiss(task, &mut script);
        self.stage(Stage::Files, task, &mut script)?;
        self.stage(Stage::Memory, task, &mut script)?;
        self.fill(task, &mut script)?;
        self.stage(Stage::Settle, task, &mut script)?;
        script.set_what("restore");
        for (&tid, &slot) in task.pstree.threads.iter().zip(&slots).skip(1) {
            self.clone(tid, slot, THREAD_FLAGS as u64, 0, &mut script);
        }
        self.reap_later(task, &mut script);
        self.await_tracer(task, &mut script);
        self.stage(Stage::State, task, &mut script)?;
        self.thread_stages(task, 0, &mut script)?;
        self.stage(Stage::Last, task, &mut script)?;
        self.thread_last(task, 0, &mut script)?;
        let tid = task.pid() as i32;
        jobs.push(Job { task: task.index, kind: Kind::Main, tid, slot: slots[0], script });

        for (thread, &slot) in slots.iter().enumerate().skip(1) {
            let mut script = Script::new("restore");
            self.await_tracer(task, &mut script);
            self.thread_stages(task, thread, &mut script)?;
            self.thread_last(task, thread, &mut script)?;
            let tid = task.pstree.threads[thread] as i32;
            jobs.push(Job { task: task.index, kind: Kind::Thread, tid, slot, script });
        }
        Ok(())
    }

    /// Fills the memory, with the help of a thread of its own where a resource has work for one.
    fn fill(&mut self, task: &BuiltTask, script: &mut Script) -> Result<()> {
        let mut aside = Script::new("restore");
        for (name, part) in self.parts.iter_mut() {
            aside.set_what(name);
            part.aside(task, &mut aside).map_err(Error::of_task(name, task.pid() as i32))?;
        }
        if aside.steps().is_empty() {
            return self.stage(Stage::Fill, task, script);
        }
        let tid = self.spare.get_or_insert_with(|| Spare::new(self.tree)).take()?;
        let (slot, gone) = (self.layout.thread(), self.layout.word());
        script.set_what("restore");
        let kernel_tells = (libc::CLONE_PARENT_SETTID | libc::CLONE_CHILD_CLEARTID) as u64;
        let args = CloneArgs {
            flags: THREAD_FLAGS as u64 | kernel_tells,
            parent_tid: gone,
            child_tid: gone,
            ..Default::default()
        };
        self.clone_with(tid, slot, args, script);
        self.stage(Stage::Fill, task, script)?;
        script.set_what("restore");
        // The kernel clears the word once the thread will run no more code of its own, and wakes.
        let args = [gone.into(), libc::FUTEX_WAIT.into(), tid.into(), 0.into()];
        script.syscall(libc::SYS_futex, args).check(Check::Any);
        aside.set_what("restore");
        aside.syscall(libc::SYS_exit, [0.into()]);
        self.helpers.push(Job { task: task.index, kind: Kind::Brief, tid: tid as i32, slot, script: aside });
        Ok(())
    }

    /// The root is a copy of criu-rs: it drops all but the control area, and parks the vDSO.
    fn empty_address_space(&self, script: &mut Script) {
        let space = self.space;
        for part in &space.vdso {
            let (len, to) = (part.end - part.start, space.parked(part));
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            script
                .syscall(
                    libc::SYS_mremap,
                    [part.start.into(), len.into(), len.into(), flags.into(), to.into()],
                )
                .check(Check::Eq(to as i64));
        }
        script.syscall(libc::SYS_munmap, [0.into(), space.area.into()]);
        script.syscall(libc::SYS_munmap, [space.end().into(), (TASK_END - space.end()).into()]);
    }

    /// Clones the children and starts a session or group, in the planned order; then waits for everybody.
    fn family(&mut self, task: &BuiltTask, script: &mut Script) -> Result<()> {
        let births = self.births[task.index].clone();
        script.set_what("process tree");
        self.clone_tasks(&births.before_setsid, false, script);
        if births.setsid {
            script.syscall(libc::SYS_setsid, []);
        }
        if births.setpgid {
            script.syscall(libc::SYS_setpgid, [0.into(), 0.into()]);
        }
        self.stage(Stage::Session, task, script)?;
        script.set_what("process tree");
        self.clone_tasks(&births.siblings, true, script);
        self.clone_helpers(&births.helpers, task, script);
        self.clone_tasks(&births.after, false, script);
        script.arrive(self.born, self.all as u32);
        script.wait(self.born, self.all as u32);
        Ok(())
    }

    /// Clones tasks as children, or as siblings.
    fn clone_tasks(&mut self, tasks: &[usize], siblings: bool, script: &mut Script) {
        for &task in tasks {
            let (pid, slot) = (self.tree.tasks[task].pid(), self.slots[task][0]);
            match siblings {
                false => self.clone(pid, slot, self.in_common(task), self.exit_signal(task), script),
                // A sibling's end is told by the signal that tells the caller's.
                true => self.clone(pid, slot, libc::CLONE_PARENT as u64, 0, script),
            }
        }
    }

    /// What tells a task's parent that it ended.
    fn exit_signal(&self, task: usize) -> u64 {
        let told = self.tree.tasks[task].tc().and_then(|tc| tc.exit_signal);
        told.map_or(libc::SIGCHLD as u64, u64::from)
    }

    /// What a task has in common with its parent: the descriptor table, if any.
    fn in_common(&self, task: usize) -> u64 {
        let files = |index: usize| {
            let task = &self.tree.tasks[index];
            task.ids.filter(|_| !matches!(task.life, Life::Zombie(_))).map(|ids| ids.files_id)
        };
        let parents = self.tree.tasks[task].parent.and_then(files);
        if parents.is_some() && parents == files(task) { libc::CLONE_FILES as u64 } else { 0 }
    }

    fn clone_helpers(&mut self, helpers: &[Helper], of: &BuiltTask, script: &mut Script) {
        for helper in helpers {
            let slot = self.layout.thread();
            self.clone(helper.pid, slot, 0, libc::SIGCHLD as u64, script);
            let own = self.helper(helper, of);
            let tid = helper.pid as i32;
            self.helpers.push(Job { task: of.index, kind: Kind::Brief, tid, slot, script: own });
        }
    }

    /// Leads a session or group until everybody has joined.
    fn helper(&mut self, helper: &Helper, of: &BuiltTask) -> Script {
        let mut script = Script::new("process tree");
        match helper.session {
            true => script.syscall(libc::SYS_setsid, []),
            false => script.syscall(libc::SYS_setpgid, [0.into(), 0.into()]),
        };
        self.clone_tasks(&helper.siblings, true, &mut script);
        self.clone_helpers(&helper.helpers, of, &mut script);
        script.arrive(self.born, self.all as u32);
        if let Some(joined) = self.joined {
            script.wait(joined, self.tree.tasks.len() as u32);
        }
        reap(&helper.helpers, &mut script);
        script.syscall(libc::SYS_exit_group, [0.into()]);
        script
    }

    /// Tells helpers that the task has joined its group, and waits for the end of its own.
    fn dismiss(&self, task: &BuiltTask, script: &mut Script) {
        if let Some(joined) = self.joined {
            script.set_what("process tree");
            script.arrive(joined, self.tree.tasks.len() as u32);
            reap(&self.births[task.index].helpers, script);
        }
    }

    /// Waits for criu-rs where the task will take system calls from itself.
    fn await_tracer(&self, task: &BuiltTask, script: &mut Script) {
        if let Some(restraint) = self.restraint.as_ref().filter(|r| r.tasks.contains(&task.index)) {
            script.set_what("restore");
            script.arrive(restraint.ready, restraint.threads);
            script.wait(restraint.traced, 1);
        }
    }

    fn clone(&self, tid: u32, slot: ThreadSlot, flags: u64, exit_signal: u64, script: &mut Script) {
        self.clone_with(tid, slot, CloneArgs { flags, exit_signal, ..Default::default() }, script);
    }

    fn clone_with(&self, tid: u32, slot: ThreadSlot, args: CloneArgs, script: &mut Script) {
        let ids = script.bytes(&tid.to_ne_bytes());
        let args = CloneArgs { set_tid_size: 1, ..args };
        let place = script.bytes(as_bytes(&args));
        script.point(place, std::mem::offset_of!(CloneArgs, set_tid), ids);
        let size = place.len();
        let args = [place.into(), size.into(), self.layout.tcb(slot).into()];
        script.push(wire::OP_CLONE, libc::SYS_clone3 as u32, args).check(Check::Eq(i64::from(tid)));
    }

    /// Waits until children that are to be zombies are, and swallows the signals of their deaths.
    fn reap_later(&self, task: &BuiltTask, script: &mut Script) {
        let dead =
            |child: &&BuiltTask| child.parent == Some(task.index) && matches!(child.life, Life::Zombie(_));
        let mut any = !self.births[task.index].helpers.is_empty();
        for child in self.tree.tasks.iter().filter(dead) {
            any = true;
            let info = script.zeroed(128);
            let flags = libc::WEXITED | libc::WNOWAIT | libc::__WALL;
            let args = [libc::P_PID.into(), child.pid().into(), info.into(), flags.into(), 0.into()];
            script.syscall(libc::SYS_waitid, args);
        }
        if any {
            let set = script.words(&[1 << (libc::SIGCHLD - 1)]);
            let now = script.words(&[0, 0]);
            let args = [set.into(), 0.into(), now.into(), 8.into()];
            script.syscall(libc::SYS_rt_sigtimedwait, args).check(Check::Any);
        }
    }

    fn stage(&mut self, stage: Stage, task: &BuiltTask, script: &mut Script) -> Result<()> {
        let pid = task.pid() as i32;
        for (name, part) in self.parts.iter_mut() {
            script.set_what(name);
            part.emit(stage, task, script).map_err(Error::of_task(name, pid))?;
        }
        for state in self.resources.task {
            script.set_what(state.name());
            state.restore(stage, task, self.context, script).map_err(Error::of_task(state.name(), pid))?;
        }
        Ok(())
    }

    fn thread_stages(&mut self, task: &BuiltTask, thread: usize, script: &mut Script) -> Result<()> {
        self.thread_stage(Stage::State, task, thread, script)?;
        script.set_what("restore");
        script.arrive(self.state, self.threads);
        script.wait(self.state, self.threads);
        Ok(())
    }

    fn thread_last(&mut self, task: &BuiltTask, thread: usize, script: &mut Script) -> Result<()> {
        self.thread_stage(Stage::Last, task, thread, script)
    }

    fn thread_stage(
        &mut self,
        stage: Stage,
        task: &BuiltTask,
        thread: usize,
        script: &mut Script,
    ) -> Result<()> {
        if stage == Stage::State {
            for (name, part) in self.parts.iter_mut() {
                script.set_what(name);
                let pid = task.pid() as i32;
                part.emit_thread(task, thread, script).map_err(Error::of_task(name, pid))?;
            }
        }
        for state in self.resources.thread {
            script.set_what(state.name());
            state
                .restore(stage, task, thread, script)
                .map_err(Error::of_task(state.name(), task.pid() as i32))?;
        }
        Ok(())
    }
}

/// Waits for the end of helpers.
fn reap(helpers: &[Helper], script: &mut Script) {
    for helper in helpers {
        let args = [helper.pid.into(), 0.into(), 0.into(), 0.into()];
        script.syscall(libc::SYS_wait4, args).check(Check::Eq(i64::from(helper.pid)));
    }
}

/// Ends with the name and wait status of a zombie.
fn die(task: &BuiltTask, status: i32, script: &mut Script) {
    script.set_what("zombie");
    let name = script.c_string(task.tc().map_or(b"", |tc| &tc.comm));
    script.syscall(libc::SYS_prctl, [libc::PR_SET_NAME.into(), name.into()]);
    let signal = status & 0x7f;
    if signal == 0 {
        script.syscall(libc::SYS_exit_group, [((status >> 8) & 0xff).into()]);
        return;
    }
    // No core file, the default action, and then the signal itself.
    let none = script.words(&[0, 0]);
    script.syscall(libc::SYS_setrlimit, [(libc::RLIMIT_CORE as i32).into(), none.into()]);
    let default = script.zeroed(32);
    let args = [signal.into(), default.into(), 0.into(), 8.into()];
    script.syscall(libc::SYS_rt_sigaction, args).check(Check::Any); // SIGKILL has no other action
    let nothing = script.words(&[0]);
    let args = [libc::SIG_SETMASK.into(), nothing.into(), 0.into(), 8.into()];
    script.syscall(libc::SYS_rt_sigprocmask, args);
    let pid = script.syscall(libc::SYS_getpid, []).id();
    script.syscall(libc::SYS_kill, [pid.into(), signal.into()]);
    // Waits for the signal to arrive.
    script.syscall(libc::SYS_pause, []);
}
