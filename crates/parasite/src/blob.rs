//! The interpreter's machine code, loaded from the ELF file that the build script made.

use goblin::elf::{Elf, dynamic::DT_RELASZ, program_header::PT_LOAD};

/// Size of the packed relative relocations, which goblin does not name.
const DT_RELRSZ: u64 = 35;
use std::sync::OnceLock;

static ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/blob"));

/// The blob as it lies in memory.
pub(crate) struct Blob {
    /// Bytes from the blob's address 0 on. Writable data is not among them: the blob has none.
    pub image: Vec<u8>,
    /// Where a thread enters, from the start of `image`.
    pub entry: u64,
}

pub(crate) fn blob() -> &'static Blob {
    static BLOB: OnceLock<Blob> = OnceLock::new();
    BLOB.get_or_init(|| load(ELF).expect("the build script's own ELF file"))
}

fn load(bytes: &[u8]) -> Result<Blob, goblin::error::Error> {
    let elf = Elf::parse(bytes)?;
    let dynamic = elf.dynamic.iter().flat_map(|d| &d.dyns);
    let relocated = dynamic.filter(|d| matches!(d.d_tag, DT_RELASZ | DT_RELRSZ));
    assert_eq!(relocated.map(|d| d.d_val).sum::<u64>(), 0, "nobody applies relocations");
    let mut image = Vec::new();
    for segment in elf.program_headers.iter().filter(|p| p.p_type == PT_LOAD && !p.is_write()) {
        image.resize(image.len().max((segment.p_vaddr + segment.p_memsz) as usize), 0);
        let content = &bytes[segment.file_range()];
        image[segment.vm_range()][..content.len()].copy_from_slice(content);
    }
    Ok(Blob { image, entry: elf.entry })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_small() {
        assert!(blob().image.len() <= 2 * 4096, "the blob grew to {} bytes", blob().image.len());
    }

    /// The target's vector registers are not saved while the blob runs, so it must not touch them.
    #[test]
    fn uses_no_vector_registers() {
        let file = std::env::temp_dir().join(format!("criu-blob-{}", std::process::id()));
        std::fs::write(&file, ELF).unwrap();
        let objdump = std::process::Command::new("objdump").arg("-d").arg(&file).output();
        std::fs::remove_file(&file).unwrap();
        let text = String::from_utf8(objdump.expect("objdump (binutils) is installed").stdout).unwrap();
        assert!(text.contains("syscall"));
        let vector =
            text.lines().find(|l| ["%xmm", "%ymm", "%zmm", "%st", "%mm"].iter().any(|r| l.contains(r)));
        assert_eq!(vector, None);
    }
}
