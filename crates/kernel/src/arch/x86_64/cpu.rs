//! What the processor can do, as cpuid tells it.

use super::cpuid;

/// A word of 32 feature bits: the register of a cpuid leaf, in the order in which Linux 4.14 kept them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Word {
    /// Leaf 1, edx.
    Leaf1Edx = 0,
    /// Leaf 0x80000001, edx.
    Extended1Edx = 1,
    /// What Linux finds out by itself.
    Linux1 = 3,
    /// Leaf 1, ecx.
    Leaf1Ecx = 4,
    /// Leaf 0x80000001, ecx.
    Extended1Ecx = 6,
    /// Leaf 7, ebx.
    Leaf7Ebx = 9,
    /// Leaf 0xd.1, eax.
    LeafDEax = 10,
    /// Leaf 7, ecx.
    Leaf7Ecx = 11,
    /// Leaf 0xf.1, edx.
    LeafF1Edx = 12,
    /// Leaf 0x80000008, ebx.
    Extended8Ebx = 13,
    /// Leaf 6, eax.
    Leaf6Eax = 14,
    /// Leaf 0x8000000a, edx.
    ExtendedAEdx = 15,
    /// Leaf 0xf.0, edx.
    LeafF0Edx = 16,
    /// Leaf 0x80000007, ebx.
    Extended7Ebx = 17,
    /// Leaf 7, edx.
    Leaf7Edx = 18,
}

impl Word {
    /// How many words there are; those that no variant names are zero.
    pub const COUNT: usize = 19;
}

/// This machine's processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Vendor, such as `GenuineIntel`.
    pub vendor: String,
    /// Model name for people.
    pub name: String,
    /// Family.
    pub family: u32,
    /// Model.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
    /// Feature words, indexed by [`Word`].
    pub words: [u32; Word::COUNT],
    /// Components of the FPU state that tasks may use.
    pub xfeatures: u64,
    /// Size in bytes of the FPU state with what the kernel enabled.
    pub xsave_size: u32,
    /// Size in bytes of the FPU state with all that the processor has.
    pub xsave_size_max: u32,
}

/// Components of user state: x87, SSE, AVX, MPX, AVX-512 and protection keys.
const USER_STATE: u64 = 0x2ff;
/// The feature without which a component does not count.
const COMPONENT_NEEDS: [(u64, Word, u32); 6] = [
    (1 << 0, Word::Leaf1Edx, 0),
    (1 << 1, Word::Leaf1Edx, 25),
    (1 << 2, Word::Leaf1Ecx, 28),
    (0b11 << 3, Word::Leaf7Ebx, 14),
    (0b111 << 5, Word::Leaf7Ebx, 16),
    (1 << 9, Word::Leaf7Ecx, 3),
];

impl Cpu {
    /// Asks the processor.
    pub fn detect() -> Self {
        let first = cpuid(0, 0);
        let vendor = text(&[first.ebx, first.edx, first.ecx]);
        let signature = cpuid(1, 0).eax;
        let (family, model) = family_and_model(signature);
        let words = words(first.eax, &vendor, family, signature);
        let has = |word: Word, bit: u32| words[word as usize] >> bit & 1 == 1;
        let (mut xfeatures, mut xsave_size, mut xsave_size_max) = (0, 0, 0);
        if has(Word::Leaf1Ecx, 26) {
            let state = cpuid(0xd, 0);
            let lacking = COMPONENT_NEEDS.iter().filter(|(_, word, bit)| !has(*word, *bit));
            let lacking = lacking.fold(0, |all, (bits, ..)| all | bits);
            xfeatures = (u64::from(state.edx) << 32 | u64::from(state.eax)) & USER_STATE & !lacking;
            (xsave_size, xsave_size_max) = (state.ebx, state.ecx);
        }
        let stepping = signature & 0xf;
        Self { vendor, name: name(), family, model, stepping, words, xfeatures, xsave_size, xsave_size_max }
    }
}

fn family_and_model(signature: u32) -> (u32, u32) {
    let field = |shift: u32, bits: u32| signature >> shift & ((1 << bits) - 1);
    let family = if field(8, 4) == 0xf { 0xf + field(20, 8) } else { field(8, 4) };
    let high = if family >= 6 { field(16, 4) << 4 } else { 0 };
    (family, high + field(4, 4))
}

fn words(leaves: u32, vendor: &str, family: u32, signature: u32) -> [u32; Word::COUNT] {
    use Word::*;
    const XSAVE: u32 = 1 << 26;
    const REP_GOOD: u32 = 1 << 16;
    const NOPL: u32 = 1 << 20;
    const CPUID: u32 = 1 << 25;
    const ERMS: u32 = 1 << 9;
    const CACHE_MONITORING: u32 = 1 << 1;

    let mut words = [0; Word::COUNT];
    let mut set = |word: Word, bits: u32| words[word as usize] = bits;
    let leaf = |number: u32, sub: u32| (number <= leaves).then(|| cpuid(number, sub));
    // Every x86-64 processor has cpuid and the long no-operation.
    let mut linux = CPUID | NOPL;
    let one = cpuid(1, 0);
    let mut edx = one.edx;
    let mut ebx7 = 0;
    set(Leaf1Ecx, if leaves >= 0xd { one.ecx } else { one.ecx & !XSAVE });
    if let Some(seven) = leaf(7, 0) {
        ebx7 = seven.ebx;
        set(Leaf7Ecx, seven.ecx);
        set(Leaf7Edx, seven.edx);
    }
    leaf(6, 0).into_iter().for_each(|six| set(Leaf6Eax, six.eax));
    leaf(0xd, 1).into_iter().for_each(|state| set(LeafDEax, state.eax));
    if let Some(monitoring) = leaf(0xf, 0) {
        set(LeafF0Edx, monitoring.edx);
        if monitoring.edx & CACHE_MONITORING != 0 {
            set(LeafF1Edx, cpuid(0xf, 1).edx);
        }
    }
    let extended = cpuid(0x8000_0000, 0).eax;
    let extended = |number: u32| (number <= extended).then(|| cpuid(number, 0));
    if let Some(one) = extended(0x8000_0001) {
        set(Extended1Ecx, one.ecx);
        set(Extended1Edx, one.edx);
    }
    extended(0x8000_0007).into_iter().for_each(|seven| set(Extended7Ebx, seven.ebx));
    extended(0x8000_0008).into_iter().for_each(|eight| set(Extended8Ebx, eight.ebx));
    extended(0x8000_000a).into_iter().for_each(|ten| set(ExtendedAEdx, ten.edx));
    match (vendor, family) {
        // The string instructions' microcode is good, but for some generations.
        ("GenuineIntel", 15) => ebx7 &= !ERMS,
        ("GenuineIntel", 6) => linux |= REP_GOOD,
        ("GenuineIntel", _) => {}
        _ => {
            // 3DNow! stands in the extended leaf.
            edx &= !(1 << 31);
            let revised = (0x0f48..0x0f50).contains(&signature) || signature >= 0x0f58;
            if family >= 0x10 || family == 0xf && revised {
                linux |= REP_GOOD;
            }
        }
    }
    set(Leaf1Edx, edx);
    set(Leaf7Ebx, ebx7);
    set(Linux1, linux);
    words
}

fn name() -> String {
    if cpuid(0x8000_0000, 0).eax < 0x8000_0004 {
        return String::new();
    }
    let parts = (0x8000_0002..=0x8000_0004).map(|leaf| cpuid(leaf, 0));
    let registers: Vec<u32> = parts.flat_map(|part| [part.eax, part.ebx, part.ecx, part.edx]).collect();
    text(&registers)
}

/// The characters in registers, up to the first zero, without leading blanks.
fn text(registers: &[u32]) -> String {
    let bytes: Vec<u8> = registers.iter().flat_map(|register| register.to_le_bytes()).collect();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_proc() {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let field = |key: &str| {
            let line = info.lines().find(|line| line.split(':').next().is_some_and(|k| k.trim() == key));
            line.unwrap().split_once(':').unwrap().1.trim().to_owned()
        };
        let cpu = Cpu::detect();
        assert_eq!(cpu.vendor, field("vendor_id"));
        assert_eq!(cpu.family.to_string(), field("cpu family"));
        assert_eq!(cpu.model.to_string(), field("model"));
        assert_eq!(cpu.stepping.to_string(), field("stepping"));
        assert_eq!(cpu.name.trim_end(), field("model name"));
        let flags = field("flags");
        let flags: Vec<_> = flags.split(' ').collect();
        for (flag, word, bit) in
            [("avx", Word::Leaf1Ecx, 28), ("avx2", Word::Leaf7Ebx, 5), ("rep_good", Word::Linux1, 16)]
        {
            assert_eq!(cpu.words[word as usize] >> bit & 1 == 1, flags.contains(&flag), "{flag}");
        }
    }

    #[test]
    fn signatures() {
        assert_eq!(family_and_model(0x0005_0657), (6, 0x55));
        assert_eq!(family_and_model(0x00a2_0f10), (0x19, 0x21));
    }
}
