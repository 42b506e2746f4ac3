use super::*;
use criu_kernel::procmap::parse_smaps;
use status::*;

/// Device of the kernel's internal tmpfs in these texts.
const SHMEM: (u32, u32) = (0, 1);

fn smaps(areas: &[(&str, &str)]) -> String {
    areas.iter().map(|(line, flags)| format!("{line}\nSize: 4 kB\nVmFlags: {flags}\n")).collect()
}

fn areas(text: &[(&str, &str)]) -> Result<Vec<Area>, Error> {
    classify(7, SHMEM, parse_smaps(smaps(text).as_bytes()).map(Result::unwrap))
}

fn one(line: &str, flags: &str) -> Area {
    areas(&[(line, flags)]).unwrap().remove(0)
}

fn refusal(line: &str, flags: &str) -> String {
    areas(&[(line, flags)]).unwrap_err().to_string()
}

#[test]
fn anonymous_areas() {
    let heap = one("1000-3000 rw-p 00000000 00:00 0    [heap]", "rd wr mr mw me ac").entry;
    assert_eq!((heap.start, heap.end, heap.prot, heap.fd), (0x1000, 0x3000, 3, -1));
    assert_eq!(heap.status, REGULAR | HEAP | ANON_PRIVATE);
    assert_eq!(heap.flags, MAP_PRIVATE | MAP_ANONYMOUS);
    let stack = one("1000-3000 rw-p 00000000 00:00 0    [stack]", "rd wr mr mw me gd lo ac").entry;
    assert_eq!(stack.status, REGULAR | ANON_PRIVATE);
    assert_eq!(stack.flags, MAP_PRIVATE | MAP_ANONYMOUS | 0x100 | 0x2000);
    let named = one("1000-3000 ---p 00000000 00:00 0    [anon:arena]", "mr mw me nr sd").entry;
    assert_eq!((named.status, named.prot), (REGULAR | ANON_PRIVATE, 0));
    assert_eq!(named.flags, MAP_PRIVATE | MAP_ANONYMOUS | libc::MAP_NORESERVE as u32);
    let droppable = one("1000-3000 rw-p 00000000 00:00 0", "rd wr mr mw me nr dd wf dp").entry;
    assert_eq!(droppable.flags & 0xf, status::MAP_DROPPABLE);
    assert_eq!(droppable.madv, Some(1 << libc::MADV_DONTDUMP | 1 << libc::MADV_WIPEONFORK));
}

#[test]
fn shared_memory_and_memfds() {
    let shared = one("1000-9000 rw-s 00002000 00:01 77   /dev/zero (deleted)", "rd wr sh mr mw me ms");
    assert_eq!(shared.file, None);
    assert_eq!(shared.entry.status, REGULAR | ANON_SHARED);
    assert_eq!(shared.entry.flags, MAP_SHARED | MAP_ANONYMOUS);
    assert_eq!((shared.entry.shmid, shared.entry.pgoff), (77, 0x2000));
    let memfd = one("1000-9000 r--s 00000000 00:01 78   /memfd:x (deleted)", "rd sh mr me ms");
    assert_eq!(memfd.entry.status, REGULAR | MEMFD | FILE_SHARED);
    assert_eq!(memfd.entry.fdflags, Some(0), "sealed against writing: not opened for it");
    assert_eq!(memfd.file.unwrap().inode, 78);
    let segment = one("1000-2000 r--s 00000000 00:01 0  /SYSV00000000 (deleted)", "rd sh");
    assert_eq!(segment.entry.status, REGULAR | ANON_SHARED | SYSVIPC);
    assert_eq!((segment.entry.shmid, segment.entry.fdflags), (0, Some(libc::O_RDONLY as u32)));
}

#[test]
fn files() {
    let text = one("1000-2000 r-xp 00003000 fe:01 9    /usr/bin/two words", "rd ex mr mw me");
    assert_eq!(text.entry.status, REGULAR | FILE_PRIVATE);
    assert_eq!((text.entry.flags, text.entry.pgoff), (MAP_PRIVATE, 0x3000));
    let key = text.file.unwrap();
    assert_eq!((key.device, key.inode, key.path.to_str()), ((0xfe, 1), 9, Some("/usr/bin/two words")));
    let shared = one("1000-2000 r--s 00000000 fe:01 9    /f (deleted)", "rd sh mr mw me ms").entry;
    assert_eq!(shared.status, REGULAR | FILE_SHARED);
    assert_eq!(shared.fdflags, Some(libc::O_RDWR as u32), "it may become writable");
}

#[test]
fn the_kernels_own_areas() {
    let found = areas(&[
        ("1000-5000 r--p 00000000 00:00 0    [vvar]", "rd mr pf io de dd"),
        ("5000-7000 r--p 00000000 00:00 0    [vvar_vclock]", "rd mr pf io de dd"),
        ("7000-9000 r-xp 00000000 00:00 0    [vdso]", "rd ex mr mw me de"),
        ("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]", "ex"),
    ])
    .unwrap();
    let shown: Vec<_> = found.iter().map(|a| (a.entry.start, a.entry.end, a.entry.status)).collect();
    assert_eq!(
        shown,
        [
            (0x1000, 0x7000, REGULAR | VVAR | ANON_PRIVATE),
            (0x7000, 0x9000, REGULAR | VDSO | ANON_PRIVATE),
            (0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000, VSYSCALL | ANON_PRIVATE),
        ]
    );
    assert!(found.iter().all(|area| is_special(&area.entry) && !is_private(&area.entry)));
}

#[test]
fn what_cannot_be_restored_is_refused_by_name() {
    let line = "1000-2000 rw-p 00000000 00:00 0";
    for (flags, word) in [("rd ss", "shadow stack"), ("rd uw", "userfaultfd")] {
        let text = refusal(line, flags);
        assert!(text.starts_with("area 0x1000-0x2000 of task 7: not supported: "), "{text}");
        assert!(text.contains(word), "{text}");
    }
    let device = refusal("1000-2000 rw-s 00000000 00:05 4   /dev/mem", "rd wr sh io pf");
    assert!(device.contains("memory of a device (/dev/mem)"), "{device}");
    let ring = refusal("1000-2000 rw-s 00000000 00:0f 4   anon_inode:[io_uring]", "rd wr sh io");
    assert!(ring.contains("io_uring"), "{ring}");
}

#[test]
fn rings_of_packet_sockets() {
    let ring = one("1000-9000 rw-s 00000000 00:08 77   socket:[77]", "rd wr sh mr mw me ms mm");
    assert_eq!((ring.entry.status, ring.entry.flags), (REGULAR | SOCKET, MAP_SHARED));
    assert_eq!(ring.file.unwrap().inode, 77);
    let part = refusal("1000-9000 rw-s 00001000 00:08 77   socket:[77]", "rd wr sh");
    assert!(part.contains("a part of the ring of socket:[77]"), "{part}");
}

#[test]
fn huge_pages_and_io_contexts() {
    let own = one("200000-400000 rw-p 00000000 00:0e 5   /anon_hugepage (deleted)", "rd wr mr mw me ht");
    assert_eq!((own.entry.status, own.file), (REGULAR | ANON_PRIVATE, None));
    assert_eq!(own.entry.flags, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB);
    let shared = one("200000-400000 rw-s 00200000 00:0e 5   /anon_hugepage (deleted)", "rd wr sh ms ht");
    assert_eq!(shared.entry.status, REGULAR | ANON_SHARED);
    assert_eq!(shared.entry.pgoff, 0x20_0000);
    assert_ne!(shared.entry.shmid, 5, "another object than number 5 of small pages");
    let memfd = one("200000-400000 rw-s 00000000 00:0e 6   /memfd:x (deleted)", "rd wr sh mw ms ht");
    assert_eq!(memfd.entry.status, REGULAR | MEMFD | FILE_SHARED);
    assert_eq!(memfd.entry.flags, MAP_SHARED | MAP_HUGETLB);
    assert_eq!(huge_size(2 << 20), MAP_HUGETLB | 21 << 26);
    let ring = one("1000-2000 rw-s 00000000 00:0f 4   /[aio] (deleted)", "rd wr sh de");
    assert_eq!((ring.entry.status, ring.entry.flags, ring.file), (AIORING, MAP_SHARED, None));
}
