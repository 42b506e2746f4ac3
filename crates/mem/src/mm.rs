//! What an address space is beside its areas: the fields behind `/proc/PID/stat`, `cmdline`, `environ`,
//! `auxv` and `exe`.

use crate::pages::PAGE;
use criu_images::proto::MmEntry;
use criu_kernel::ProcResult;
use criu_kernel::prctl::{PR_SET_MM, PR_SET_MM_MAP};
use criu_kernel::proc::ProcDir;
use criu_script::{Check, Data, Outcome, Script, StepId};

const PR_GET_DUMPABLE: u64 = libc::PR_GET_DUMPABLE as u64;
const PR_GET_THP_DISABLE: u64 = libc::PR_GET_THP_DISABLE as u64;
const PR_SET_THP_DISABLE: u64 = libc::PR_SET_THP_DISABLE as u64;

/// Reads what procfs tells: all but `mm_brk`, `dumpable`, `thp_disabled`, `exe_file_id` and the areas.
///
/// # Errors
/// Those of reading procfs.
pub fn read(proc: &ProcDir) -> ProcResult<MmEntry> {
    let stat = proc.stat()?;
    let auxv = proc.read("auxv")?;
    Ok(MmEntry {
        mm_start_code: stat.start_code,
        mm_end_code: stat.end_code,
        mm_start_data: stat.start_data,
        mm_end_data: stat.end_data,
        mm_start_stack: stat.start_stack,
        mm_start_brk: stat.start_brk,
        mm_arg_start: stat.arg_start,
        mm_arg_end: stat.arg_end,
        mm_env_start: stat.env_start,
        mm_env_end: stat.env_end,
        mm_saved_auxv: auxv_words(&auxv),
        ..MmEntry::default()
    })
}

/// The vector without its end mark and what follows: the kernel adds that itself, and the reference has room
/// for 44 words, which is what is left here.
fn auxv_words(bytes: &[u8]) -> Vec<u64> {
    let pairs = bytes.as_chunks::<16>().0.iter().map(|pair| {
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| pair[at + i]));
        [word(0), word(8)]
    });
    pairs.take_while(|pair| pair[0] != libc::AT_NULL).flatten().collect()
}

/// Steps that ask a task for the rest.
pub struct Question {
    brk: StepId,
    dumpable: StepId,
    thp_disabled: StepId,
    locked: StepId,
    resident: Data,
}

impl Question {
    /// Adds the steps.
    pub fn ask(script: &mut Script) -> Question {
        let prctl = |script: &mut Script, what: u64| {
            script
                .syscall(libc::SYS_prctl, [what.into(), 0.into(), 0.into(), 0.into(), 0.into()])
                .check(Check::Any)
                .id()
        };
        // Whether a new area is locked, which no other interface tells: msync(2) refuses to invalidate it. Its page is
        // there at once, unless it is to be locked on fault.
        let (prot, flags) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let map = [0.into(), PAGE.into(), prot.into(), flags.into(), (-1).into(), 0.into()];
        let area = script.syscall(libc::SYS_mmap, map).check(Check::Any).id();
        let invalidate = [area.into(), PAGE.into(), libc::MS_INVALIDATE.into()];
        let locked = script.syscall(libc::SYS_msync, invalidate).check(Check::Any).id();
        let resident = script.zeroed(1);
        script.syscall(libc::SYS_mincore, [area.into(), PAGE.into(), resident.into()]).check(Check::Any);
        script.syscall(libc::SYS_munmap, [area.into(), PAGE.into()]).check(Check::Any);
        Question {
            locked,
            resident,
            brk: script.syscall(libc::SYS_brk, [0.into()]).id(),
            dumpable: prctl(script, PR_GET_DUMPABLE),
            thp_disabled: prctl(script, PR_GET_THP_DISABLE),
        }
    }

    /// Fills in the answers.
    pub fn answer(&self, outcome: &Outcome, mm: &mut MmEntry) {
        mm.mm_brk = outcome.ret(self.brk) as u64;
        mm.dumpable = outcome.result(self.dumpable).ok().map(|value| value as i32);
        // Kernels without transparent huge pages say EINVAL.
        mm.lock_future = match outcome.result(self.locked) {
            Err(libc::EBUSY) if outcome.bytes(self.resident)[0] & 1 != 0 => Some(libc::MCL_FUTURE as u32),
            Err(libc::EBUSY) => Some((libc::MCL_FUTURE | libc::MCL_ONFAULT) as u32),
            _ => None,
        };
        mm.thp_disabled = Some(outcome.result(self.thp_disabled).is_ok_and(|value| value != 0));
    }
}

/// Sets the fields and the executable, which is open at number `exe`. All areas must be in place.
///
/// prctl(2) `PR_SET_MM_MAP`, Linux 3.18; with an executable it needs CAP_CHECKPOINT_RESTORE, and that no
/// area of the previous executable is mapped.
pub fn place_steps(mm: &MmEntry, exe: i32, script: &mut Script) {
    let auxv = script.words(&mm.mm_saved_auxv);
    let map = script.words(&[
        mm.mm_start_code,
        mm.mm_end_code,
        mm.mm_start_data,
        mm.mm_end_data,
        mm.mm_start_brk,
        mm.mm_brk,
        mm.mm_start_stack,
        mm.mm_arg_start,
        mm.mm_arg_end,
        mm.mm_env_start,
        mm.mm_env_end,
        0,
        auxv.len() as u64 | u64::from(exe as u32) << 32,
    ]);
    script.point(map, 11 * 8, auxv);
    script.syscall(
        libc::SYS_prctl,
        [PR_SET_MM.into(), PR_SET_MM_MAP.into(), map.into(), map.len().into(), 0.into()],
    );
}

/// Has what is mapped from now on locked, as it was. After all areas.
pub fn lock_steps(mm: &MmEntry, script: &mut Script) {
    if let Some(flags) = mm.lock_future {
        script.syscall(libc::SYS_mlockall, [flags.into()]);
    }
}

/// Switches huge pages off or on; a new task has its parent's setting.
pub fn thp_steps(mm: &MmEntry, script: &mut Script) {
    let off = mm.thp_disabled();
    // Kernels without transparent huge pages know no switch, and have them off.
    let check = if off { Check::Ok } else { Check::Any };
    let args = [PR_SET_THP_DISABLE.into(), i32::from(off).into(), 0.into(), 0.into(), 0.into()];
    script.syscall(libc::SYS_prctl, args).check(check);
}
