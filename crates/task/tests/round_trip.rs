//! State set up in one process, asked for, and restored in another: both must tell the same.
//!
//! Each side is a forked child that runs the scripts of all resources itself; images travel through a pipe.

use criu_images::prost::Message;
use criu_images::proto::{CoreEntry, PstreeEntry, RseqEntry};
use criu_images::{MemoryStore, RecordSet};
use criu_resource::{
    BuiltTask, DumpContext, FrozenTask, FrozenThread, Life, Numbers, Options, RestoreContext, Stage,
    TaskImages,
};
use criu_script::Script;
use criu_task::{TASK_STATES, THREAD_STATES, here};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, pipe, read, write};
use std::os::fd::AsFd;
use std::sync::Mutex;

/// Runs `body` in a forked child and returns what it returned. The child's panics are the test's.
fn in_child(body: impl FnOnce() -> CoreEntry) -> CoreEntry {
    let (from, to) = pipe().unwrap();
    // SAFETY: the child runs `body` and leaves by _exit; the C library keeps its allocator usable.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            let code = match result {
                Ok(core) => {
                    let bytes = core.encode_to_vec();
                    i32::from(write(&to, &bytes).ok() != Some(bytes.len()))
                }
                Err(_) => 101,
            };
            // SAFETY: ends this process only.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            drop(to);
            let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
            while let n @ 1.. = read(&from, &mut chunk).unwrap() {
                bytes.extend_from_slice(&chunk[..n]);
            }
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            CoreEntry::decode(bytes.as_slice()).unwrap()
        }
    }
}

/// Runs a script made of system calls for the calling process.
fn run(script: &Script) -> criu_script::Outcome {
    // SAFETY: the scripts of this crate change the test's child only; addresses in them are checked by the
    // kernel, or belong to the child's own memory.
    let outcome = unsafe { here::run(script) };
    if let Some(step) = outcome.failed() {
        panic!("{:?} failed: {outcome:?}", script.steps()[step]);
    }
    outcome
}

fn me() -> i32 {
    std::process::id() as i32
}

/// Asks the calling process for everything.
fn dump(pending: Vec<[u8; 128]>, shared: Vec<[u8; 128]>) -> CoreEntry {
    let null = std::fs::File::open("/dev/null").unwrap();
    let thread = FrozenThread {
        tid: me(),
        ns_tid: me(),
        regs: vec![0; 27],
        xstate: vec![0; 832],
        sigmask: 0,
        pending,
        rseq: None,
        robust_list: (0, 24),
    };
    let task = FrozenTask {
        index: 0,
        parent: None,
        pid: me(),
        ns_pid: me(),
        ns_pgid: me(),
        ns_sid: me(),
        life: Life::Alive,
        pidfd: null.as_fd(),
        proc: null.as_fd(),
        threads: vec![thread],
        pending: shared,
    };
    let (options, store) = (Options::default(), MemoryStore::default());
    let context = DumpContext { options: &options, store: &store };
    let mut images =
        TaskImages { core: CoreEntry::default(), threads: Vec::new(), records: RecordSet::new() };
    images.core.tc = Some(Default::default());
    let mut script = Script::new("test");
    let of_task: Vec<_> =
        TASK_STATES.iter().map(|state| state.ask(&task, &context, &mut script).unwrap()).collect();
    let of_thread: Vec<_> =
        THREAD_STATES.iter().map(|state| state.ask(&task, &task.threads[0], &mut script).unwrap()).collect();
    let outcome = run(&script);
    of_task.into_iter().for_each(|answer| answer(&outcome, &mut images).unwrap());
    of_thread.into_iter().for_each(|answer| answer(&outcome, &mut images.core).unwrap());
    images.core
}

/// Restores everything but the tree into the calling process.
fn restore(mut core: CoreEntry) {
    let pid = me() as u32;
    // A real restore has the same ids.
    for timer in core.tc.iter_mut().flat_map(|tc| tc.timers.as_mut()).flat_map(|timers| &mut timers.posix) {
        timer.notify_thread_id = timer.notify_thread_id.map(|_| me());
    }
    let task = BuiltTask {
        index: 0,
        parent: None,
        pstree: PstreeEntry { pid, ppid: 0, pgid: pid, sid: pid, threads: vec![pid] },
        life: Life::Alive,
        core,
        threads: Vec::new(),
        ids: None,
    };
    let (options, store, numbers) =
        (Options::default(), MemoryStore::default(), Mutex::new(Numbers::default()));
    let context = RestoreContext { options: &options, store: &store, numbers: &numbers };
    for stage in Stage::ALL {
        let mut script = Script::new("test");
        for state in TASK_STATES {
            state.restore(stage, &task, &context, &mut script).unwrap();
        }
        for state in THREAD_STATES {
            state.restore(stage, &task, 0, &mut script).unwrap();
        }
        run(&script);
    }
}

/// Sets up, dumps, restores elsewhere, dumps again. Returns the first image.
fn round_trip(set_up: impl Fn()) -> CoreEntry {
    let before = in_child(|| {
        set_up();
        dump(Vec::new(), Vec::new())
    });
    let after = in_child(|| {
        restore(before.clone());
        dump(Vec::new(), Vec::new())
    });
    let comparable = |mut core: CoreEntry| {
        let timers = core.tc.as_mut().unwrap().timers.as_mut().unwrap();
        for value in [&mut timers.real, &mut timers.virt, &mut timers.prof] {
            value.vusec = 0; // time goes on
        }
        for timer in &mut timers.posix {
            timer.vnsec = 0;
            timer.notify_thread_id = timer.notify_thread_id.map(|_| 0);
        }
        core
    };
    assert_eq!(comparable(before.clone()), comparable(after));
    before
}

fn check(result: i32) {
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn nothing_special() {
    let core = round_trip(|| {});
    assert_eq!(core.tc.as_ref().unwrap().sigactions.len(), 62);
    assert_eq!(core.tc.unwrap().rlimits.unwrap().rlimits.len(), 16);
}

extern "C" fn handler(_: i32) {}

#[test]
fn signal_actions_and_stack() {
    let core = round_trip(|| {
        // SAFETY: the handler does nothing; the stack lives as long as the process.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_RESTART | libc::SA_NODEFER;
            libc::sigaddset(&mut action.sa_mask, libc::SIGHUP);
            check(libc::sigaction(libc::SIGRTMAX(), &action, std::ptr::null_mut()));
            action.sa_sigaction = libc::SIG_IGN;
            check(libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()));
            let memory = Vec::leak(vec![0_u8; 65536]);
            let stack =
                libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 1 << 31, ss_size: 65536 };
            check(libc::sigaltstack(&stack, std::ptr::null_mut()));
        }
    });
    let actions = &core.tc.as_ref().unwrap().sigactions;
    assert_eq!((actions[61].mask, actions[61].flags & 0x5000_0000), (1, 0x5000_0000));
    // SIGCHLD is 17; SIGKILL (9) has no entry.
    assert_eq!(actions[15].sigaction, 1);
    let sas = core.thread_core.unwrap().sas.unwrap();
    assert_eq!((sas.ss_size, sas.ss_flags), (65536, 1 << 31));
}

fn siginfo(signal: i32, code: i32, value: u64) -> [u8; 128] {
    let mut info = [0; 128];
    info[..4].copy_from_slice(&signal.to_ne_bytes());
    info[8..12].copy_from_slice(&code.to_ne_bytes());
    info[24..32].copy_from_slice(&value.to_ne_bytes());
    info
}

#[test]
fn pending_signals_come_in_order_with_their_values() {
    let realtime = libc::SIGRTMIN() + 2;
    let shared = vec![siginfo(realtime, libc::SI_QUEUE, 11), siginfo(realtime, libc::SI_QUEUE, 12)];
    let own = vec![siginfo(libc::SIGUSR1, libc::SI_TKILL, 0)];
    let core = in_child(|| dump(own.clone(), shared.clone()));
    in_child(|| {
        // SAFETY: masks and takes signals of this child.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            check(libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut()));
            restore(core);
            let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let mut came = Vec::new();
            let mut info = [0_u8; 128];
            loop {
                let signal = libc::sigtimedwait(&all, info.as_mut_ptr().cast(), &none);
                if signal < 0 {
                    break;
                }
                came.push((signal, info[24]));
            }
            assert_eq!(came, [(libc::SIGUSR1, 0), (realtime, 11), (realtime, 12)]);
        }
        CoreEntry::default()
    });
}

#[test]
fn timers_keep_ids_and_time() {
    let core = round_trip(|| {
        // SAFETY: creates timers of this child, far from expiring.
        unsafe {
            let value = |sec| libc::timeval { tv_sec: sec, tv_usec: 500_000 };
            let real = libc::itimerval { it_interval: value(7), it_value: value(5000) };
            check(libc::setitimer(libc::ITIMER_REAL, &real, std::ptr::null_mut()));
            for (clock, arm) in [(libc::CLOCK_MONOTONIC, true), (libc::CLOCK_REALTIME, false), (-6, true)] {
                let mut event: libc::sigevent = std::mem::zeroed();
                event.sigev_notify = libc::SIGEV_THREAD_ID;
                event.sigev_notify_thread_id = me();
                event.sigev_signo = libc::SIGRTMIN() + 1;
                event.sigev_value.sival_ptr = 0x1234_5678 as *mut _;
                if !arm {
                    event.sigev_notify = libc::SIGEV_NONE;
                }
                let mut id = 0_i32;
                // Ids 0 and 2 and 4: every other is deleted.
                assert_eq!(libc::syscall(libc::SYS_timer_create, clock, &event, &mut id), 0);
                let mut passing = 0_i32;
                assert_eq!(libc::syscall(libc::SYS_timer_create, clock, &event, &mut passing), 0);
                assert_eq!(libc::syscall(libc::SYS_timer_delete, passing), 0);
                let time = |tv_sec| libc::timespec { tv_sec, tv_nsec: 900_000_000 };
                let value = libc::itimerspec { it_interval: time(3), it_value: time(4000) };
                if arm {
                    let null = std::ptr::null::<u8>();
                    assert_eq!(libc::syscall(libc::SYS_timer_settime, id, 0, &value, null), 0);
                }
            }
        }
    });
    let timers = core.tc.unwrap().timers.unwrap();
    assert_eq!((timers.real.isec, timers.real.iusec, timers.real.vsec), (7, 500_000, 5000));
    let mut posix: Vec<_> = timers.posix.iter().map(|timer| (timer.it_id, timer.vsec, timer.isec)).collect();
    posix.sort_unstable();
    assert_eq!(posix, [(0, 4000, 3), (2, 0, 0), (4, 4000, 3)]);
    assert!(timers.posix.iter().all(|timer| timer.sival_ptr == 0x1234_5678));
}

#[test]
fn timers_on_a_kernel_that_counts_ids() {
    use criu_images::proto::PosixTimerEntry;
    let timer = |it_id| PosixTimerEntry { it_id, clock_id: 1, si_signo: 34, ..Default::default() };
    in_child(|| {
        let mut script = Script::new("timers");
        criu_task::timers::create(&[timer(9), timer(3)], false, &mut script).unwrap();
        run(&script);
        let text = std::fs::read_to_string("/proc/self/timers").unwrap();
        let mut ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("ID: ")).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["3", "9"]);
        CoreEntry::default()
    });
    let mut script = Script::new("timers");
    let error = criu_task::timers::create(&[timer(5_000_000)], false, &mut script).unwrap_err().to_string();
    assert!(error.contains("timer id 5000000"), "{error}");
}

/// Not every name is UTF-8.
const NAME: &[u8] = b"fifteen letter\xff";

#[test]
fn names_scheduling_and_the_rest() {
    let core = round_trip(|| {
        // SAFETY: changes attributes of this child.
        unsafe {
            check(libc::prctl(libc::PR_SET_NAME, c"fifteen letter\xff".as_ptr()));
            check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1));
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR2));
            let param = libc::sched_param { sched_priority: 0 };
            check(libc::sched_setscheduler(0, libc::SCHED_BATCH | 0x4000_0000, &param));
            check(libc::setpriority(libc::PRIO_PROCESS, 0, 7));
            assert!(libc::personality(libc::ADDR_NO_RANDOMIZE as _) >= 0);
            assert_eq!(libc::syscall(libc::SYS_membarrier, 1 << 4, 0, 0), 0);
            assert!(libc::syscall(libc::SYS_set_tid_address, 0x10_0000) > 0);
        }
        std::fs::write("/proc/self/oom_score_adj", "321").unwrap();
    });
    let (tc, thread_core) = (core.tc.unwrap(), core.thread_core.unwrap());
    assert_eq!((tc.comm.as_slice(), thread_core.comm.as_deref()), (NAME, Some(NAME)));
    assert_eq!((tc.child_subreaper, thread_core.pdeath_sig), (Some(true), Some(libc::SIGUSR2 as u32)));
    assert_eq!((thread_core.sched_policy, thread_core.sched_nice), (Some(0x4000_0003), Some(7)));
    assert_eq!((tc.personality, tc.oom_score_adj), (libc::ADDR_NO_RANDOMIZE as u32, Some(321)));
    assert_eq!(tc.membarrier_registration_mask.map(|mask| mask & 1 << 4), Some(1 << 4));
    assert_eq!(core.thread_info.unwrap().clear_tid_addr, 0x10_0000);
}

#[test]
fn limits_come_back_and_stay_where_they_are() {
    let core = round_trip(|| {
        let lower = libc::rlimit { rlim_cur: 77, rlim_max: 99 };
        // SAFETY: changes limits of this child.
        unsafe {
            check(libc::setrlimit(libc::RLIMIT_NOFILE, &lower));
            check(libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: u64::MAX }));
        }
    });
    let limits = core.tc.unwrap().rlimits.unwrap();
    assert_eq!((limits.rlimits[7].cur, limits.rlimits[7].max), (77, 99));
    let mut higher = limits.clone();
    let raised = in_child(|| {
        // SAFETY: as above.
        unsafe { check(libc::setrlimit(libc::RLIMIT_NOFILE, &libc::rlimit { rlim_cur: 50, rlim_max: 50 })) };
        higher.rlimits[7].max = 60;
        let mut script = Script::new("limits");
        let error = criu_task::limits::set(&higher, &mut script).err().map(|error| error.to_string());
        CoreEntry {
            tc: Some(criu_images::proto::TaskCoreEntry {
                comm: error.unwrap_or_default().into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    });
    let error = String::from_utf8(raised.tc.unwrap().comm).unwrap();
    if !error.is_empty() {
        assert!(error.contains("RLIMIT_NOFILE: the hard limit 60 is above criu-rs's own 50"), "{error}");
    }
}

#[test]
fn credentials_of_an_ordinary_user_with_capabilities() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not run: takes root");
        return;
    }
    let core = round_trip(|| {
        let mut script = Script::new("credentials");
        let wanted = criu_images::proto::CredsEntry {
            uid: 1000,
            euid: 1001,
            suid: 1002,
            fsuid: 1003,
            gid: 2000,
            egid: 2001,
            sgid: 2002,
            fsgid: 2003,
            groups: vec![5, 70000],
            cap_inh: vec![0x2001, 0],
            cap_prm: vec![0x2003, 0],
            cap_eff: vec![0x2, 0],
            cap_bnd: vec![0xff, 0],
            cap_amb: vec![0x2000, 0],
            secbits: 0x11,
            no_new_privs: Some(1),
            ..Default::default()
        };
        let own = criu_kernel::proc::ProcDir::current().unwrap().status().unwrap();
        criu_task::creds::set(&wanted, &own, &mut script).unwrap();
        run(&script);
    });
    let creds = core.thread_core.unwrap().creds.unwrap();
    assert_eq!([creds.uid, creds.euid, creds.suid, creds.fsuid], [1000, 1001, 1002, 1003]);
    assert_eq!([creds.gid, creds.egid, creds.sgid, creds.fsgid], [2000, 2001, 2002, 2003]);
    assert_eq!((creds.groups, creds.secbits, creds.no_new_privs), (vec![5, 70000], 0x11, Some(1)));
    assert_eq!((creds.cap_inh[0], creds.cap_prm[0], creds.cap_eff[0]), (0x2001, 0x2003, 0x2));
    assert_eq!((creds.cap_bnd, creds.cap_amb), (vec![0xff, 0], vec![0x2000, 0]));
}

#[test]
fn capabilities_that_cannot_be_given_are_named() {
    let own = criu_kernel::proc::Status { cap_permitted: 1, ..Default::default() };
    let wanted = criu_images::proto::CredsEntry { cap_prm: vec![1 << 24, 1 << 8], ..Default::default() };
    let error =
        criu_task::creds::set(&wanted, &own, &mut Script::new("credentials")).unwrap_err().to_string();
    assert!(error.contains("CAP_SYS_RESOURCE, CAP_CHECKPOINT_RESTORE"), "{error}");
}

#[test]
fn rseq_is_registered_again() {
    in_child(|| {
        let mut memory = vec![0_u64; 32];
        let address = (memory.as_mut_ptr() as u64).next_multiple_of(32);
        let entry = RseqEntry {
            rseq_abi_pointer: address,
            rseq_abi_size: 32,
            signature: 0x5305_3053,
            rseq_cs_pointer: None,
        };
        // SAFETY: a bare clone would do as well: what the C library registered goes first.
        unsafe { unregister_libc_rseq() };
        let mut core = dump(Vec::new(), Vec::new());
        core.thread_core.as_mut().unwrap().rseq_entry = Some(entry);
        restore(core);
        // SAFETY: asks the kernel to register the same once more, which it refuses as EBUSY.
        let again = unsafe { libc::syscall(libc::SYS_rseq, address, 32, 0, 0x5305_3053) };
        assert_eq!((again, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EBUSY)));
        // SAFETY: the memory goes away with the process; the kernel must not write to it before.
        assert_eq!(unsafe { libc::syscall(libc::SYS_rseq, address, 32, 1, 0x5305_3053) }, 0);
        drop(memory);
        CoreEntry::default()
    });
}

/// # Safety
/// Nothing in this thread may rely on restartable sequences afterwards.
unsafe fn unregister_libc_rseq() {
    // SAFETY: glibc 2.35 and later export these; 0 when they do not exist.
    unsafe {
        let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>();
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        if offset.is_null() || size.is_null() || *size == 0 {
            return;
        }
        let mut base = 0_u64;
        const ARCH_GET_FS: i32 = 0x1003;
        check(libc::syscall(libc::SYS_arch_prctl, ARCH_GET_FS, &mut base) as i32);
        let address = base.wrapping_add_signed(*offset as i64);
        let gone = [32_u32, *size]
            .iter()
            .any(|size| libc::syscall(libc::SYS_rseq, address, *size, 1, 0x5305_3053_u32) == 0);
        assert!(gone, "rseq of the C library stays: {}", std::io::Error::last_os_error());
    }
}
