//! Live: memory.

use criu_testkit::{Live, fixtures};

macro_rules! survive {
    ($($fixture:ident)*) => {
        $(#[test]
        fn $fixture() {
            Live::of(stringify!($fixture)).survives();
        })*
    };
}

survive! {
    private_memory shared_memory heap stack holes copy_on_write advice locks sealed_areas
    mapped_files deleted_mapped_files program_image vdso
}

#[test]
fn huge_pages() {
    if !fixtures::reserve_huge_pages(16) {
        eprintln!("not run: this machine gives no huge pages");
        return;
    }
    Live::of("huge_pages").survives();
}
