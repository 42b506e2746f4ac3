//! The restore: read, compile, prepare, run, finish.

mod compile;
mod pids;
mod place;
mod read;
mod run;
mod space;

use crate::hooks::{Action, Hooks, inform, notify};
use crate::stages::Stages;
use crate::{Error, Resources, RestoreStats, Result, steps};
use compile::{Part, Program};
use criu_images::Store;
use criu_resource::{BuiltTree, Numbers, Options, RestoreContext};
use place::Placed;
use run::{Patience, Run};
use space::Space;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A restored tree.
#[derive(Debug)]
pub struct Restored {
    /// The root task's pid.
    pub root: i32,
    /// What it took.
    pub stats: RestoreStats,
}

/// Where the parts of criu-rs's vDSO wait for their places: name, address, length.
pub type ParkVdso<'a> = dyn Fn(&[(String, u64, u64)]) + 'a;

/// Restores the tree that `store` holds.
///
/// Gives up when no task gets further for `timeout`.
///
/// Nothing is created before all images are read and checked. When a later step fails, every task made so
/// far is killed; the images stay as they are.
pub fn restore(
    options: &Options,
    resources: Resources<'_>,
    park: &ParkVdso<'_>,
    store: &dyn Store,
    timeout: Duration,
    hooks: &mut dyn Hooks,
) -> Result<Restored> {
    let start = Instant::now();
    let mut stages = Stages::start("restore");
    let tree = read(options, resources, store)?;
    stages.done("tree read");
    let root = tree.tasks[0].pid() as i32;
    let numbers = Mutex::new(Numbers::default());
    let context = RestoreContext { options, store, numbers: &numbers };
    let mut parts = begin(&tree, resources, &context)?;
    stages.done("images read");
    let (space, program) = plan(&tree, resources, &context, park, &mut parts)?;
    tracing::info!("restore: {} tasks, {} threads compiled", tree.tasks.len(), program.jobs.len());
    stages.done("scripts compiled");

    // Whoever has the root's pid now is not the root.
    notify(hooks, Action::PreRestore, None)?;
    let mut placed = Placed::default();
    for (name, part) in &mut parts {
        part.prepare(&mut placed).map_err(Error::resource(name))?;
    }
    stages.done("files opened");
    let forking = Instant::now();
    let cancelled = || hooks.cancelled();
    let patience = Patience::new(timeout, &cancelled);
    let mut run = run_scripts(&tree, &program, options.restore_sibling, patience)?;
    let forking = forking.elapsed();
    stages.done("scripts run");
    // Not before all pids of the tree are taken: a script would find one of them free for itself.
    notify(hooks, Action::SetupNamespaces, Some(root))?;
    notify(hooks, Action::PostSetupNamespaces, Some(root))?;
    let complete = run.take_over(resources.registers, &space)?;
    stages.done("registers set");
    notify(hooks, Action::PostRestore, Some(root))?;
    notify(hooks, Action::NetworkUnlock, Some(root))?;
    notify(hooks, Action::PreResume, Some(root))?;
    // From here on peers hear from the tree, and its end would be a word to them.
    for (name, part) in &mut parts {
        part.finish().map_err(Error::resource(name))?;
    }
    complete.resume(options.leave_stopped)?;
    stages.done("let go");
    let stats = RestoreStats { forking, restore: start.elapsed() };
    inform(hooks, Action::PostResume, Some(root));
    Ok(Restored { root, stats })
}

/// Creates the tasks and runs their scripts; once more where a pid of the dumped tree is not free yet.
fn run_scripts<'a>(
    tree: &'a BuiltTree,
    program: &'a Program,
    sibling: bool,
    mut patience: Patience<'_>,
) -> Result<Run<'a>> {
    let deadline = Instant::now() + pids::PATIENCE;
    loop {
        let mut run = Run::load(tree, program)?;
        match run.go(sibling, &mut patience) {
            Err(Error::PidLingers { .. }) if Instant::now() < deadline => drop(run),
            result => return result.map(|()| run),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The scripts of a restore in words, without running any.
pub fn dry_run(
    options: &Options,
    resources: Resources<'_>,
    park: &ParkVdso<'_>,
    store: &dyn Store,
) -> Result<String> {
    let tree = read(options, resources, store)?;
    let numbers = Mutex::new(Numbers::default());
    let context = RestoreContext { options, store, numbers: &numbers };
    let mut parts = begin(&tree, resources, &context)?;
    let (_, program) = plan(&tree, resources, &context, park, &mut parts)?;
    let mut text = String::new();
    for job in &program.jobs {
        let _ = writeln!(text, "thread {} of pid {}:", job.tid, tree.tasks[job.task].pid());
        for step in job.script.steps() {
            let _ = writeln!(text, "  {:<14} {}", step.what, steps::describe(step));
        }
    }
    Ok(text)
}

fn read(options: &Options, resources: Resources<'_>, store: &dyn Store) -> Result<BuiltTree> {
    let mut tree = read::read(store)?;
    resources.family.adopt(&mut tree, options).map_err(Error::resource("sessions"))?;
    Ok(tree)
}

fn begin<'t>(
    tree: &'t BuiltTree,
    resources: Resources<'t>,
    context: &'t RestoreContext<'t>,
) -> Result<Vec<Part<'t>>> {
    let mut parts: Vec<Part<'t>> = Vec::with_capacity(resources.tree.len());
    for part in resources.tree {
        parts.push((part.name(), part.restore(tree, context).map_err(Error::resource(part.name()))?));
    }
    let own = criu_kernel::proc::ProcDir::current()?.descriptors()?;
    let mut numbers = context.numbers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    own.into_iter().for_each(|fd| numbers.occupy(fd));
    drop(numbers);
    Ok(parts)
}

fn plan(
    tree: &BuiltTree,
    resources: Resources<'_>,
    context: &RestoreContext<'_>,
    park: &ParkVdso<'_>,
    parts: &mut Vec<Part<'_>>,
) -> Result<(Space, Program)> {
    let occupied = parts.iter().flat_map(|(_, part)| part.occupied()).collect();
    let space = Space::find(occupied)?;
    let parked: Vec<_> = space
        .vdso
        .iter()
        .map(|part| (part.name.clone(), space.parked(part), part.end - part.start))
        .collect();
    park(&parked);
    let program = compile::compile(tree, resources, context, &space, parts)?;
    Ok((space, program))
}
