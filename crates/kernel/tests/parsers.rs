//! No text makes a parser panic, and what the kernel would print comes back as it was.

use criu_kernel::proc::{FdInfo, Stat, Status, parse_auxv, parse_mountinfo, parse_pairs, parse_timers};
use criu_kernel::procmap::{Prot, Vma, parse_maps, parse_smaps};
use proptest::prelude::*;

fn print(vma: &Vma) -> String {
    let bit = |prot, letter| if vma.prot.contains(prot) { letter } else { '-' };
    format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {:<20} {}\n",
        vma.start,
        vma.end,
        bit(Prot::READ, 'r'),
        bit(Prot::WRITE, 'w'),
        bit(Prot::EXEC, 'x'),
        if vma.shared { 's' } else { 'p' },
        vma.offset,
        vma.device.0,
        vma.device.1,
        vma.inode,
        vma.name.to_str().unwrap().replace('\n', "\\012"),
    )
}

prop_compose! {
    fn vma()(
        start in any::<u64>(), len in any::<u64>(), prot in 0..8u32, shared: bool, offset: u64,
        device in (0..4096u32, 0..1_048_576u32), inode: u64,
        name in prop_oneof![Just(String::new()), "/[a-z\n ()\u{e9}]{0,20}[a-z]"],
    ) -> Vma {
        Vma {
            start,
            end: start.saturating_add(len),
            prot: Prot::from_bits_truncate(prot),
            shared,
            offset,
            device,
            inode,
            name: name.into(),
            ..Vma::default()
        }
    }
}

proptest! {
    #[test]
    fn mappings_come_back(vmas in prop::collection::vec(vma(), 0..20)) {
        let text: String = vmas.iter().map(print).collect();
        let parsed: Vec<Vma> = parse_maps(text.as_bytes()).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(&parsed, &vmas);
        let parsed: Vec<Vma> = parse_smaps(text.as_bytes()).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(parsed, vmas);
    }

    #[test]
    fn any_bytes_are_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for _ in parse_maps(&bytes[..]).take(300) {}
        for _ in parse_smaps(&bytes[..]).take(300) {}
        for _ in parse_mountinfo(&bytes[..]).take(300) {}
        let _ = Stat::parse(&bytes);
        let _ = parse_auxv(&bytes);
    }

    #[test]
    fn almost_right_text_is_an_answer(text in "([a-zA-Z]{2,8}|ID|signal|notify|Uid|Pid|flags|lock)[:/ ][ \t0-9a-f/.:()\n-]{0,40}") {
        let _ = Status::parse(&text);
        let _ = FdInfo::parse(&text);
        let _ = parse_timers(&text);
        let _ = Stat::parse(text.as_bytes());
        for _ in parse_pairs(&text) {}
        for _ in parse_mountinfo(text.as_bytes()) {}
    }
}
