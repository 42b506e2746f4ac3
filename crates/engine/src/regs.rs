//! `user_regs_struct` as a list of words, in its own order.

use criu_kernel::arch::UserRegs;

macro_rules! words {
    ($($name:ident),*) => {
        /// Number of words.
        pub(crate) const WORDS: usize = [$(stringify!($name)),*].len();

        pub(crate) fn to_words(regs: &UserRegs) -> Vec<u64> {
            vec![$(regs.$name),*]
        }

        /// `None` for another number of words.
        pub(crate) fn from_words(words: &[u64]) -> Option<UserRegs> {
            let &[$($name),*] = <&[u64; WORDS]>::try_from(words).ok()?;
            Some(UserRegs { $($name),* })
        }
    };
}

words!(
    r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags, rsp,
    ss, fs_base, gs_base, ds, es, fs, gs
);
