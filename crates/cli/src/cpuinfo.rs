//! `criu-rs cpuinfo dump|check`: may tasks of one machine's processor run on another's?

use crate::workplace::Workplace;
use anyhow::{Context, Result, bail, ensure};
use criu_config::{CpuCap, Options};
use criu_images::proto::{CpuinfoEntry, CpuinfoX86Entry, cpuinfo_x86_entry::Vendor};
use criu_images::{Image, StoreExt};
use criu_kernel::arch::cpu::{Cpu, Word};

/// The layout of the feature words: the second one, of 19 words.
const LAYOUT: u32 = 2;
/// Words of each layout.
const WORDS: [(u32, usize); 2] = [(1, 12), (LAYOUT, Word::COUNT)];

/// What a task may have found out about its FPU: FPU, FXSR, OSXSAVE and XSAVES.
const FPU: [(Word, u32); 3] =
    [(Word::Leaf1Edx, 1 << 0 | 1 << 24), (Word::Leaf1Ecx, 1 << 27), (Word::LeafDEax, 1 << 3)];

/// Features that are instructions, which a task may have found and uses.
const INSTRUCTIONS: [(Word, u32); 10] = [
    // fpu tsc cx8 sep cmov clflush mmx fxsr sse sse2
    (Word::Leaf1Edx, 0x0788_8911),
    // syscall mmxext rdtscp 3dnowext 3dnow
    (Word::Extended1Edx, 0xc840_0800),
    // rep_good nopl
    (Word::Linux1, 0x0011_0000),
    // sse3 pclmulqdq monitor ssse3 cx16 sse4.1 sse4.2 movbe popcnt aes xsave osxsave avx f16c rdrand
    (Word::Leaf1Ecx, 0x7ed8_220b),
    // lzcnt sse4a misalignsse 3dnowprefetch xop fma4 tbm
    (Word::Extended1Ecx, 0x0021_09e0),
    // fsgsbase bmi hle avx2 erms rtm mpx rdseed adx clflushopt sha avx512
    (Word::Leaf7Ebx, 0xfc8f_4b39),
    // xsaveopt xsavec xgetbv1
    (Word::LeafDEax, 0x0000_0007),
    // avx512 gfni vaes vpclmulqdq rdpid
    (Word::Leaf7Ecx, 0x0040_7f42),
    // clzero
    (Word::Extended8Ebx, 0x0000_0001),
    // avx512
    (Word::Leaf7Edx, 0x0000_000c),
];

/// Writes this machine's features into cpuinfo.img; the exit code.
///
/// # Errors
/// An unknown processor, or an image that cannot be written.
pub fn dump(place: &Workplace) -> Result<u8> {
    let entry = CpuinfoEntry { x86_entry: vec![describe(&Cpu::detect())?], ..CpuinfoEntry::default() };
    place.new_images()?.write_image(Image::Cpuinfo, 0, &[entry])?;
    Ok(0)
}

/// Compares this machine's features with those in cpuinfo.img; the exit code.
///
/// # Errors
/// What the image has and this machine has not, as far as `--cpu-cap` asks; an image that cannot be read.
pub fn check(options: &Options, place: &Workplace) -> Result<u8> {
    let image: CpuinfoEntry = place.images()?.read_one(Image::Cpuinfo, 0)?;
    let [image] = image.x86_entry.as_slice() else {
        bail!("cpuinfo.img: it describes {} x86 processors; one was expected", image.x86_entry.len());
    };
    compare(image, &describe(&Cpu::detect())?, modes(options.cpu_cap))?;
    Ok(0)
}

/// Which comparisons to make: FPU, instructions, everything. All of them where none is asked for.
#[derive(Clone, Copy)]
struct Modes {
    fpu: bool,
    instructions: bool,
    exact: bool,
}

fn modes(caps: CpuCap) -> Modes {
    let none = !(caps.fpu() || caps.ins() || caps.cpu());
    Modes { fpu: none || caps.fpu(), instructions: none || caps.ins(), exact: none || caps.cpu() }
}

/// SSE and MPX bounds: CRIU 4.2 leaves these components out of the mask, by mistake, and refuses images that
/// have them. Nothing is lost: both have feature bits of their own.
const UNTOLD: u64 = 1 << 1 | 1 << 3;

fn describe(cpu: &Cpu) -> Result<CpuinfoX86Entry> {
    let vendor = match cpu.vendor.as_str() {
        "GenuineIntel" => Vendor::Intel,
        "AuthenticAMD" | "HygonGenuine" => Vendor::Amd,
        other => bail!("cpuinfo: the image format knows processors of Intel and AMD; this one is of {other}"),
    };
    Ok(CpuinfoX86Entry {
        vendor_id: vendor.into(),
        cpu_family: cpu.family,
        model: cpu.model,
        stepping: cpu.stepping,
        capability_ver: LAYOUT,
        capability: cpu.words.to_vec(),
        model_id: Some(cpu.name.clone()).filter(|name| !name.is_empty()),
        xfeatures_mask: Some(cpu.xfeatures & !UNTOLD),
        xsave_size: Some(cpu.xsave_size),
        xsave_size_max: Some(cpu.xsave_size_max),
    })
}

/// Fails where `here` lacks what `image` has.
fn compare(image: &CpuinfoX86Entry, here: &CpuinfoX86Entry, modes: Modes) -> Result<()> {
    let vendor = image.vendor_id;
    ensure!(
        [Vendor::Intel, Vendor::Amd].map(i32::from).contains(&vendor),
        "cpuinfo.img: unknown vendor {vendor}"
    );
    let (layout, words) = (image.capability_ver, image.capability.len());
    let known = WORDS.iter().find(|(version, _)| *version == layout);
    let (_, expected) = known.with_context(|| format!("cpuinfo.img: unknown layout {layout} of features"))?;
    ensure!(words == *expected, "cpuinfo.img: {words} feature words; layout {layout} has {expected}");
    if modes.fpu {
        compare_fpu(image, here)?;
    }
    if modes.instructions {
        lacking(image, here, &INSTRUCTIONS).map_or(Ok(()), |(word, bits)| {
            bail!(
                "the image's processor has instructions that this one lacks: bits {bits:#x} of {word:?}; \
                 restore on another machine, or leave `ins` out of --cpu-cap"
            )
        })?;
    }
    let differing = image.capability.iter().zip(&here.capability).position(|(image, here)| image != here);
    match differing {
        Some(word) if modes.exact => bail!(
            "the processors differ in feature word {word} (image {:#x}, here {:#x}); \
             restore on the same model, or leave `cpu` out of --cpu-cap",
            image.capability[word],
            here.capability[word]
        ),
        _ => Ok(()),
    }
}

fn compare_fpu(image: &CpuinfoX86Entry, here: &CpuinfoX86Entry) -> Result<()> {
    const REMEDY: &str = "restore on another machine, or leave `fpu` out of --cpu-cap";
    if let Some((word, bits)) = lacking(image, here, &FPU) {
        bail!(
            "the image's processor has FPU features that this one lacks: bits {bits:#x} of {word:?}; {REMEDY}"
        );
    }
    // What an old image does not say is taken to be as here.
    let (features, ours) = (image.xfeatures_mask(), here.xfeatures_mask() | UNTOLD);
    ensure!(
        image.xfeatures_mask.is_none() || features & !ours == 0,
        "the image's processor has FPU state that this one lacks: xfeatures {:#x}; {REMEDY}",
        features & !ours
    );
    let sizes = [
        ("in use", image.xsave_size, here.xsave_size),
        ("at most", image.xsave_size_max, here.xsave_size_max),
    ];
    for (what, image, here) in sizes {
        let (image, here) = (image.or(here).unwrap_or(0), here.unwrap_or(0));
        ensure!(
            image == here,
            "the FPU state has {image} bytes {what} in the image, and {here} here; {REMEDY}"
        );
    }
    Ok(())
}

/// The first word in which `image` has bits of `mask` that `here` has not. Words of a newer layout are skipped.
fn lacking(image: &CpuinfoX86Entry, here: &CpuinfoX86Entry, mask: &[(Word, u32)]) -> Option<(Word, u32)> {
    mask.iter().find_map(|&(word, mask)| {
        let at = word as usize;
        let bits = image.capability.get(at)? & !here.capability.get(at)? & mask;
        (bits != 0).then_some((word, bits))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Modes = Modes { fpu: true, instructions: true, exact: true };

    fn failure(change: impl FnOnce(&mut CpuinfoX86Entry), modes: Modes) -> String {
        let here = describe(&Cpu::detect()).unwrap();
        let mut image = here.clone();
        change(&mut image);
        compare(&image, &here, modes).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn the_same_processor_fits() {
        assert_eq!(failure(|_| {}, ALL), "");
    }

    #[test]
    fn each_mode_finds_its_own() {
        let fpu = Modes { fpu: true, instructions: false, exact: false };
        let instructions = Modes { fpu: false, instructions: true, exact: false };
        let exact = Modes { fpu: false, instructions: false, exact: true };
        // 3DNow!, which no processor has had for long.
        let instruction =
            |image: &mut CpuinfoX86Entry| image.capability[Word::Extended1Edx as usize] |= 1 << 31;
        assert!(failure(instruction, instructions).contains("bits 0x80000000 of Extended1Edx"));
        assert!(failure(instruction, exact).contains("differ in feature word 1"));
        assert_eq!(failure(instruction, fpu), "");
        let state = |image: &mut CpuinfoX86Entry| image.xfeatures_mask = Some(1 << 62);
        assert!(failure(state, fpu).contains("xfeatures 0x4000000000000000"));
        assert_eq!(failure(state, instructions), "");
        let size = |image: &mut CpuinfoX86Entry| image.xsave_size = Some(1);
        assert!(failure(size, fpu).contains("1 bytes in use"));
        assert_eq!(failure(|image| image.xsave_size = None, ALL), "");
    }

    #[test]
    fn a_strange_image_is_refused() {
        assert!(failure(|image| image.vendor_id = 7, ALL).contains("unknown vendor 7"));
        assert!(failure(|image| image.capability_ver = 3, ALL).contains("unknown layout 3"));
        assert!(failure(|image| image.capability.truncate(5), ALL).contains("5 feature words"));
        let old = |image: &mut CpuinfoX86Entry| {
            image.capability_ver = 1;
            image.capability.truncate(12);
        };
        assert_eq!(failure(old, ALL), "");
    }
}
