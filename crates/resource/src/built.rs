//! A process tree to be restored, as the resources see it.

use crate::{Options, frozen::Life};
use criu_images::{Store, proto};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

/// When, in the life of a task under construction, steps run.
///
/// Barriers stand between tasks after [`Stage::Born`] and after [`Stage::State`]: what a later stage does
/// may rely on every task having finished the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Before the task clones its children: what they are to inherit.
    Inherit,
    /// The task has started its session, if it leads one, and is about to clone the children that stay in it:
    /// they inherit its controlling terminal.
    Session,
    /// Every task of the tree exists. Process groups.
    Born,
    /// Descriptors, terminal, working directory.
    Files,
    /// The areas of the address space.
    Memory,
    /// Their contents, beside which another thread may run what [`TreeRestore::aside`](crate::TreeRestore::aside)
    /// says.
    Fill,
    /// What is left of the address space: protection, mm fields. The threads are created after it.
    Settle,
    /// Everything a task sets for itself: signals, timers, limits, scheduling. In thread scripts too.
    State,
    /// After every task finished [`Stage::State`]: credentials and what takes rights away. In thread
    /// scripts too.
    Last,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Stage; 9] = [
        Stage::Inherit,
        Stage::Session,
        Stage::Born,
        Stage::Files,
        Stage::Memory,
        Stage::Fill,
        Stage::Settle,
        Stage::State,
        Stage::Last,
    ];
}

/// One process to be restored.
pub struct BuiltTask {
    /// Position in [`BuiltTree::tasks`].
    pub index: usize,
    /// Position of the parent; `None` for the root.
    pub parent: Option<usize>,
    /// Ids and threads.
    pub pstree: proto::PstreeEntry,
    /// What it will be doing.
    pub life: Life,
    /// `core-PID`. For a zombie only `tc` counts.
    pub core: proto::CoreEntry,
    /// `core-TID` of the other threads, in the order of `pstree.threads` without the first.
    pub threads: Vec<proto::CoreEntry>,
    /// Which objects it shares with others.
    pub ids: Option<proto::TaskKobjIdsEntry>,
}

impl BuiltTask {
    /// The pid as recorded.
    pub fn pid(&self) -> u32 {
        self.pstree.pid
    }

    /// The process-wide part of the core image.
    pub fn tc(&self) -> Option<&proto::TaskCoreEntry> {
        self.core.tc.as_ref()
    }

    /// The core image of thread number `thread` (0 is the main one).
    pub fn thread(&self, thread: usize) -> &proto::CoreEntry {
        match thread {
            0 => &self.core,
            n => &self.threads[n - 1],
        }
    }
}

/// The tree, root first; each parent comes before its children.
pub struct BuiltTree {
    /// All tasks.
    pub tasks: Vec<BuiltTask>,
}

/// What every resource may look at during a restore.
pub struct RestoreContext<'a> {
    /// Switches.
    pub options: &'a Options,
    /// The images.
    pub store: &'a dyn Store,
    /// Numbers of the coordinator's descriptors that every task inherits until [`Stage::Last`].
    pub numbers: &'a std::sync::Mutex<Numbers>,
}

/// Hands out descriptor numbers for the coordinator, such that no task's final numbers are in the way.
///
/// First every resource claims the numbers that tasks need in the end; only then numbers are reserved.
#[derive(Debug, Default)]
pub struct Numbers {
    claimed: BTreeSet<i32>,
    reserved: BTreeSet<i32>,
    next: i32,
}

impl Numbers {
    /// Declares that some task will have a descriptor of this number in the end.
    pub fn claim(&mut self, number: i32) {
        self.claimed.insert(number);
        self.next = self.next.max(number + 1);
    }

    /// Marks a number as used by the coordinator itself (its log, its images).
    pub fn occupy(&mut self, number: i32) {
        self.reserved.insert(number);
    }

    /// Reserves `preferred` (a claimed number, whose only user it is) when it is free, otherwise a number
    /// that no task needs.
    pub fn reserve(&mut self, preferred: Option<i32>) -> i32 {
        if let Some(number) = preferred
            && self.reserved.insert(number)
        {
            return number;
        }
        while self.claimed.contains(&self.next) || !self.reserved.insert(self.next) {
            self.next += 1;
        }
        self.next
    }

    /// Numbers reserved or occupied so far, ascending.
    pub fn reserved(&self) -> impl Iterator<Item = i32> + '_ {
        self.reserved.iter().copied()
    }
}

/// Puts opened files where scripts expect them.
pub trait Place {
    /// Moves `fd` to the reserved `number` of the coordinator, from where every task inherits it.
    /// `cloexec` becomes its close-on-exec flag.
    fn place(&mut self, number: i32, fd: OwnedFd, cloexec: bool) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::Numbers;

    #[test]
    fn reserved_numbers_stay_clear_of_claimed_ones() {
        let mut numbers = Numbers::default();
        (0..3).for_each(|n| numbers.claim(n));
        numbers.occupy(1);
        assert_eq!(numbers.reserve(Some(0)), 0);
        assert_eq!(numbers.reserve(Some(1)), 3, "1 is occupied");
        assert_eq!(numbers.reserve(Some(0)), 4, "0 was given away");
        assert_eq!(numbers.reserve(None), 5);
    }
}
