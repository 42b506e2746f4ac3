//! Structures that the kernel reads and writes byte by byte.

/// A type that is nothing but bytes.
///
/// # Safety
///
/// Every bit pattern is a valid value, there is no padding, and no pointer that safe code follows.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($t:ty),*) => { $(
        // SAFETY: integers have no padding and no invalid bit pattern.
        unsafe impl Plain for $t {}
    )* };
}
plain!(u8, i8, u16, i16, u32, i32, u64, i64, usize, isize);

// SAFETY: an array has no padding of its own.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// A value of zero bytes.
pub fn zeroed<T: Plain>() -> T {
    // SAFETY: `Plain` promises that any bit pattern, so also zero, is valid.
    unsafe { std::mem::zeroed() }
}

/// The bytes of a value.
pub fn as_bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` has no padding, so all its bytes are initialised; the borrow keeps it alive.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The bytes of a value, to be filled.
pub fn as_bytes_mut<T: Plain>(value: &mut T) -> &mut [u8] {
    // SAFETY: as in `as_bytes`; any bytes written leave a valid value.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(value).cast(), size_of::<T>()) }
}

/// Reads a value from the front of `bytes`; what a shorter (older) kernel structure lacks is zero.
pub fn from_prefix<T: Plain>(bytes: &[u8]) -> T {
    let mut value = zeroed();
    let target = as_bytes_mut(&mut value);
    let n = bytes.len().min(target.len());
    target[..n].copy_from_slice(&bytes[..n]);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_there_and_back() {
        assert_eq!(as_bytes(&0x0403_0201u32), 0x0403_0201u32.to_ne_bytes());
        assert_eq!(from_prefix::<[u16; 2]>(as_bytes(&[7u16, 9])), [7, 9]);
        assert_eq!(from_prefix::<u64>(&1u32.to_le_bytes()), 1);
        assert_eq!(zeroed::<[u64; 3]>(), [0; 3]);
    }
}
