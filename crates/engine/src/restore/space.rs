//! Finds room for the script machine: addresses that are free in criu-rs and in every task.

use crate::{Error, Result};
use criu_kernel::proc::ProcDir;

/// End of the user's address space on x86-64 with four page-table levels.
pub(crate) const TASK_END: u64 = 0x7fff_ffff_f000;
/// Room for scripts: far more than the largest needs, and there are 128 TiB to choose from.
const ROOM: u64 = 1 << 32;
/// Lowest address to use.
const FLOOR: u64 = 1 << 28;

/// One part of criu-rs's own vDSO: name and range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VdsoPart {
    pub name: String,
    pub start: u64,
    pub end: u64,
}

/// Where the script machine goes in every task.
pub(crate) struct Space {
    /// Start of the control area.
    pub area: u64,
    /// Where the vDSO's parts wait, as they lie in criu-rs, from the first one's start on.
    pub parking: u64,
    /// The parts, ascending.
    pub vdso: Vec<VdsoPart>,
}

impl Space {
    /// Looks at criu-rs's own memory and at what the tasks will have.
    pub(crate) fn find(mut occupied: Vec<(u64, u64)>) -> Result<Space> {
        let own = ProcDir::current()?.maps()?;
        let mut vdso = Vec::new();
        for area in &own {
            occupied.push((area.start, area.end));
            if let Some(name) =
                area.name.to_str().filter(|name| name.starts_with("[vvar") || *name == "[vdso]")
            {
                vdso.push(VdsoPart { name: name.to_owned(), start: area.start, end: area.end });
            }
        }
        occupied.push((TASK_END, u64::MAX));
        occupied.sort_unstable();
        let mut free = FLOOR;
        for (start, end) in occupied {
            if start >= free && start - free >= 2 * ROOM {
                return Ok(Space { area: free, parking: free + ROOM, vdso });
            }
            free = free.max(end);
        }
        Err(Error::Inconsistent("the tasks leave no 8 GiB of address space free".into()))
    }

    /// Where a part waits.
    pub(crate) fn parked(&self, part: &VdsoPart) -> u64 {
        self.parking + (part.start - self.vdso[0].start)
    }

    /// End of all that the script machine uses.
    pub(crate) fn end(&self) -> u64 {
        self.vdso.last().map_or(self.parking, |last| self.parked(last) + (last.end - last.start))
    }
}
