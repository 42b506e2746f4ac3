//! `/proc/PID/stat`, one line of 52 fields.

use std::str::FromStr;

use crate::{ProcError, ProcResult};

const FILE: &str = "stat";

macro_rules! stat {
    ($($name:ident: $t:ty, $doc:literal;)*) => {
        /// All fields of `/proc/PID/stat`, by the names of proc_pid_stat(5).
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Stat {
            /// Process or thread id, in the reader's pid namespace.
            pub pid: i32,
            /// Name: any bytes, also parentheses and line breaks.
            pub comm: Vec<u8>,
            /// State letter: `R`, `S`, `D`, `T` (stopped), `t` (traced), `Z` (zombie), `X`, `I`.
            pub state: char,
            $(#[doc = $doc] pub $name: $t,)*
        }

        fn parse_fields(stat: &mut Stat, words: &mut Words<'_>) -> ProcResult<()> {
            $(stat.$name = words.next(stringify!($name))?;)*
            Ok(())
        }
    };
}

stat! {
    ppid: i32, "Parent's process id.";
    pgrp: i32, "Process group id.";
    session: i32, "Session id.";
    tty_nr: u32, "Controlling terminal: device number, as `makedev` packs 32 bits; 0 for none.";
    tpgid: i32, "Foreground process group of that terminal; -1 for none.";
    flags: u32, "The kernel's `PF_*` flags.";
    minflt: u64, "Minor faults.";
    cminflt: u64, "Minor faults of waited-for children.";
    majflt: u64, "Major faults.";
    cmajflt: u64, "Major faults of waited-for children.";
    utime: u64, "User time, in clock ticks.";
    stime: u64, "System time, in clock ticks.";
    cutime: i64, "User time of waited-for children, in clock ticks.";
    cstime: i64, "System time of waited-for children, in clock ticks.";
    priority: i64, "Priority as the kernel sees it.";
    nice: i64, "Nice value, -20 to 19.";
    num_threads: i64, "Number of threads.";
    itrealvalue: i64, "Always 0.";
    starttime: u64, "Start, in clock ticks since boot: with the pid, this names a process uniquely.";
    vsize: u64, "Size of the address space, in bytes.";
    rss: i64, "Resident pages.";
    rsslim: u64, "Soft limit of resident bytes.";
    start_code: u64, "Lowest address of program text. This and the fields like it need ptrace access, and are 0 or 1 otherwise.";
    end_code: u64, "End of program text.";
    start_stack: u64, "Bottom (highest part) of the stack.";
    kstkesp: u64, "Stack pointer; 0 except for exiting tasks.";
    kstkeip: u64, "Instruction pointer; 0 except for exiting tasks.";
    signal: u64, "Pending signals, incomplete: use `status`.";
    blocked: u64, "Blocked signals, incomplete.";
    sigignore: u64, "Ignored signals, incomplete.";
    sigcatch: u64, "Caught signals, incomplete.";
    wchan: u64, "Whether it sleeps in the kernel.";
    nswap: u64, "Always 0.";
    cnswap: u64, "Always 0.";
    exit_signal: i32, "Signal to the parent at its end; -1 for a thread.";
    processor: i32, "Processor it ran on last.";
    rt_priority: u32, "Real-time priority, 0 for none.";
    policy: u32, "Scheduling policy (`SCHED_*`).";
    delayacct_blkio_ticks: u64, "Time waiting for block I/O, in clock ticks.";
    guest_time: u64, "Guest time, in clock ticks.";
    cguest_time: i64, "Guest time of children, in clock ticks.";
    start_data: u64, "Start of initialised and zero data.";
    end_data: u64, "End of initialised and zero data.";
    start_brk: u64, "Start of the heap.";
    arg_start: u64, "Start of the command line.";
    arg_end: u64, "End of the command line.";
    env_start: u64, "Start of the environment.";
    env_end: u64, "End of the environment.";
    exit_code: i32, "Wait status of a zombie; needs ptrace access.";
}

struct Words<'a>(std::str::SplitAsciiWhitespace<'a>);

impl Words<'_> {
    fn next<T: FromStr>(&mut self, field: &'static str) -> ProcResult<T> {
        let word = self.0.next().unwrap_or_default();
        word.parse().map_err(|_| ProcError::parse(FILE, field, word))
    }
}

impl Stat {
    /// Parses the line.
    pub fn parse(line: &[u8]) -> ProcResult<Self> {
        let wrong = |field| ProcError::parse(FILE, field, &String::from_utf8_lossy(line));
        // The name is whatever the task chose; only the last parenthesis surely ends it.
        let open = line.iter().position(|&b| b == b'(').ok_or_else(|| wrong("comm"))?;
        let close = line.iter().rposition(|&b| b == b')').ok_or_else(|| wrong("comm"))?;
        let comm = line.get(open + 1..close).ok_or_else(|| wrong("comm"))?;
        let head = std::str::from_utf8(&line[..open]).map_err(|_| wrong("pid"))?;
        let tail = std::str::from_utf8(&line[close + 1..]).map_err(|_| wrong("state"))?;
        let mut words = Words(tail.split_ascii_whitespace());
        let mut stat = Self {
            pid: head.trim_end().parse().map_err(|_| wrong("pid"))?,
            comm: comm.to_vec(),
            state: words.next("state")?,
            ..Self::default()
        };
        parse_fields(&mut stat, &mut words)?;
        Ok(stat)
    }

    /// Whether the task has ended and waits for its parent.
    pub fn is_zombie(&self) -> bool {
        self.state == 'Z'
    }

    /// Whether it is a kernel thread (`PF_KTHREAD`).
    pub fn is_kernel_thread(&self) -> bool {
        self.flags & 0x0020_0000 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything() {
        let numbers: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let line = format!("17 (a) S (b\n) t {}\n", numbers.join(" "));
        let stat = Stat::parse(line.as_bytes()).unwrap();
        assert_eq!((stat.pid, &stat.comm[..], stat.state), (17, &b"a) S (b\n"[..], 't'));
        assert_eq!((stat.ppid, stat.starttime, stat.start_code), (4, 22, 26));
        assert_eq!((stat.start_data, stat.env_end, stat.exit_code), (45, 51, 52));
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = Stat::parse(b"17 (x) S 1 2 3").unwrap_err();
        assert_eq!(error.to_string(), r#"stat: no valid tty_nr in """#);
        assert!(Stat::parse(b"17 )(").is_err());
        assert!(Stat::parse(b"").is_err());
    }
}
