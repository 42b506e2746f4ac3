//! The calling thread's restartable sequence area (rseq(2), Linux 4.18).
//!
//! A raw clone without `CLONE_VM` keeps the caller's registration: once the old address space
//! goes, the kernel kills the new task at its next preemption. So unregister before.

use nix::Result;
use nix::errno::Errno;

use crate::arch;

/// The signature that glibc registers with.
pub const SIGNATURE: u32 = arch::RSEQ_SIGNATURE;
const RSEQ_FLAG_UNREGISTER: i32 = 1;
const AT_RSEQ_FEATURE_SIZE: libc::c_ulong = 27;
const AT_RSEQ_ALIGN: libc::c_ulong = 28;
/// Size of the first kernel interface, and still the least that can be registered.
const ORIGINAL_SIZE: u32 = 32;

/// Where glibc registered the calling thread's area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Address of its `struct rseq`.
    pub address: u64,
    /// Size of the registration in bytes, as far as can be known from inside: glibc tells only
    /// how much of it is in use.
    pub size: u32,
    /// Signature.
    pub signature: u32,
}

/// The area that glibc registered for the calling thread; `None` where it did not
/// (glibc before 2.35, `GLIBC_TUNABLES=glibc.pthread.rseq=0`, another libc).
pub fn area() -> Option<Area> {
    let offset: isize = symbol(c"__rseq_offset")?;
    let size: u32 = symbol(c"__rseq_size")?;
    if size == 0 {
        return None;
    }
    let address = arch::thread_pointer().wrapping_add_signed(offset as i64);
    Some(Area { address, size: size.max(ORIGINAL_SIZE), signature: SIGNATURE })
}

fn symbol<T: Copy>(name: &std::ffi::CStr) -> Option<T> {
    // SAFETY: the name is a C string; looking a symbol up has no other condition.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: glibc documents these symbols as constants of the types that `area` asks for.
    (!found.is_null()).then(|| unsafe { found.cast::<T>().read() })
}

impl Area {
    /// Ends the calling thread's registration, and gives the area with its true size, to be
    /// registered again. `EINVAL` where it is not registered.
    pub fn unregister(self) -> Result<Self> {
        // The kernel wants exactly the size that was registered.
        let auxv = |kind| {
            // SAFETY: getauxval only reads the process's own vector.
            unsafe { libc::getauxval(kind) as u32 }
        };
        let feature_size = auxv(AT_RSEQ_FEATURE_SIZE).next_multiple_of(auxv(AT_RSEQ_ALIGN).max(1));
        let mut answer = Err(Errno::EINVAL);
        for size in [self.size, feature_size.max(ORIGINAL_SIZE), ORIGINAL_SIZE] {
            answer = self.call(size, RSEQ_FLAG_UNREGISTER);
            if answer.is_ok() {
                return Ok(Self { size, ..self });
            }
        }
        answer.map(|()| self)
    }

    /// Registers the area for the calling thread again, after [`Area::unregister`] in it.
    pub fn register(self) -> Result<()> {
        self.call(self.size, 0)
    }

    fn call(&self, size: u32, flags: i32) -> Result<()> {
        // SAFETY: the area is the one that glibc set aside in this thread's static TLS for
        // exactly this; the kernel checks address and size against its registration.
        let r = unsafe { libc::syscall(libc::SYS_rseq, self.address, size, flags, self.signature) };
        Errno::result(r).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_takes_its_registration_off_and_on() {
        std::thread::spawn(|| {
            let Some(area) = area() else { return };
            let area = area.unregister().unwrap();
            assert_eq!(area.unregister().unwrap_err(), Errno::EINVAL);
            area.register().unwrap();
            assert_eq!(area.register().unwrap_err(), Errno::EBUSY);
        })
        .join()
        .unwrap();
    }
}
