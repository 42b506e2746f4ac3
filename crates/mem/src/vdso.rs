//! vDSO and vvar: the kernel's own areas, which a new task brings along and which only have to be moved.

use crate::error::Error;
use crate::status;
use criu_images::proto::VmaEntry;
use criu_kernel::proc::ProcDir;
use criu_kernel::{Pid, memory};
use criu_resource::BoxError;
use criu_script::{Check, Script};

/// A part of criu-rs's own vDSO group, out of the way in every new task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// `[vdso]`, `[vvar]`, `[vvar_vclock]`.
    pub name: String,
    /// Its address now.
    pub from: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl Parked {
    fn is_code(&self) -> bool {
        self.name.trim_matches(['[', ']']) == "vdso"
    }
}

/// Moves the parked parts to where the image has them, with mremap(2); those that the task got rid of are
/// unmapped.
///
/// # Errors
/// [`Error::Vdso`] when the kernel's parts are not of the image's sizes.
pub fn place_steps(
    pid: i32,
    parked: &[Parked],
    areas: &[VmaEntry],
    script: &mut Script,
) -> Result<(), Error> {
    let (code, data): (Vec<&Parked>, Vec<&Parked>) = parked.iter().partition(|part| part.is_code());
    for (bit, mut parts, name) in [(status::VDSO, code, "vDSO"), (status::VVAR, data, "vvar")] {
        parts.sort_by_key(|part| part.from);
        let mut targets = areas.iter().filter(|area| status::is(area, bit));
        let Some(target) = targets.next() else {
            for part in parts {
                script.syscall(libc::SYS_munmap, [part.from.into(), part.len.into()]);
            }
            continue;
        };
        let there: u64 = target.end - target.start;
        let here: u64 = parts.iter().map(|part| part.len).sum();
        if here != there || targets.next().is_some() {
            let reason = format!("its {name} has {there} bytes, the kernel's {here}");
            return Err(Error::Vdso { pid, reason });
        }
        let mut to = target.start;
        for part in parts {
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            let args = [part.from.into(), part.len.into(), part.len.into(), flags.into(), to.into()];
            script.syscall(libc::SYS_mremap, args).check(Check::Eq(to as i64));
            to += part.len;
        }
    }
    Ok(())
}

/// The code of this process's own vDSO; empty where the kernel gives none.
///
/// # Errors
/// Those of reading `/proc/self/maps`.
pub fn own_code() -> Result<Vec<u8>, BoxError> {
    let maps = ProcDir::current()?.maps()?;
    let Some(area) = maps.iter().find(|area| area.special() == Some("vdso")) else {
        return Ok(Vec::new());
    };
    let mut code = vec![0; area.len() as usize];
    memory::read_exact(Pid::this(), area.start, &mut code)?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, from: u64, pages: u64) -> Parked {
        Parked { name: name.into(), from, len: pages * 4096 }
    }

    fn area(start: u64, pages: u64, status: u32) -> VmaEntry {
        VmaEntry { start, end: start + pages * 4096, status, ..VmaEntry::default() }
    }

    #[test]
    fn parts_go_side_by_side() {
        let parked = [part("[vvar]", 0x1000, 4), part("[vvar_vclock]", 0x5000, 2), part("[vdso]", 0x7000, 2)];
        let areas = [
            area(0x70_0000, 6, status::REGULAR | status::VVAR),
            area(0x70_6000, 2, status::REGULAR | status::VDSO),
        ];
        let mut script = Script::new("test");
        place_steps(1, &parked, &areas, &mut script).unwrap();
        let moves: Vec<_> = script.steps().iter().map(|step| (step.args[0], step.args[4])).collect();
        let expected = [(0x7000, 0x70_6000), (0x1000, 0x70_0000), (0x5000, 0x70_4000)];
        assert_eq!(moves, expected.map(|(from, to): (u64, u64)| (from.into(), to.into())));
    }

    #[test]
    fn another_kernel_is_refused_and_a_dropped_vdso_stays_away() {
        let parked = [part("[vvar]", 0x1000, 4), part("[vdso]", 0x7000, 2)];
        let mut script = Script::new("test");
        let areas = [area(0x70_0000, 3, status::REGULAR | status::VDSO)];
        let error = place_steps(7, &parked, &areas, &mut script).unwrap_err();
        assert!(error.to_string().contains("12288 bytes, the kernel's 8192"), "{error}");

        let mut script = Script::new("test");
        place_steps(7, &parked, &[], &mut script).unwrap();
        assert!(script.steps().iter().all(|step| step.nr == libc::SYS_munmap as u32));
        assert_eq!(script.steps().len(), 2);
    }

    #[test]
    fn own_code_is_an_elf_file() {
        assert!(own_code().unwrap().starts_with(b"\x7fELF"));
    }
}
