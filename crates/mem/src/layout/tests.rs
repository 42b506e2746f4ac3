use super::*;
use criu_script::Arg;

const PAGE: u64 = 4096;
const ANON: u32 = status::REGULAR | status::ANON_PRIVATE;

fn area(start: u64, end: u64, prot: u32) -> VmaEntry {
    VmaEntry { start, end, prot, flags: 0x22, status: ANON, fd: -1, ..VmaEntry::default() }
}

fn extent(start: u64, end: u64, offset: u64) -> Extent {
    Extent { range: start..end, flags: 4, offset: Some(offset) }
}

/// Name and first three arguments of each step.
fn calls(script: &Script) -> Vec<(i64, u64, u64, u64)> {
    let value = |arg: Arg| match arg {
        Arg::Value(value) => value,
        _ => 0,
    };
    let call = |step: &criu_script::Step| {
        (i64::from(step.nr), value(step.args[0]), value(step.args[1]), value(step.args[2]))
    };
    script.steps().iter().map(call).collect()
}

#[test]
fn neighbours_are_mapped_and_filled_together() {
    let areas =
        [area(0x1000, 0x3000, 3), area(0x3000, 0x5000, 1), area(0x5000, 0x6000, 0), area(0x6000, 0x7000, 1)];
    let content = pieces("x", &areas, &[extent(0x2000, 0x5000, 0), extent(0x6000, 0x7000, 0x3000)]).unwrap();
    let with: Vec<_> = content.iter().map(|piece| piece.area).collect();
    assert_eq!(with, [0, 1, 3]);
    let has = |area: usize| with.contains(&area);
    let mut script = Script::new("test");
    let none = &mut |_: &VmaEntry| -> Result<i32, ()> { unreachable!() };
    map_steps(areas.iter().enumerate(), &has, none, &mut script).unwrap();
    fill_steps(content, 9, &mut script);
    final_steps(&areas, &has, &|_| false, &mut script);
    assert_eq!(
        calls(&script),
        [
            (libc::SYS_mmap, 0x1000, 0x4000, 3),
            (libc::SYS_mmap, 0x5000, 0x1000, 0),
            (libc::SYS_mmap, 0x6000, 0x1000, 3),
            (libc::SYS_preadv, 9, 0, 2),
            (libc::SYS_mprotect, 0x3000, 0x2000, 1),
            (libc::SYS_mprotect, 0x6000, 0x1000, 1),
        ]
    );
    assert_eq!(script.steps()[3].check, Check::Eq(4 * PAGE as i64));
}

#[test]
fn reads_are_split_where_the_kernel_demands_it() {
    let piece = |start: u64, len: u64, offset: u64| Piece { area: 0, start, len, offset };
    let many = (0..1500).map(|n| piece(n * 2 * PAGE, PAGE, n * PAGE));
    let mut script = Script::new("test");
    fill_steps(many, 9, &mut script);
    let counts: Vec<_> = calls(&script).iter().map(|call| call.3).collect();
    assert_eq!(counts, [1024, 476]);

    let mut script = Script::new("test");
    fill_steps([piece(0, 5 << 29, 0), piece(1 << 40, PAGE, 1 << 36)], 9, &mut script);
    let lengths: Vec<_> = script.steps().iter().map(|step| step.check).collect();
    assert_eq!(lengths, [Check::Eq(1 << 30), Check::Eq(1 << 30), Check::Eq(1 << 29), Check::Eq(PAGE as i64)]);
}

#[test]
fn pages_outside_of_private_areas_are_refused() {
    let areas = [area(0x1000, 0x2000, 3)];
    let error = pieces("pagemap-1.img", &areas, &[extent(0x1000, 0x3000, 0)]).unwrap_err();
    assert_eq!(error.to_string(), "pagemap-1.img: the page at 0x2000 is in no area");
    let parent = Extent { range: 0x1000..0x2000, flags: 1, offset: None };
    assert!(pieces("x", &areas, &[parent]).unwrap_err().to_string().contains("lazy pages"));
    let shared = [VmaEntry { status: status::REGULAR | status::ANON_SHARED, ..areas[0] }];
    assert!(pieces("x", &shared, &[extent(0x1000, 0x2000, 0)]).is_err());
}

#[test]
fn advice_and_locks_come_last() {
    let huge = 1 << libc::MADV_HUGEPAGE;
    let dont_dump = 1 << libc::MADV_DONTDUMP;
    let a = VmaEntry { madv: Some(huge | dont_dump), ..area(0x1000, 0x2000, 3) };
    let b = VmaEntry { madv: Some(dont_dump), flags: 0x22 | LOCKED, ..area(0x2000, 0x3000, 3) };
    let guard = VmaEntry { start: 0x1000, end: 0x2000, status: status::GUARD, ..VmaEntry::default() };
    let c = VmaEntry { flags: 0x22 | LOCKED, ..area(0x3000, 0x4000, 3) };
    let areas = [a, b, c, guard];
    let mut script = Script::new("test");
    early_advice_steps(&areas.iter().collect::<Vec<_>>(), &mut script);
    final_steps(&areas, &|_| false, &|area| area.start == 0x3000, &mut script);
    assert_eq!(
        calls(&script),
        [
            (libc::SYS_madvise, 0x1000, 0x1000, 14),
            (libc::SYS_madvise, 0x1000, 0x2000, 16),
            (libc::SYS_madvise, 0x1000, 0x1000, 102),
            (libc::SYS_mlock, 0x2000, 0x1000, 0),
            (libc::SYS_mlock2, 0x3000, 0x1000, 1),
        ]
    );
}

#[test]
fn large_pieces_are_populated_first() {
    let areas = [area(0x10_0000, 0x30_0000, 3), area(0x30_0000, 0x40_0000, 1), area(0x50_0000, 0x51_0000, 3)];
    let extents = [extent(0x18_0000, 0x38_0000, 0), extent(0x50_0000, 0x50_1000, 0x20_0000)];
    let content = pieces("x", &areas, &extents).unwrap();
    let mut script = Script::new("test");
    populate_steps(&areas, &content, &mut script);
    assert_eq!(calls(&script), [(libc::SYS_madvise, 0x18_0000, 0x20_0000, libc::MADV_POPULATE_WRITE as u64)]);
}
