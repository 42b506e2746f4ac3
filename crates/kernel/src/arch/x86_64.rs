//! x86-64: registers, and the XSAVE area as ptrace gives it.
//!
//! The area is a legacy part of 512 bytes (x87 and SSE), a header of 64 bytes, and components
//! at offsets that the processor tells (CPUID leaf 0xd, "standard format").

pub mod cpu;

use std::arch::x86_64::{__cpuid_count, CpuidResult};
use std::sync::OnceLock;

use crate::plain::{self, Plain};

/// The general registers, as `PTRACE_GETREGSET` with `NT_PRSTATUS` gives them.
pub type UserRegs = libc::user_regs_struct;

/// The signature that stands before abort handlers of restartable sequences.
pub const RSEQ_SIGNATURE: u32 = 0x5305_3053;

/// The calling thread's thread pointer (the address that `fs:0` holds).
pub fn thread_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: the ABI keeps the thread pointer itself in the first word of the thread block.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, preserves_flags, readonly));
    }
    pointer
}

/// Offset of the first `syscall` instruction in a piece of code, for instance the vDSO.
///
/// The bytes might be part of a longer instruction; jumping to them is what counts.
pub fn find_syscall(code: &[u8]) -> Option<usize> {
    code.windows(2).position(|bytes| bytes == [0x0f, 0x05])
}

/// Length of the legacy part (`FXSAVE` layout).
pub const LEGACY_LEN: usize = 512;
/// Length of the header after it.
pub const HEADER_LEN: usize = 64;
/// Where the kernel tells which features are enabled (XCR0), in the legacy part's last bytes.
const SOFTWARE_RESERVED: usize = 464;

/// Components of the XSAVE area: the bit numbers of XCR0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Feature {
    /// x87 registers (in the legacy part).
    X87 = 0,
    /// XMM registers (in the legacy part).
    Sse = 1,
    /// High halves of the YMM registers.
    Ymm = 2,
    /// MPX bounds registers.
    BndRegs = 3,
    /// MPX configuration and status.
    BndCsr = 4,
    /// AVX-512 mask registers.
    OpMask = 5,
    /// High halves of ZMM0 to ZMM15.
    ZmmHi256 = 6,
    /// ZMM16 to ZMM31.
    Hi16Zmm = 7,
    /// Protection keys.
    Pkru = 9,
    /// AMX tile configuration.
    TileCfg = 17,
    /// AMX tile data.
    TileData = 18,
    /// Extended general registers (APX).
    Apx = 19,
}

impl Feature {
    /// The components outside the legacy part that this crate knows by name.
    pub const EXTENDED: [Self; 10] = [
        Self::Ymm,
        Self::BndRegs,
        Self::BndCsr,
        Self::OpMask,
        Self::ZmmHi256,
        Self::Hi16Zmm,
        Self::Pkru,
        Self::TileCfg,
        Self::TileData,
        Self::Apx,
    ];

    /// Its bit in XCR0 and `xstate_bv`.
    pub fn bit(self) -> u64 {
        1 << self as u32
    }
}

/// Where a component lies in the area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Component {
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

/// The layout of this machine's XSAVE area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XsaveLayout {
    /// Features that the operating system has enabled (XCR0).
    pub features: u64,
    /// Size of the area with all of them.
    pub size: usize,
    components: [Component; 63],
}

impl XsaveLayout {
    /// This machine's layout, asked once.
    pub fn get() -> &'static Self {
        static LAYOUT: OnceLock<XsaveLayout> = OnceLock::new();
        LAYOUT.get_or_init(Self::discover)
    }

    fn discover() -> Self {
        const XSAVE_ENABLED: u32 = 1 << 27;
        let legacy = Self {
            features: Feature::X87.bit() | Feature::Sse.bit(),
            size: LEGACY_LEN + HEADER_LEN,
            components: [Component::default(); 63],
        };
        if cpuid(0, 0).eax < 0xd || cpuid(1, 0).ecx & XSAVE_ENABLED == 0 {
            return legacy;
        }
        let main = cpuid(0xd, 0);
        // EAX and EDX tell what the processor has; what is enabled stands in XCR0.
        let features = xcr0() & (u64::from(main.edx) << 32 | u64::from(main.eax));
        let mut layout = Self { features, size: main.ebx as usize, ..legacy };
        for n in 2..63 {
            if features >> n & 1 == 1 {
                let leaf = cpuid(0xd, n);
                let at = Component { offset: leaf.ebx as usize, size: leaf.eax as usize };
                layout.components[n as usize] = at;
            }
        }
        layout
    }

    /// Where a component lies; `None` where the machine has it not, or in the legacy part.
    pub fn component(&self, feature: Feature) -> Option<Component> {
        let component = self.components[feature as usize];
        (component.size > 0).then_some(component)
    }
}

#[allow(unused_unsafe)] // safe to call only in newer releases of the standard library
fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { __cpuid_count(leaf, subleaf) }
}

fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: XGETBV with ECX 0 may be used where CPUID tells OSXSAVE, which `discover` has seen.
    unsafe {
        std::arch::asm!(
            "xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags)
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

/// The legacy part, as `FXSAVE` lays it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Legacy {
    /// x87 control word.
    pub cwd: u16,
    /// x87 status word.
    pub swd: u16,
    /// x87 tag word, abridged.
    pub twd: u16,
    /// Last opcode.
    pub fop: u16,
    /// Last instruction pointer.
    pub rip: u64,
    /// Last data pointer.
    pub rdp: u64,
    /// SSE control and status.
    pub mxcsr: u32,
    /// Valid bits of it.
    pub mxcsr_mask: u32,
    /// Eight x87 registers of 16 bytes.
    pub st_space: [u32; 32],
    /// Sixteen XMM registers.
    pub xmm_space: [u32; 64],
    /// Reserved.
    pub padding: [u32; 12],
    /// For software: its first two words are the features enabled.
    pub software: [u32; 12],
}

// SAFETY: integers in C layout without gaps, 512 bytes.
unsafe impl Plain for Legacy {}

/// An XSAVE area in the standard format, as ptrace gives and takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xstate {
    bytes: Vec<u8>,
}

impl Xstate {
    /// Takes an area from `ptrace::xstate`; `None` where it is too short to be one.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() >= LEGACY_LEN + HEADER_LEN).then_some(Self { bytes })
    }

    /// An area of this machine's size from a legacy part, with no other component in use.
    pub fn from_legacy(legacy: &Legacy) -> Self {
        let layout = XsaveLayout::get();
        let mut area = Self { bytes: vec![0; layout.size] };
        area.set_legacy(legacy);
        area.set_in_use(Feature::X87.bit() | Feature::Sse.bit());
        area
    }

    /// All bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the bytes back.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The legacy part.
    pub fn legacy(&self) -> Legacy {
        plain::from_prefix(&self.bytes[..LEGACY_LEN])
    }

    /// Sets the legacy part; its software words become this machine's.
    pub fn set_legacy(&mut self, legacy: &Legacy) {
        self.bytes[..LEGACY_LEN].copy_from_slice(plain::as_bytes(legacy));
        let features = XsaveLayout::get().features.to_le_bytes();
        self.bytes[SOFTWARE_RESERVED..LEGACY_LEN].fill(0);
        self.bytes[SOFTWARE_RESERVED..SOFTWARE_RESERVED + 8].copy_from_slice(&features);
    }

    /// The features enabled on the machine that the area is from, as the kernel noted.
    pub fn enabled(&self) -> u64 {
        plain::from_prefix(&self.bytes[SOFTWARE_RESERVED..LEGACY_LEN])
    }

    /// `xstate_bv`: components that differ from their initial state.
    pub fn in_use(&self) -> u64 {
        plain::from_prefix(&self.bytes[LEGACY_LEN..])
    }

    /// Sets `xstate_bv`. A component left out is taken in its initial state, whatever its bytes.
    pub fn set_in_use(&mut self, features: u64) {
        self.bytes[LEGACY_LEN..LEGACY_LEN + 8].copy_from_slice(&features.to_le_bytes());
    }

    /// A component's bytes, at this machine's place for it; `None` where the machine or the
    /// area has it not.
    pub fn component(&self, feature: Feature) -> Option<&[u8]> {
        let at = XsaveLayout::get().component(feature)?;
        self.bytes.get(at.offset..at.offset + at.size)
    }

    /// Sets a component's bytes and marks it as in use; `false` where the machine has it not, or
    /// with another size.
    #[must_use]
    pub fn set_component(&mut self, feature: Feature, bytes: &[u8]) -> bool {
        let Some(at) = XsaveLayout::get().component(feature) else { return false };
        match self.bytes.get_mut(at.offset..at.offset + at.size) {
            Some(target) if target.len() == bytes.len() => target.copy_from_slice(bytes),
            _ => return false,
        }
        self.set_in_use(self.in_use() | feature.bit());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syscall_instruction() {
        assert_eq!(find_syscall(&[0x90, 0x0f, 0x05, 0xc3]), Some(1));
        assert_eq!(find_syscall(&[0x0f]), None);
        // The running kernel's vDSO has one.
        let dir = crate::proc::ProcDir::current().unwrap();
        let vdso = dir.maps().unwrap().into_iter().find(|v| v.special() == Some("vdso")).unwrap();
        let mut code = vec![0; vdso.len() as usize];
        crate::memory::read_exact(nix::unistd::Pid::this(), vdso.start, &mut code).unwrap();
        assert!(find_syscall(&code).is_some());
    }

    #[test]
    fn layout_is_consistent() {
        let layout = XsaveLayout::get();
        assert_eq!(size_of::<Legacy>(), LEGACY_LEN);
        let mut end = LEGACY_LEN + HEADER_LEN;
        for feature in Feature::EXTENDED {
            assert_eq!(layout.component(feature).is_some(), layout.features & feature.bit() != 0);
            if let Some(at) = layout.component(feature) {
                assert!(at.offset >= LEGACY_LEN + HEADER_LEN, "{feature:?}");
                end = end.max(at.offset + at.size);
            }
        }
        assert!(end <= layout.size);
        if let Some(ymm) = layout.component(Feature::Ymm) {
            assert_eq!(ymm, Component { offset: 576, size: 256 });
        }
    }

    #[test]
    fn components_there_and_back() {
        let legacy = Legacy { cwd: 0x37f, mxcsr: 0x1f80, ..plain::zeroed() };
        let mut area = Xstate::from_legacy(&legacy);
        assert_eq!(area.in_use(), 3);
        assert_eq!(area.enabled(), XsaveLayout::get().features);
        assert_eq!(area.legacy().mxcsr, 0x1f80);
        assert!(!area.set_component(Feature::X87, &[]));
        if XsaveLayout::get().component(Feature::Ymm).is_some() {
            assert!(area.set_component(Feature::Ymm, &[7; 256]));
            assert_eq!((area.in_use(), area.component(Feature::Ymm)), (7, Some(&[7; 256][..])));
            assert!(!area.set_component(Feature::Ymm, &[7; 255]));
        }
        let bytes = area.clone().into_bytes();
        assert_eq!(Xstate::from_bytes(bytes), Some(area));
        assert_eq!(Xstate::from_bytes(vec![0; 100]), None);
    }
}
