//! The build-id of an ELF file: whether a program is still the same one.

use goblin::container::{Container, Ctx};
use goblin::elf::Elf;
use goblin::elf::header::{EI_CLASS, ELFCLASS64, ELFMAG};
use goblin::elf::note::{NT_GNU_BUILD_ID, NoteDataIterator};
use goblin::elf::program_header::{PT_NOTE, ProgramHeader};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Notes longer than this are not looked at, in bytes.
const MAX_NOTES: u64 = 64 << 10;

/// The build-id as the images hold it: native 32-bit words, padded with zeros. Empty where the file has
/// none or is no ELF file.
pub fn words(file: &File) -> Vec<u32> {
    let id = read(file).unwrap_or_default();
    id.chunks(4)
        .map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_ne_bytes(word)
        })
        .collect()
}

fn read(file: &File) -> Option<Vec<u8>> {
    let mut head = [0; 4096];
    let len = file.read_at(&mut head, 0).ok()?;
    let head = &head[..len];
    if !head.starts_with(ELFMAG) {
        return None;
    }
    let header = Elf::parse_header(head).ok()?;
    let container = if head.get(EI_CLASS) == Some(&ELFCLASS64) { Container::Big } else { Container::Little };
    let ctx = Ctx::new(container, header.endianness().ok()?);
    let offset = usize::try_from(header.e_phoff).ok()?;
    let segments = ProgramHeader::parse(head, offset, header.e_phnum.into(), ctx).ok()?;
    segments.iter().filter(|s| s.p_type == PT_NOTE && s.p_filesz <= MAX_NOTES).find_map(|segment| {
        let mut data = vec![0; segment.p_filesz as usize];
        file.read_exact_at(&mut data, segment.p_offset).ok()?;
        let align = usize::try_from(segment.p_align).ok()?.max(4);
        let mut notes = NoteDataIterator { data: &data, size: data.len(), offset: 0, ctx: (align, ctx) };
        notes.find_map(|note| {
            note.ok().filter(|n| n.n_type == NT_GNU_BUILD_ID && n.name == "GNU").map(|n| n.desc.to_vec())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_have_one_and_text_has_none() {
        let own = words(&File::open("/proc/self/exe").unwrap());
        let text = words(&File::open("/proc/self/status").unwrap());
        assert!(text.is_empty());
        // The linker of the toolchain decides; where there is one, it is a SHA-1.
        assert!(own.is_empty() || own.len() == 5, "{own:?}");
        let shell = words(&File::open("/bin/sh").unwrap());
        assert_eq!(shell.len(), 5, "Debian's programs have a build-id");
    }
}
