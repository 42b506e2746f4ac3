//! What images of the reference have no place for: names of anonymous areas (PR_SET_VMA_ANON_NAME), seals
//! (mseal(2)), that pages are locked as they are touched (mlock2(2)), and that an area has nothing in common with
//! other tasks.

use crate::vma::Area;
use criu_images::proto::AreaNote;
use criu_kernel::procmap::{VmFlags, Vma};
use criu_script::{Check, Script};
use std::os::unix::ffi::OsStrExt;

const PR_SET_VMA: i32 = 0x5356_4d41;
const PR_SET_VMA_ANON_NAME: i32 = 0;
/// mseal(2), Linux 6.10.
const SYS_MSEAL: i64 = 462;

/// What there is to note of an area.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Its name; Linux 5.17, shared memory since Linux 6.2.
    pub name: Option<Vec<u8>>,
    /// Whether it is sealed.
    pub sealed: bool,
    /// Whether it is large and no page of it is shared with another task.
    pub own: bool,
    /// Whether its pages are locked as they are touched; Linux 4.4.
    pub lock_on_fault: bool,
}

impl Note {
    /// Reads it off a mapping.
    pub fn of(vma: &Vma) -> Note {
        let name = vma.name.as_bytes();
        let has = |flag| vma.flags.is_some_and(|flags| flags.contains(flag));
        let rest = name.strip_prefix(b"[anon:").or_else(|| name.strip_prefix(b"[anon_shmem:"));
        Note {
            name: rest.and_then(|rest| rest.strip_suffix(b"]")).map(<[u8]>::to_vec),
            sealed: has(VmFlags::SEALED),
            own: false,
            lock_on_fault: has(VmFlags::LOCK_ON_FAULT),
        }
    }
}

/// The notes of a task's areas, for its image.
pub fn entries(areas: &[Area]) -> Vec<AreaNote> {
    let noted = areas.iter().filter(|area| area.note != Note::default());
    let entry = |Area { entry, note, .. }: &Area| AreaNote {
        start: entry.start,
        end: entry.end,
        name: note.name.clone(),
        sealed: note.sealed.then_some(true),
        own: note.own.then_some(true),
        lock_on_fault: note.lock_on_fault.then_some(true),
    };
    noted.map(entry).collect()
}

/// Adds steps that name and seal. Nothing may change the areas afterwards.
pub fn steps(notes: &[AreaNote], script: &mut Script) {
    for note in notes {
        let len = note.end.saturating_sub(note.start);
        if let Some(name) = &note.name {
            let name = script.c_string(name);
            let args =
                [PR_SET_VMA.into(), PR_SET_VMA_ANON_NAME.into(), note.start.into(), len.into(), name.into()];
            // Names only help people; not every kernel has them.
            script.syscall(libc::SYS_prctl, args).check(Check::Any);
        }
        if note.sealed() {
            script.syscall(SYS_MSEAL, [note.start.into(), len.into(), 0.into()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_seals() {
        let vma = |name: &str, flags| Vma { name: name.into(), flags: Some(flags), ..Vma::default() };
        let named = Note::of(&vma("[anon:the [arena]]", VmFlags::empty()));
        assert_eq!(named, Note { name: Some(b"the [arena]".to_vec()), ..Note::default() });
        assert_eq!(Note::of(&vma("[anon_shmem:x]", VmFlags::empty())).name.unwrap(), b"x");
        assert_eq!(Note::of(&vma("[heap]", VmFlags::SEALED)), Note { sealed: true, ..Note::default() });
    }

    #[test]
    fn seals_come_last() {
        let name = Some(b"a".to_vec());
        let note = AreaNote { start: 0x1000, end: 0x3000, name, sealed: Some(true), ..AreaNote::default() };
        let mut script = Script::new("test");
        steps(&[note], &mut script);
        let numbers: Vec<i64> = script.steps().iter().map(|step| step.nr.into()).collect();
        assert_eq!(numbers, [libc::SYS_prctl, SYS_MSEAL]);
    }
}
