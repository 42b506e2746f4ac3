//! The bits of `vma_entry.status`, and what follows from them.

use criu_images::proto::VmaEntry;

/// An ordinary area, with content.
pub const REGULAR: u32 = 1 << 0;
/// The legacy page of system calls.
pub const VSYSCALL: u32 = 1 << 2;
/// The code that the kernel puts into every process.
pub const VDSO: u32 = 1 << 3;
/// The heap of brk(2).
pub const HEAP: u32 = 1 << 5;
/// A private mapping of a file.
pub const FILE_PRIVATE: u32 = 1 << 6;
/// A shared mapping of a file.
pub const FILE_SHARED: u32 = 1 << 7;
/// Shared anonymous memory.
pub const ANON_SHARED: u32 = 1 << 8;
/// Private anonymous memory.
pub const ANON_PRIVATE: u32 = 1 << 9;
/// System V shared memory.
pub const SYSVIPC: u32 = 1 << 10;
/// The rings of a packet socket, which the socket makes: they are mapped, and have no content here.
pub const SOCKET: u32 = 1 << 11;
/// The vDSO's data.
pub const VVAR: u32 = 1 << 12;
/// The ring of an asynchronous I/O context.
pub const AIORING: u32 = 1 << 13;
/// A mapping of a memfd: the file's entry is one of `memfd.img`'s.
pub const MEMFD: u32 = 1 << 14;
/// A shadow stack.
pub const SHSTK: u32 = 1 << 15;
/// No area, but guard pages (MADV_GUARD_INSTALL) within areas. After all areas.
pub const GUARD: u32 = 1 << 16;
/// The kernel's area for uprobes.
pub const UPROBES: u32 = 1 << 17;
/// A device's area, dumped by a plugin.
pub const PLUGIN: u32 = 1 << 27;

/// Whether all of these bits are set.
pub fn is(vma: &VmaEntry, bits: u32) -> bool {
    vma.status & bits == bits
}

/// Whether any of these bits is set.
pub fn any(vma: &VmaEntry, bits: u32) -> bool {
    vma.status & bits != 0
}

/// Whether the kernel maps it by itself, so that mmap(2) cannot bring it back.
pub fn is_special(vma: &VmaEntry) -> bool {
    any(vma, VDSO | VVAR | VSYSCALL | UPROBES | GUARD | AIORING)
}

/// Whether the task's own writes to it are its own: its pages are stored with the task.
pub fn is_private(vma: &VmaEntry) -> bool {
    is(vma, REGULAR) && any(vma, ANON_PRIVATE | FILE_PRIVATE) && !is_special(vma)
}

/// Whether a file's content shows through.
pub fn is_file(vma: &VmaEntry) -> bool {
    any(vma, FILE_PRIVATE | FILE_SHARED)
}

/// `MAP_DROPPABLE` of mmap(2) (Linux 6.11).
pub const MAP_DROPPABLE: u32 = 0x08;

/// `MAP_HUGETLB` of mmap(2), in `vma_entry.flags` of areas without a file, or with a memfd.
pub const MAP_HUGETLB: u32 = libc::MAP_HUGETLB as u32;

/// Of the bits of `vma_entry.flags` that name the size of huge pages (its logarithm), the lowest.
const HUGE_SHIFT: u32 = 26;

/// The bits of `vma_entry.flags` that name the size of huge pages, as mmap(2) has it.
pub const HUGE_SIZE: u32 = 0x3f << HUGE_SHIFT;

/// The size of pages, in bytes, that such bits name.
pub fn page_of(bits: u32) -> u64 {
    1 << ((bits & HUGE_SIZE) >> HUGE_SHIFT)
}

/// Bits of `vma_entry.flags` for huge pages of `size` bytes.
pub fn huge_size(size: u64) -> u32 {
    MAP_HUGETLB | size.trailing_zeros() << HUGE_SHIFT
}
