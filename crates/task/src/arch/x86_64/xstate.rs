//! The extended state: x87, SSE, AVX, MPX, AVX-512 and protection keys, in the standard XSAVE format.

use crate::error::Error;
use criu_images::proto;
use std::arch::x86_64::__cpuid_count;

/// Where the kernel leaves the mask of the state components it manages.
const SW_MASK: usize = 464;
/// Where the header's mask of components in use lies.
const XSTATE_BV: usize = 512;
/// Legacy area and header.
const FIXED: usize = 576;
const X87_SSE: u64 = 3;

/// The components that images carry: bit, 32-bit words, name.
const YMM: Component = Component { bit: 2, bytes: 256, name: "AVX" };
const BNDREGS: Component = Component { bit: 3, bytes: 64, name: "MPX bounds" };
const BNDCSR: Component = Component { bit: 4, bytes: 64, name: "MPX configuration" };
const OPMASK: Component = Component { bit: 5, bytes: 64, name: "AVX-512 mask" };
const ZMM_HI256: Component = Component { bit: 6, bytes: 512, name: "AVX-512 (upper halves)" };
const HI16_ZMM: Component = Component { bit: 7, bytes: 1024, name: "AVX-512 (16 to 31)" };
const PKRU: Component = Component { bit: 9, bytes: 8, name: "protection key" };
const CARRIED: u64 = X87_SSE | 0b10_1111_1100;

struct Component {
    bit: u32,
    bytes: usize,
    name: &'static str,
}

/// How this processor lays out the standard format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Size in bytes of what PTRACE_SETREGSET takes.
    pub size: usize,
    /// Components that kernel and processor offer.
    pub features: u64,
    /// Where component number `i` lies.
    offsets: [u32; 10],
}

impl Layout {
    /// Asks the processor (CPUID leaf 0xd).
    pub fn native() -> Layout {
        let mut layout = Layout { size: 0, features: enabled(), offsets: [0; 10] };
        layout.size = cpuid(0).0 as usize;
        for bit in 2..10 {
            layout.offsets[bit as usize] = cpuid(bit).0;
        }
        layout
    }

    fn range(&self, component: &Component) -> std::ops::Range<usize> {
        let start = self.offsets[component.bit as usize] as usize;
        start..start + component.bytes
    }
}

/// EBX of leaf 0xd: the size for sub-leaf 0, the offset of a component for the others.
fn cpuid(sub: u32) -> (u32,) {
    #[allow(unused_unsafe, reason = "safe since Rust 1.93")]
    // SAFETY: every x86-64 processor has CPUID.
    let result = unsafe { __cpuid_count(0xd, sub) };
    (result.ebx,)
}

/// The components that the kernel switched on.
fn enabled() -> u64 {
    #[target_feature(enable = "xsave")]
    fn xcr0() -> u64 {
        // SAFETY: XGETBV exists where OSXSAVE does, and register 0 with it.
        #[allow(unused_unsafe)]
        unsafe {
            std::arch::x86_64::_xgetbv(0)
        }
    }
    if !std::arch::is_x86_feature_detected!("xsave") {
        return X87_SSE;
    }
    // SAFETY: the feature was just detected.
    unsafe { xcr0() }
}

fn u32s(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect()
}

fn u64s(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
}

fn u16_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64s(&bytes[at..at + 8])[0]
}

/// The extended state, as PTRACE_GETREGSET with NT_X86_XSTATE gives it, as an image entry.
///
/// # Errors
/// When registers are in use that images cannot hold (AMX tiles).
pub fn to_image(xstate: &[u8], layout: &Layout) -> Result<proto::UserX86FpregsEntry, Error> {
    if xstate.len() < FIXED {
        return Err(Error::Registers { part: "extended state (bytes)", got: xstate.len(), want: FIXED });
    }
    let in_use = u64_at(xstate, XSTATE_BV);
    if let Some(feature) = name_beyond(in_use) {
        return Err(Error::Unsupported(format!("a thread that uses {feature} registers")));
    }
    let managed = match u64_at(xstate, SW_MASK) {
        0 => layout.features,
        mask => mask & layout.features,
    };
    let part = |component: &Component| -> &[u8] {
        match managed >> component.bit & 1 {
            1 => xstate.get(layout.range(component)).unwrap_or_default(),
            _ => &[],
        }
    };
    Ok(proto::UserX86FpregsEntry {
        cwd: u16_at(xstate, 0),
        swd: u16_at(xstate, 2),
        twd: u16_at(xstate, 4),
        fop: u16_at(xstate, 6),
        rip: u64_at(xstate, 8),
        rdp: u64_at(xstate, 16),
        mxcsr: u32s(&xstate[24..28])[0],
        mxcsr_mask: u32s(&xstate[28..32])[0],
        st_space: u32s(&xstate[32..160]),
        xmm_space: u32s(&xstate[160..416]),
        padding: Vec::new(),
        xsave: Some(proto::UserX86XsaveEntry {
            xstate_bv: in_use,
            ymmh_space: u32s(part(&YMM)),
            bndreg_state: u64s(part(&BNDREGS)),
            bndcsr_state: u64s(part(&BNDCSR)),
            opmask_reg: u64s(part(&OPMASK)),
            zmm_upper: u64s(part(&ZMM_HI256)),
            hi16_zmm: u64s(part(&HI16_ZMM)),
            pkru: u32s(part(&PKRU)),
            cet: None,
        }),
    })
}

/// The extended state from an image entry, in the form that PTRACE_SETREGSET takes on this processor.
///
/// # Errors
/// When registers are in use that `layout` lacks, or the image is damaged.
pub fn from_image(entry: &proto::UserX86FpregsEntry, layout: &Layout) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; layout.size.max(FIXED)];
    for (at, value) in [(0, entry.cwd), (2, entry.swd), (4, entry.twd), (6, entry.fop)] {
        let value = u16::try_from(value).map_err(|_| Error::corrupt("x87 register", value))?;
        out[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    out[8..16].copy_from_slice(&entry.rip.to_le_bytes());
    out[16..24].copy_from_slice(&entry.rdp.to_le_bytes());
    out[24..28].copy_from_slice(&entry.mxcsr.to_le_bytes());
    out[28..32].copy_from_slice(&entry.mxcsr_mask.to_le_bytes());
    fill(&mut out[32..160], "st_space", &le32(&entry.st_space))?;
    fill(&mut out[160..416], "xmm_space", &le32(&entry.xmm_space))?;

    let mut in_use = X87_SSE;
    if let Some(xsave) = &entry.xsave {
        if let Some(feature) = name_beyond(xsave.xstate_bv) {
            return Err(Error::Unsupported(format!("a thread that uses {feature} registers")));
        }
        if xsave.cet.is_some_and(|cet| cet.ssp != 0) {
            return Err(Error::Unsupported("a thread with a shadow stack".into()));
        }
        let mut place = |component: &Component, field, bytes: Vec<u8>| {
            let bit = 1 << component.bit;
            if xsave.xstate_bv & bit == 0 || bytes.is_empty() {
                return Ok(());
            }
            let room = out.get_mut(layout.range(component)).filter(|_| layout.features & bit != 0);
            let room = room.ok_or(Error::Processor { feature: component.name })?;
            in_use |= bit;
            fill(room, field, &bytes)
        };
        place(&YMM, "ymmh_space", le32(&xsave.ymmh_space))?;
        place(&BNDREGS, "bndreg_state", le64(&xsave.bndreg_state))?;
        place(&BNDCSR, "bndcsr_state", le64(&xsave.bndcsr_state))?;
        place(&OPMASK, "opmask_reg", le64(&xsave.opmask_reg))?;
        place(&ZMM_HI256, "zmm_upper", le64(&xsave.zmm_upper))?;
        place(&HI16_ZMM, "hi16_zmm", le64(&xsave.hi16_zmm))?;
        place(&PKRU, "pkru", le32(&xsave.pkru))?;
    }
    out[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&in_use.to_le_bytes());
    Ok(out)
}

/// The name of a component in use that images have no field for.
fn name_beyond(in_use: u64) -> Option<&'static str> {
    match in_use & !CARRIED {
        0 => None,
        bits if bits & (0b11 << 17) != 0 => Some("AMX tile"),
        bits if bits & (1 << 19) != 0 => Some("APX extended general"),
        _ => Some("unknown extended"),
    }
}

fn le32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn le64(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The reference may store more than is needed, never less.
fn fill(room: &mut [u8], part: &'static str, bytes: &[u8]) -> Result<(), Error> {
    let want = room.len();
    let bytes = bytes.get(..want).ok_or(Error::Registers { part, got: bytes.len(), want })?;
    room.copy_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The layout of a processor with everything that images carry.
    const FULL: Layout =
        Layout { size: 2696, features: CARRIED, offsets: [0, 0, 576, 960, 1024, 1088, 1152, 1664, 0, 2688] };

    /// What a kernel could give: garbage in registers, a consistent header, nothing between components.
    fn kernel_state(seed: &[u8], in_use: u64) -> Vec<u8> {
        let mut state = vec![0; FULL.size];
        state[..416].copy_from_slice(&seed[..416]);
        state[SW_MASK..SW_MASK + 8].copy_from_slice(&FULL.features.to_le_bytes());
        state[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&in_use.to_le_bytes());
        for component in [&YMM, &BNDREGS, &BNDCSR, &OPMASK, &ZMM_HI256, &HI16_ZMM, &PKRU] {
            if in_use >> component.bit & 1 == 1 {
                let range = FULL.range(component);
                state[range.clone()].copy_from_slice(&seed[range]);
            }
        }
        state
    }

    proptest! {
        #[test]
        fn every_state_survives(seed in proptest::collection::vec(any::<u8>(), 2696), bits in 0u64..1024) {
            let mut state = kernel_state(&seed, bits & CARRIED | X87_SSE);
            let entry = to_image(&state, &FULL).unwrap();
            let back = from_image(&entry, &FULL).unwrap();
            state[SW_MASK..SW_MASK + 8].fill(0); // not the thread's
            prop_assert_eq!(back, state);
        }

        #[test]
        fn another_processor_is_refused_by_name(seed in proptest::collection::vec(any::<u8>(), 2696)) {
            let entry = to_image(&kernel_state(&seed, CARRIED), &FULL).unwrap();
            let avx_only = Layout { size: 832, features: 7, ..FULL };
            let error = from_image(&entry, &avx_only).unwrap_err().to_string();
            prop_assert!(error.contains("MPX bounds"), "{}", error);
            let unused = to_image(&kernel_state(&seed, 7), &FULL).unwrap();
            prop_assert_eq!(from_image(&unused, &avx_only).unwrap().len(), 832);
        }
    }

    #[test]
    fn fields_have_the_lengths_of_the_format() {
        let entry = to_image(&kernel_state(&[7; 2696], CARRIED), &FULL).unwrap();
        let xsave = entry.xsave.as_ref().unwrap();
        assert_eq!((entry.st_space.len(), entry.xmm_space.len(), xsave.ymmh_space.len()), (32, 64, 64));
        assert_eq!((xsave.bndreg_state.len(), xsave.bndcsr_state.len(), xsave.pkru.len()), (8, 8, 2));
        assert_eq!((xsave.opmask_reg.len(), xsave.zmm_upper.len(), xsave.hi16_zmm.len()), (8, 64, 128));
    }

    #[test]
    fn damage_is_noticed() {
        let mut entry = to_image(&kernel_state(&[7; 2696], 7), &FULL).unwrap();
        entry.xsave.as_mut().unwrap().ymmh_space.pop();
        assert!(from_image(&entry, &FULL).unwrap_err().to_string().contains("ymmh_space"));
        entry.xmm_space.pop();
        assert!(from_image(&entry, &FULL).unwrap_err().to_string().contains("xmm_space"));
        assert!(to_image(&[0; 100], &FULL).is_err());
        assert!(to_image(&kernel_state(&[7; 2696], 1 << 18), &FULL).unwrap_err().to_string().contains("AMX"));
    }

    #[test]
    fn this_processor_has_a_layout() {
        let layout = Layout::native();
        assert_eq!(layout.features & X87_SSE, X87_SSE);
        assert!(layout.size >= FIXED, "{layout:?}");
    }
}
