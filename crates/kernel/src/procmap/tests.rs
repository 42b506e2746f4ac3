use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd;

use super::*;

const MAPS: &str = "\
55e6422ee000-55e6422f0000 r--p 00001000 fe:00 247282                     /usr/bin/a file
7f0000000000-7f0000001000 rw-s 00000000 00:01 17                         /dev/zero (deleted)
7f0000002000-7f0000003000 ---p 00000000 00:00 0 
7f0000004000-7f0000005000 rw-p 00000000 00:00 0                          [anon:my heap]
7f0000006000-7f0000007000 r-xp 00000000 fe:00 18                         /a\\012b\\040c
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

#[test]
fn lines() {
    let vmas: Vec<Vma> = parse_maps(MAPS.as_bytes()).collect::<Result<_, _>>().unwrap();
    assert_eq!(
        vmas[0],
        Vma {
            start: 0x55e6_422e_e000,
            end: 0x55e6_422f_0000,
            prot: Prot::READ,
            offset: 0x1000,
            device: (0xfe, 0),
            inode: 247_282,
            name: "/usr/bin/a file".into(),
            ..Vma::default()
        }
    );
    assert!(vmas[1].shared && vmas[1].name == "/dev/zero (deleted)");
    assert!(vmas[2].name.is_empty() && vmas[2].prot.is_empty());
    assert_eq!(vmas[3].special(), Some("anon:my heap"));
    assert_eq!(vmas[4].name, "/a\nb\\040c");
    assert_eq!((vmas[5].special(), vmas[5].len()), (Some("vsyscall"), 4096));
}

#[test]
fn wrong_lines_are_refused() {
    for line in ["", "x", "1-2", "1-2 rw-p 0 0:0 ", "1-2 rw- 0 0:0 0", "1-g rw-p 0 0:0 0"] {
        let text = format!("{line}\n");
        let answer = parse_maps(text.as_bytes()).next().unwrap();
        assert!(matches!(answer, Err(ProcError::Parse { file: "maps", .. })), "{line}");
    }
}

#[test]
fn smaps_fields_belong_to_their_mapping() {
    let text = "\
1000-2000 r--p 00000000 00:00 0 
Rss:                   8 kB
ProtectionKey:         3
VmFlags: rd mr mw me dd lo ?? 
2000-3000 rw-p 00000000 00:00 0 
VmFlags: rd wr gd 
";
    let vmas: Vec<Vma> = parse_smaps(text.as_bytes()).collect::<Result<_, _>>().unwrap();
    assert_eq!(vmas.len(), 2);
    assert_eq!(vmas[0].protection_key, 3);
    let flags = vmas[0].flags.unwrap();
    assert!(flags.contains(VmFlags::DONT_DUMP | VmFlags::LOCKED));
    assert!(!flags.intersects(VmFlags::WRITE | VmFlags::GROWS_DOWN));
    assert!(vmas[1].flags.unwrap().contains(VmFlags::GROWS_DOWN));
}

#[test]
fn three_sources_agree() {
    // Another process, so that nothing changes between the readings.
    let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let pid = child.id();
    std::thread::sleep(std::time::Duration::from_millis(200));
    let open = |name: &str| File::open(format!("/proc/{pid}/{name}")).unwrap();
    let maps: Vec<Vma> = parse_maps(BufReader::new(open("maps"))).collect::<Result<_, _>>().unwrap();
    let smaps: Vec<Vma> = parse_smaps(BufReader::new(open("smaps"))).collect::<Result<_, _>>().unwrap();
    let file = open("maps");
    let queried = query_all(file.as_fd()).collect::<nix::Result<Vec<Vma>>>();
    child.kill().unwrap();
    child.wait().unwrap();
    let plain: Vec<Vma> = smaps
        .into_iter()
        .map(|vma| {
            assert!(vma.flags.is_some());
            Vma { flags: None, ..vma }
        })
        .collect();
    assert_eq!(maps, plain);
    match queried {
        // The vsyscall page belongs to no process, so queries do not see it.
        Ok(queried) => {
            let mut maps = maps;
            maps.retain(|vma| vma.special() != Some("vsyscall"));
            assert_eq!(maps, queried);
        }
        Err(errno) => assert_eq!(errno, Errno::ENOTTY),
    }
}
