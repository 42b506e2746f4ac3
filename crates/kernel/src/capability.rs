//! capget(2) and capset(2), version 3 (Linux 2.6.26), as 64-bit masks.

use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::plain::Plain;

/// The three sets that capset(2) changes; bit `n` for capability number `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapSets {
    /// Effective.
    pub effective: u64,
    /// Permitted.
    pub permitted: u64,
    /// Inheritable.
    pub inheritable: u64,
}

impl CapSets {
    /// Whether capability `number` is effective.
    pub fn has(&self, number: u32) -> bool {
        self.effective >> number & 1 == 1
    }

    /// As the kernel's structure: low halves, then high halves.
    pub fn to_data(self) -> [Data; 2] {
        [0, 32].map(|shift| Data {
            effective: (self.effective >> shift) as u32,
            permitted: (self.permitted >> shift) as u32,
            inheritable: (self.inheritable >> shift) as u32,
        })
    }

    /// From the kernel's structure.
    pub fn from_data([low, high]: [Data; 2]) -> Self {
        let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        Self {
            effective: join(low.effective, high.effective),
            permitted: join(low.permitted, high.permitted),
            inheritable: join(low.inheritable, high.inheritable),
        }
    }
}

/// `CAP_NET_ADMIN`
pub const NET_ADMIN: u32 = 12;
/// `CAP_SYS_PTRACE`
pub const SYS_PTRACE: u32 = 19;
/// `CAP_SYS_ADMIN`
pub const SYS_ADMIN: u32 = 21;
/// `CAP_SYS_RESOURCE`
pub const SYS_RESOURCE: u32 = 24;
/// `CAP_CHECKPOINT_RESTORE` (Linux 5.9)
pub const CHECKPOINT_RESTORE: u32 = 40;

/// `_LINUX_CAPABILITY_VERSION_3`
pub const VERSION_3: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`VERSION_3`].
    pub version: u32,
    /// Thread, 0 for the calling one.
    pub pid: i32,
}

/// `struct __user_cap_data_struct`: 32 bits of each set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Data {
    /// Effective.
    pub effective: u32,
    /// Permitted.
    pub permitted: u32,
    /// Inheritable.
    pub inheritable: u32,
}

// SAFETY: two integers of four bytes.
unsafe impl Plain for Header {}
// SAFETY: three integers of four bytes.
unsafe impl Plain for Data {}

/// The sets of a thread; 0 is the calling thread.
pub fn get(tid: Pid) -> Result<CapSets> {
    let mut header = Header { version: VERSION_3, pid: tid.as_raw() };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 fills two structures.
    let r = unsafe { libc::syscall(libc::SYS_capget, &mut header, data.as_mut_ptr()) };
    Errno::result(r).map(|_| CapSets::from_data(data))
}

/// Sets the sets of the calling thread. `EPERM` for more than it has.
pub fn set(sets: CapSets) -> Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let data = sets.to_data();
    // SAFETY: version 3 reads two structures.
    let r = unsafe { libc::syscall(libc::SYS_capset, &mut header, data.as_ptr()) };
    Errno::result(r).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_lowers_and_raises_its_effective_set() {
        std::thread::spawn(|| {
            let me = Pid::from_raw(0);
            let before = get(me).unwrap();
            set(CapSets { effective: 0, ..before }).unwrap();
            let seen = get(me).unwrap();
            assert_eq!((seen.effective, seen.permitted), (0, before.permitted));
            assert!(!seen.has(SYS_ADMIN));
            set(before).unwrap();
            assert_eq!(get(me).unwrap(), before);
            if before.permitted != u64::MAX {
                let all = CapSets { permitted: u64::MAX, ..before };
                // Unknown bits are cut off, missing known ones refused.
                let _ = set(all);
                assert_eq!(get(me).unwrap().permitted, before.permitted);
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn halves() {
        let sets = CapSets { effective: 1 << 40 | 1, permitted: u64::MAX, inheritable: 1 << 32 };
        assert_eq!(CapSets::from_data(sets.to_data()), sets);
        assert!(sets.has(CHECKPOINT_RESTORE) && sets.has(0) && !sets.has(1));
        assert_eq!(sets.to_data()[1].inheritable, 1);
    }
}
