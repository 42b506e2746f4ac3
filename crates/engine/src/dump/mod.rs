//! The dump: freeze, ask, write, let go.

pub(crate) mod copies;
pub(crate) mod freeze;
mod namespaces;
pub(crate) mod scratch;
pub(crate) mod write;

pub(crate) use write as state;

use crate::aside::Aside;
use crate::hooks::{Action, Hooks, inform, notify};
use crate::stages::Stages;
use crate::{DumpStats, Error, Resources, Result};
use criu_images::{RecordSet, Store};
use criu_kernel::pidfd;
use criu_parasite::{Seized, Verdict};
use criu_resource::{
    Answer, BulkData, DumpContext, Fate, FrozenTask, FrozenTree, Options, Portion, TaskImages, ThreadAnswer,
    TreeDump,
};
use criu_script::{Outcome, Script};
use freeze::Stopped;
use scratch::Scratch;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A resource's dump in progress, with its name.
type Part<'t> = (&'static str, Box<dyn TreeDump + 't>);

/// With so many threads in a tree, asking them takes long enough to write something meanwhile.
const MANY: usize = 16;

/// Dumps the process tree below `root` into `store`. Its tasks have to stop within `timeout`.
///
/// Until the inventory, the last image, is written and the hooks agree, every failure leaves the tree running as
/// before and removes the images again. When this process dies, the tree runs on.
pub fn dump(
    root: i32,
    options: &Options,
    resources: Resources<'_>,
    store: &dyn Store,
    timeout: Duration,
    hooks: &mut dyn Hooks,
) -> Result<DumpStats> {
    notify(hooks, Action::PreDump, Some(root))?;
    // Images of an earlier dump must not be taken for this one's.
    criu_images::inventory::revoke(store)?;
    let scratch = Scratch::new(store);
    let mut stopped = freeze::freeze(root, timeout, &|| hooks.cancelled())?;
    let mut stats = DumpStats { freezing: stopped.since.elapsed(), ..DumpStats::default() };
    tracing::info!("dump: {} tasks frozen", stopped.held.len());

    let fate = match (options.leave_running, options.leave_stopped) {
        (_, true) => Fate::Stop,
        (true, _) => Fate::Run,
        _ => Fate::Kill,
    };
    let written = notify(hooks, Action::NetworkLock, Some(root))
        .and_then(|()| write_images(&mut stopped, options, resources, &scratch, hooks, fate, &mut stats));
    match (written, fate) {
        (written, _) if stopped.runs => written?,
        (Ok(()), Fate::Kill) => {}
        (Ok(()), _) => notify(hooks, Action::NetworkUnlock, Some(root))?,
        (Err(error), _) => {
            inform(hooks, Action::NetworkUnlock, Some(root));
            return Err(error);
        }
    }
    stats.counts.pages_written = scratch.pages()?;
    scratch.keep();
    if !stopped.runs {
        stats.frozen = let_go(stopped, fate)?;
    }
    Ok(stats)
}

fn write_images(
    stopped: &mut Stopped,
    options: &Options,
    resources: Resources<'_>,
    store: &dyn Store,
    hooks: &mut dyn Hooks,
    fate: Fate,
    stats: &mut DumpStats,
) -> Result<()> {
    let mut stages = Stages::start("dump");
    let mut tree = FrozenTree { tasks: freeze::describe(&stopped.held, &stopped.seized)? };
    leave_sequences(&mut tree, &mut stopped.seized, resources)?;
    stages.done("threads");
    let context = DumpContext { options, store };
    let mut parts = Vec::with_capacity(resources.tree.len());
    for part in resources.tree {
        let started = part.dump(&tree, &context).map_err(Error::resource(part.name()))?;
        parts.push((part.name(), started));
        stages.done(part.name());
    }
    // Behind what the descriptors say: of two refusals, the one about a connection is the more telling.
    resources.family.check(&tree, options).map_err(Error::resource("sessions"))?;

    let copying = options.copy_on_write && fate == Fate::Run;
    let early = if copying { Vec::new() } else { bulk(&parts, Portion::All) };
    let asked = ask_all(&tree, &mut stopped.seized, resources, &parts, &context, early, hooks)?;
    stats.memory = asked.bulk;
    stages.done("questions to the tasks, their images, bulk data");

    let copied = match copying {
        true => Some(copies::make(&tree, &mut stopped.seized, &parts, asked.subreaper)?),
        false => None,
    };
    if let Some(copied) = &copied {
        stages.done("copies");
        stats.memory = write_bulk(bulk(&parts, Portion::Without(&copied.pids())))?;
        stages.done("bulk data that is not copied");
    }

    let mut shared = RecordSet::new();
    for (name, part) in &mut parts {
        part.finish(&mut shared).map_err(Error::resource(name))?;
        stages.done(format_args!("{name}, end"));
    }
    write::write_shared(store, &tree, &shared)?;
    let root = tree.tasks[0].pid;
    if let Some(copied) = copied {
        let pids = copied.pids();
        let has_more = |(_, part): &Part<'_>| part.bulk(Portion::Of(&pids)).is_some();
        let (left, done): (Vec<_>, Vec<_>) = parts.into_iter().partition(has_more);
        for (name, part) in done {
            part.commit(fate).map_err(Error::resource(name))?;
        }
        notify(hooks, Action::NetworkUnlock, Some(root))?;
        stopped.runs = true;
        for seized in stopped.seized.drain(..).flatten() {
            seized.release(Verdict::Run)?;
        }
        stats.frozen = stopped.since.elapsed();
        stages.done("the tree runs on");
        stats.memory += write_bulk(bulk(&left, Portion::Of(&pids)))?;
        stages.done("bulk data from the copies");
        parts = left;
    }
    write::commit(store, root, options)?;
    stages.done("shared images");
    // Whoever carries the images away at this stage needs all of them.
    if let Err(error) = notify(hooks, Action::PostDump, Some(root)) {
        criu_images::inventory::revoke(store)?;
        return Err(error);
    }
    for (name, part) in parts {
        part.commit(fate).map_err(Error::resource(name))?;
    }
    stages.done("commit");
    Ok(())
}

/// What came of the questions to all tasks.
struct Asked {
    /// How long the bulk data took.
    bulk: Duration,
    /// A task that adopts the orphans of others.
    subreaper: Option<i32>,
}

/// Asks one task after the other, while other threads write bulk data and the answers, where that is worth a thread.
fn ask_all<'a>(
    tree: &'a FrozenTree<'a>,
    seized: &mut [Option<Seized>],
    resources: Resources<'a>,
    parts: &'a [Part<'_>],
    context: &'a DumpContext<'a>,
    bulk: Vec<(&'static str, BulkData<'a>)>,
    hooks: &dyn Hooks,
) -> Result<Asked> {
    let many = tree.tasks.iter().map(|task| task.threads.len()).sum::<usize>() >= MANY;
    thread::scope(|scope| {
        let bulk = Aside::start(scope, many, || write_bulk(bulk));
        let (answered, answers) = mpsc::channel::<(&FrozenTask<'_>, TaskImages)>();
        let images = Aside::start(scope, many, || {
            answers.into_iter().try_for_each(|(task, images)| write::write_task(context.store, task, images))
        });
        let mut subreaper = None;
        for (task, seized) in tree.tasks.iter().zip(seized) {
            if hooks.cancelled() {
                return Err(Error::Cancelled);
            }
            let mut collected = write::new_images(task)?;
            if let Some(held) = seized.take() {
                *seized = Some(ask(task, held, resources, parts, context, &mut collected)?);
            }
            if collected.core.tc.as_ref().is_some_and(|tc| tc.child_subreaper()) {
                subreaper = Some(task.pid);
            }
            if answered.send((task, collected)).is_err() {
                break; // the writer failed, and says why
            }
        }
        drop(answered);
        images.end()?;
        Ok(Asked { bulk: bulk.end()?, subreaper })
    })
}

/// A portion of the bulk data of all resources.
fn bulk<'a>(parts: &'a [Part<'_>], portion: Portion<'a>) -> Vec<(&'static str, BulkData<'a>)> {
    parts.iter().filter_map(|(name, part)| Some((*name, part.bulk(portion)?))).collect()
}

/// Writes bulk data; how long that took.
fn write_bulk(bulk: Vec<(&'static str, BulkData<'_>)>) -> Result<Duration> {
    let start = Instant::now();
    for (name, work) in bulk {
        work().map_err(Error::resource(name))?;
    }
    Ok(start.elapsed())
}

/// Asks one task, from inside, whatever the resources want to know.
fn ask<'a>(
    task: &'a FrozenTask<'a>,
    seized: Seized,
    resources: Resources<'a>,
    parts: &'a [Part<'_>],
    context: &'a DumpContext<'a>,
    images: &mut TaskImages,
) -> Result<Seized> {
    let mut scripts: Vec<Script> = task.threads.iter().map(|_| Script::default()).collect();
    let failed = |name| Error::of_task(name, task.pid);
    let mut answers: Vec<(&'static str, Answer<'a>)> = Vec::new();
    for state in resources.task {
        scripts[0].set_what(state.name());
        let answer = state.ask(task, context, &mut scripts[0]).map_err(failed(state.name()))?;
        answers.push((state.name(), answer));
    }
    for (name, part) in parts {
        scripts[0].set_what(name);
        answers.push((name, part.ask(task, &mut scripts[0]).map_err(failed(name))?));
    }
    let mut thread_answers: Vec<(&'static str, usize, ThreadAnswer<'a>)> = Vec::new();
    for (index, thread) in task.threads.iter().enumerate() {
        for state in resources.thread {
            scripts[index].set_what(state.name());
            let answer = state.ask(task, thread, &mut scripts[index]).map_err(failed(state.name()))?;
            thread_answers.push((state.name(), index, answer));
        }
        resources.registers.dump(thread, images.thread(index)).map_err(failed("registers"))?;
    }

    let mut infected = seized.infect(scripts.iter().cloned().map(Some).collect())?;
    let outcomes: Vec<Outcome> = infected.run()?.into_iter().flatten().collect();
    let seized = infected.cure()?;
    for (script, outcome) in scripts.iter().zip(&outcomes) {
        if let Some(step) = outcome.failed() {
            return Err(crate::steps::failure(task.pid, script, step, outcome.ret_at(step)));
        }
    }
    for (name, answer) in answers {
        answer(&outcomes[0], images).map_err(failed(name))?;
    }
    for (name, index, answer) in thread_answers {
        answer(&outcomes[index], images.thread(index)).map_err(failed(name))?;
    }
    Ok(seized)
}

/// A thread stopped inside of a restartable sequence has been interrupted: it goes to the abort handler, as
/// the kernel would send it. Running a script would make the kernel forget the sequence. And a system call
/// that the kernel would continue in a way of its own is issued anew where that means the same.
fn leave_sequences(
    tree: &mut FrozenTree<'_>,
    seized: &mut [Option<Seized>],
    resources: Resources<'_>,
) -> Result<()> {
    for (task, seized) in tree.tasks.iter_mut().zip(seized) {
        let Some(seized) = seized else { continue };
        for (index, thread) in task.threads.iter_mut().enumerate() {
            let target =
                resources.registers.aborted(thread).map_err(Error::of_task("registers", task.pid))?;
            if let Some(ip) = target {
                seized.set_ip(index, ip)?;
                thread.regs = crate::regs::to_words(&seized.threads()[index].regs);
            }
            if let Some(words) = resources.registers.anew(thread)
                && let Some(regs) = crate::regs::from_words(&words)
            {
                let xstate = thread.xstate.clone();
                seized.set_state(index, regs, xstate, thread.sigmask)?;
                thread.regs = words;
            }
        }
    }
    Ok(())
}

/// Ends the standstill; how long it lasted.
pub(crate) fn let_go(stopped: Stopped, fate: Fate) -> Result<Duration> {
    let verdict = match fate {
        Fate::Kill => Verdict::Kill,
        Fate::Run => Verdict::Run,
        Fate::Stop => Verdict::Stop,
    };
    if fate == Fate::Kill {
        // All at once: nobody is to see another's end and act on it.
        for held in &stopped.held {
            let _ = pidfd::send_signal(held.pidfd.as_fd(), libc::SIGKILL); // a zombie is dead already
        }
    }
    let frozen = stopped.since.elapsed();
    for seized in stopped.seized.into_iter().flatten() {
        seized.release(verdict)?;
    }
    Ok(frozen)
}
