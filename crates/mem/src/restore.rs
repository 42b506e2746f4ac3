//! The restore of a tree's memory: read and checked first, then emitted as steps.

use crate::aio::{self, Ring};
use crate::content::Content;
use crate::cow::{self, Shared};
use crate::error::Error;
use crate::layout::{self, Piece};
use crate::pages::PAGE;
use crate::seat::Seat;
use crate::share::Share;
use crate::sysv::{self, Segments};
use crate::{Memory, mm, notes, shmem, status, vdso};
use criu_images::proto::{AioRingEntry, MmEntry, VmaEntry};
use criu_images::{Image, ImageReader, Lineage, StoreExt};
use criu_resource::{BoxError, BuiltTask, BuiltTree, Life, Place, RestoreContext, Stage, TreeRestore};
use criu_script::Script;
use std::collections::HashSet;
use std::fs::File;
use std::io::SeekFrom;

/// What the kernel keeps free below a stack: nothing of ours may come there either.
const STACK_GAP: u64 = 256 * PAGE;

/// From this much content on, a second thread is worth its while.
const LARGE: u64 = 32 << 20;

/// One task's memory as it is to be.
struct Task {
    pid: i32,
    mm: MmEntry,
    /// By rising address, without areas that the kernel makes; guards last.
    areas: Vec<VmaEntry>,
    content: Vec<Piece>,
    has_content: Vec<bool>,
    /// Contexts of asynchronous I/O.
    rings: Vec<Ring>,
    stored: Content,
    /// Whether an area is there before the task clones its children.
    early: Vec<bool>,
    /// What it takes over from its parent.
    inherits: Vec<Shared>,
}

/// A restore in progress.
pub(crate) struct Plan<'t> {
    memory: &'t Memory,
    context: &'t RestoreContext<'t>,
    lineage: Lineage<'t>,
    /// One for each task of the tree; `None` for zombies.
    tasks: Vec<Option<Task>>,
    parents: Vec<Option<usize>>,
    shared: shmem::Restored,
    segments: Segments,
    processors: usize,
    /// Where /dev/null is open for writing.
    null: Option<Seat>,
}

impl<'t> Plan<'t> {
    pub(crate) fn read(
        memory: &'t Memory,
        tree: &BuiltTree,
        context: &'t RestoreContext<'t>,
    ) -> Result<Self, BoxError> {
        let own_vdso = vdso::own_code()?;
        let lineage = Lineage::open(context.store)?;
        let read = |task: &BuiltTask| match task.life {
            Life::Zombie(_) => Ok(None),
            _ => Task::read(task.pid() as i32, context, &lineage, &own_vdso).map(Some),
        };
        let tasks = tree.tasks.iter().map(read).collect::<Result<Vec<_>, BoxError>>()?;
        let parents = tree.tasks.iter().map(|task| task.parent).collect();
        let shared = shmem::Restored::default();
        let areas = tasks.iter().flatten().flat_map(|task: &Task| &task.areas);
        let ids = tree.tasks.iter().find_map(|task| task.ids.as_ref());
        let namespace = ids.map_or(0, |ids| ids.ipc_ns_id());
        let segments = Segments::read(context.store, namespace, areas)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mut plan =
            Plan { memory, context, lineage, tasks, parents, shared, segments, processors, null: None };
        plan.share()?;
        for area in plan.tasks.iter().flatten().flat_map(|task| &task.areas) {
            if shmem::is_mapping(area) {
                plan.shared.add(area);
            }
        }
        Ok(plan)
    }

    /// Finds what children take over from their parents.
    fn share(&mut self) -> Result<(), BoxError> {
        for (index, parent) in self.parents.iter().enumerate() {
            let Some(parent) = *parent else { continue };
            let (before, rest) = self.tasks.split_at_mut(index);
            let (Some(parent), Some(child)) = (&mut before[parent], &mut rest[0]) else { continue };
            // After an exec, nothing is in common.
            if parent.mm.exe_file_id != child.mm.exe_file_id {
                continue;
            }
            let pairs = cow::candidates(&child.areas, &parent.areas);
            let has_both =
                |&(own, there): &(usize, usize)| child.has_content[own] && parent.has_content[there];
            let own = child.mm.notes.iter().filter(|note| note.own()).map(|note| note.start);
            let own: HashSet<u64> = own.collect();
            let may_share =
                |pair: &(usize, usize)| has_both(pair) && !own.contains(&child.areas[pair.0].start);
            let pairs: Vec<_> = pairs.into_iter().filter(may_share).collect();
            if pairs.is_empty() {
                continue;
            }
            let mut mine = child.stored.pages.reader(&self.lineage)?;
            let mut theirs = parent.stored.pages.reader(&self.lineage)?;
            for pair in pairs {
                let mine = (cow::of_area(&child.content, pair.0), &mut mine);
                let theirs = (cow::of_area(&parent.content, pair.1), &mut theirs);
                let shared = cow::compare(pair, mine, theirs).map_err(|source| {
                    criu_images::Error::io(child.stored.pages.name(0), "compare", source)
                })?;
                if let Some(shared) = shared {
                    parent.early[shared.parents] = true;
                    child.early[shared.own] = true;
                    child.inherits.push(shared);
                }
            }
        }
        Ok(())
    }
}

impl Task {
    fn read(
        pid: i32,
        context: &RestoreContext<'_>,
        lineage: &Lineage<'_>,
        own_vdso: &[u8],
    ) -> Result<Task, BoxError> {
        let store = context.store;
        let mut mm: MmEntry = store.read_one(Image::Mm, pid as u64)?;
        let name = Image::Mm.file_name(pid as u64);
        let mut areas = std::mem::take(&mut mm.vmas);
        areas.retain(|area| !status::any(area, status::VSYSCALL | status::UPROBES));
        check(pid, &name, &areas)?;

        let pages = lineage.pages(Image::Pagemap, pid as u64)?;
        let image = Image::Pagemap.file_name(pid as u64);
        let mut content = layout::pieces(&image, &areas, &pages.extents)?;
        let mut task = Task {
            pid,
            mm,
            has_content: vec![false; areas.len()],
            early: vec![false; areas.len()],
            areas,
            content: Vec::new(),
            rings: Vec::new(),
            stored: Content::new(pages),
            inherits: Vec::new(),
        };
        if !content.is_empty() {
            let mut pages = task.stored.pages.reader(lineage)?;
            let mut take = |bit: u32| -> Vec<Piece> {
                content.extract_if(.., |piece| status::any(&task.areas[piece.area], bit)).collect()
            };
            let (code, rings) = (take(status::VDSO), take(status::AIORING));
            task.check_vdso(&code, &mut *pages, own_vdso)?;
            task.rings = task.read_rings(&rings, &mut *pages)?;
        }
        for piece in &content {
            task.has_content[piece.area] = true;
        }
        task.content = content;
        Ok(task)
    }

    /// Compares the vDSO's code with that of this kernel.
    fn check_vdso(&self, code: &[Piece], pages: &mut dyn ImageReader, own: &[u8]) -> Result<(), BoxError> {
        let mut stored = Vec::new();
        for piece in code {
            stored.resize(piece.len as usize, 0);
            pages.seek(SeekFrom::Start(piece.offset))?;
            pages.read_exact(&mut stored)?;
            let at = (piece.start - self.areas[piece.area].start) as usize;
            if own.get(at..at + stored.len()) != Some(&stored[..]) {
                let reason = "its code differs from that of the running kernel".to_owned();
                return Err(Error::Vdso { pid: self.pid, reason }.into());
            }
        }
        Ok(())
    }

    /// Reads where the kernel stood in the rings of I/O contexts.
    fn read_rings(&self, content: &[Piece], pages: &mut dyn ImageReader) -> Result<Vec<Ring>, BoxError> {
        let image = Image::Mm.file_name(self.pid as u64);
        let ring = |entry: &AioRingEntry| {
            let is_whole = |piece: &&Piece| (piece.start, piece.len) == (entry.id, entry.ring_len.into());
            let Some(piece) = content.iter().find(is_whole) else {
                let reason = format!("the pages lack the ring of the I/O context at {:#x}", entry.id);
                return Err(Error::image(&*image, reason).into());
            };
            let mut header = [0; aio::HEADER];
            pages.seek(SeekFrom::Start(piece.offset))?;
            pages.read_exact(&mut header)?;
            let mut parts = self.stored.pages.parts(piece.offset, piece.len);
            let Some(part) = parts.next().filter(|part| part.level == 0) else {
                let reason =
                    format!("the ring of the I/O context at {:#x} is in a parent checkpoint", entry.id);
                return Err(Error::image(&*image, reason).into());
            };
            Ok(Ring::new(entry, &header, part.offset).map_err(|reason| Error::image(&*image, reason))?)
        };
        self.mm.aios.iter().map(ring).collect()
    }

    fn content_len(&self) -> u64 {
        self.content.iter().map(|piece| piece.len).sum()
    }

    /// The areas of one time, early or late, with their positions.
    fn areas_of(&self, early: bool, inherited: bool) -> impl Iterator<Item = (usize, &VmaEntry)> {
        let taken: std::collections::BTreeSet<usize> =
            self.inherits.iter().map(|shared| shared.own).collect();
        self.areas.iter().enumerate().filter(move |(index, area)| {
            !status::is_special(area) && self.early[*index] == early && (inherited || !taken.contains(index))
        })
    }
}

/// Checks what a task's areas say about themselves.
fn check(pid: i32, image: &str, areas: &[VmaEntry]) -> Result<(), Error> {
    let mut end = 0;
    for area in areas {
        let place = crate::error::Place { pid, start: area.start, end: area.end };
        let is_guard = status::is(area, status::GUARD);
        if area.start >= area.end || (!is_guard && area.start < end) {
            return Err(Error::image(image, format!("{place} overlaps the one before, or is empty")));
        }
        if is_guard {
            continue;
        }
        end = area.end;
        let refused =
            [(status::SHSTK, "a shadow stack"), (status::PLUGIN, "a device's memory, dumped by a plugin")];
        let refused = refused.iter().find(|(bit, _)| status::any(area, *bit)).map(|(_, what)| *what);
        if let Some(what) = refused {
            return Err(Error::Unsupported { place, what: what.to_owned() });
        }
        if status::any(area, status::AIORING) {
            continue;
        }
        let anonymous = status::ANON_PRIVATE | status::ANON_SHARED;
        if !status::any(area, anonymous | status::FILE_PRIVATE | status::FILE_SHARED | status::SOCKET) {
            let what = format!("an area of no known kind (status {:#x})", area.status);
            return Err(Error::Unsupported { place, what });
        }
    }
    Ok(())
}

impl Plan<'_> {
    fn emit_inherit(&mut self, index: usize, script: &mut Script) -> Result<(), BoxError> {
        let parent = self.parents[index].and_then(|parent| self.tasks[parent].as_ref());
        let thp_before = parent.map(|parent| parent.mm.thp_disabled());
        let left = parent.map(|parent| leftovers(parent, self.tasks[index].as_ref())).unwrap_or_default();
        let Some(task) = &mut self.tasks[index] else { return Ok(()) };
        if thp_before != Some(task.mm.thp_disabled()) {
            mm::thp_steps(&task.mm, script);
        }
        for area in left {
            script.syscall(libc::SYS_munmap, [area.start.into(), (area.end - area.start).into()]);
        }
        let inherits = std::mem::take(&mut task.inherits);
        let differs: Vec<Piece> = inherits.iter().flat_map(|shared| &shared.differs).copied().collect();
        task.stored.fill_steps(&differs, self.context, &self.lineage, script)?;
        for absent in inherits.iter().flat_map(|shared| &shared.absent) {
            let args = [absent.start.into(), (absent.end - absent.start).into(), libc::MADV_DONTNEED.into()];
            script.syscall(libc::SYS_madvise, args);
        }
        task.inherits = inherits;
        self.emit_areas(index, true, script)?;
        self.fill(index, true, Share::All, script)
    }

    /// Maps the areas of one time that are not there already.
    fn emit_areas(&mut self, index: usize, early: bool, script: &mut Script) -> Result<(), BoxError> {
        let Plan { memory, context, tasks, shared, segments, .. } = self;
        let Some(task) = &mut tasks[index] else { return Ok(()) };
        let mut fd_of = |area: &VmaEntry| match shmem::is_mapping(area) {
            true => shared.number_of(area.shmid, context),
            false => memory.files.number_of(context, file_id(area)?, open_flags(area)),
        };
        if !early {
            segments.attach_steps(&task.areas, script);
        }
        let has_content = |area: usize| task.has_content[area];
        let mapped = task.areas_of(early, false).filter(|(_, area)| !sysv::is_segment(area));
        layout::map_steps(mapped, &has_content, &mut fd_of, script)?;
        let all: Vec<&VmaEntry> = task.areas_of(early, true).map(|(_, area)| area).collect();
        layout::early_advice_steps(&all, script);
        Ok(())
    }

    /// Whether a second thread is to help filling the task's memory: it has much, and there are processors that
    /// no other such task keeps busy.
    fn large(&self, index: usize) -> bool {
        let large = |task: &Option<Task>| task.as_ref().is_some_and(|task| task.content_len() >= LARGE);
        large(&self.tasks[index]) && self.tasks.iter().filter(|task| large(task)).count() < self.processors
    }

    /// Fills a share of the areas of one time that are not there already.
    fn fill(&mut self, index: usize, early: bool, share: Share, script: &mut Script) -> Result<(), BoxError> {
        let Plan { context, lineage, tasks, .. } = self;
        let Some(task) = &mut tasks[index] else { return Ok(()) };
        let mut wanted = vec![false; task.areas.len()];
        task.areas_of(early, false).for_each(|(index, _)| wanted[index] = true);
        let pieces: Vec<Piece> = task.content.iter().filter(|piece| wanted[piece.area]).copied().collect();
        let pieces = share.of(pieces);
        if !pieces.is_empty() {
            layout::populate_steps(&task.areas, &pieces, script);
            task.stored.fill_steps(&pieces, context, lineage, script)?;
        }
        Ok(())
    }

    fn emit_rings(&mut self, index: usize, script: &mut Script) -> Result<(), BoxError> {
        let Plan { context, lineage, tasks, null, .. } = self;
        let Some(task) = tasks[index].as_mut().filter(|task| !task.rings.is_empty()) else { return Ok(()) };
        let pages = task.stored.number(0, context, lineage)?;
        let null = match null {
            Some(seat) => seat.number(),
            None => {
                let file = File::options().write(true).open("/dev/null")?;
                null.insert(Seat::reserve(context.numbers, file.into())?).number()
            }
        };
        aio::place_steps(&task.rings, null, pages, script);
        Ok(())
    }

    fn settle(&mut self, index: usize, script: &mut Script) -> Result<(), BoxError> {
        self.emit_rings(index, script)?;
        let Some(task) = &self.tasks[index] else { return Ok(()) };
        let on_fault: HashSet<u64> =
            task.mm.notes.iter().filter(|note| note.lock_on_fault()).map(|note| note.start).collect();
        let has_content = |area| task.has_content[area];
        layout::final_steps(&task.areas, &has_content, &|area| on_fault.contains(&area.start), script);
        vdso::place_steps(task.pid, &self.memory.parked(), &task.areas, script)?;
        let exe = self.memory.files.number_of(self.context, task.mm.exe_file_id, libc::O_RDONLY as u32)?;
        mm::place_steps(&task.mm, exe, script);
        mm::lock_steps(&task.mm, script);
        notes::steps(&task.mm.notes, script);
        Ok(())
    }
}

/// What a parent has early and its child does not take over.
fn leftovers(parent: &Task, child: Option<&Task>) -> Vec<VmaEntry> {
    let taken: std::collections::BTreeSet<usize> =
        child.into_iter().flat_map(|child| &child.inherits).map(|shared| shared.parents).collect();
    let early = parent.areas.iter().enumerate().filter(|(index, _)| parent.early[*index]);
    early.filter(|(index, _)| !taken.contains(index)).map(|(_, area)| *area).collect()
}

fn file_id(area: &VmaEntry) -> Result<u32, BoxError> {
    Ok(u32::try_from(area.shmid)?)
}

/// How the file behind an area is to be opened.
fn open_flags(area: &VmaEntry) -> u32 {
    let writable = status::is(area, status::FILE_SHARED) && area.prot & libc::PROT_WRITE as u32 != 0;
    area.fdflags.unwrap_or(if writable { libc::O_RDWR } else { libc::O_RDONLY } as u32)
}

impl TreeRestore for Plan<'_> {
    fn emit(&mut self, stage: Stage, task: &BuiltTask, script: &mut Script) -> Result<(), BoxError> {
        match stage {
            Stage::Inherit => self.emit_inherit(task.index, script),
            Stage::Memory => self.emit_areas(task.index, false, script),
            Stage::Fill => {
                let share = if self.large(task.index) { Share::First } else { Share::All };
                self.fill(task.index, false, share, script)
            }
            Stage::Settle => self.settle(task.index, script),
            _ => Ok(()),
        }
    }

    fn emit_thread(&mut self, _: &BuiltTask, _: usize, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn aside(&mut self, task: &BuiltTask, script: &mut Script) -> Result<(), BoxError> {
        match self.large(task.index) {
            true => self.fill(task.index, false, Share::Second, script),
            false => Ok(()),
        }
    }

    fn restrains(&self, _: &BuiltTask) -> bool {
        false
    }

    fn occupied(&self) -> Vec<(u64, u64)> {
        let area = |area: &VmaEntry| match area.flags & libc::MAP_GROWSDOWN as u32 {
            0 => (area.start, area.end),
            _ => (area.start.saturating_sub(STACK_GAP), area.end),
        };
        let tasks = || self.tasks.iter().flatten();
        let mut all: Vec<(u64, u64)> = tasks().flat_map(|task| task.areas.iter().map(area)).collect();
        all.extend(tasks().flat_map(|task| self.segments.ranges(&task.areas)));
        all.sort_unstable();
        all.dedup_by(|next, last| {
            let joins = next.0 <= last.1;
            if joins {
                last.1 = last.1.max(next.1);
            }
            joins
        });
        all
    }

    fn prepare(&mut self, place: &mut dyn Place) -> Result<(), BoxError> {
        self.tasks.iter_mut().flatten().try_for_each(|task| task.stored.settle(place))?;
        if let Some(null) = self.null.take() {
            null.settle(place)?;
        }
        self.segments.prepare(&self.lineage)?;
        self.shared.prepare(&self.lineage, place)
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        Ok(self.segments.finish()?)
    }
}
