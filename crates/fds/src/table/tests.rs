use crate::testing::{Stopped, dump, keep, restore, round_trip, table};
use criu_images::{Image, StoreExt, proto};
use criu_resource::{Fate, Options};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::fstat;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

fn options() -> Options {
    Options { file_validation_buildid: true, ..Options::default() }
}

#[test]
fn positions_flags_duplicates_and_directories() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let task = Stopped::after(|| {
        std::env::set_current_dir(directory.path()).unwrap();
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path).unwrap();
        file.write_all(b"0123456789").unwrap();
        file.seek(SeekFrom::Start(4)).unwrap();
        keep(file.try_clone().unwrap(), 9);
        keep(file, 5);
        keep(File::open(directory.path()).unwrap(), 7);
        let path_only = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path).unwrap();
        keep(path_only, 40);
    });
    assert_eq!(task.numbers(), [0, 1, 2, 5, 7, 9, 40]);
    let again = round_trip(task, &options());
    assert_eq!(again.numbers(), [0, 1, 2, 5, 7, 9, 40]);
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", again.0)).unwrap(), directory.path());
    assert_eq!(again.link(40), path.to_str().unwrap());
    let (mut first, mut second) = (File::from(again.fd(5)), File::from(again.fd(9)));
    let mut text = String::new();
    first.read_to_string(&mut text).unwrap();
    assert_eq!(text, "456789");
    assert_eq!(second.stream_position().unwrap(), 10, "both are one description");
    let flags = OFlag::from_bits_retain(fcntl(&first, FcntlArg::F_GETFL).unwrap());
    assert!(flags.contains(OFlag::O_APPEND | OFlag::O_RDWR));
    let flags = OFlag::from_bits_retain(fcntl(again.fd(40), FcntlArg::F_GETFL).unwrap());
    assert!(flags.contains(OFlag::O_PATH));
}

#[test]
fn close_on_exec_belongs_to_the_descriptor() {
    let task = Stopped::after(|| {
        let file = File::open("/dev/zero").unwrap();
        keep(file.try_clone().unwrap(), 11);
        keep(file, 12);
        // SAFETY: a flag of this process's own descriptor.
        unsafe { libc::fcntl(12, libc::F_SETFD, libc::FD_CLOEXEC) };
    });
    let again = round_trip(task, &options());
    let cloexec = |number| {
        let text = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", again.0)).unwrap();
        text.contains("flags:\t02")
    };
    assert_eq!([0, 11, 12].map(cloexec), [false, false, true]);
}

#[test]
fn deleted_files_keep_holes_names_and_contents() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gone");
    let task = Stopped::after(|| {
        let file =
            OpenOptions::new().create_new(true).read(true).write(true).mode(0o640).open(&path).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"end", 5 << 20).unwrap();
        keep(OpenOptions::new().write(true).open(&path).unwrap(), 6);
        keep(file, 5);
        fs::remove_file(&path).unwrap();
        let inner = directory.path().join("directory");
        fs::create_dir(&inner).unwrap();
        keep(File::open(&inner).unwrap(), 18);
        keep(File::create(inner.join("small")).unwrap(), 8);
        fs::remove_dir_all(&inner).unwrap();
        keep(OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(directory.path()).unwrap(), 9);
    });
    let again = round_trip(task, &options());
    assert_eq!(again.link(5), format!("{} (deleted)", path.display()));
    assert_eq!(again.link(18), format!("{}/directory (deleted)", directory.path().display()));
    assert_eq!(again.link(8), format!("{}/directory/small (deleted)", directory.path().display()));
    let (file, other) = (File::from(again.fd(5)), File::from(again.fd(6)));
    assert_eq!(fstat(&file).unwrap().st_ino, fstat(&other).unwrap().st_ino, "one file");
    let stat = fstat(&file).unwrap();
    assert_eq!((stat.st_nlink, stat.st_size, stat.st_mode & 0o777), (0, (5 << 20) + 3, 0o640));
    assert!(stat.st_blocks * 512 < 1 << 20, "the hole is a hole");
    let mut text = [0; 5];
    file.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"begin");
    file.read_exact_at(&mut text[..3], 5 << 20).unwrap();
    assert_eq!(&text[..3], b"end");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_large_deleted_file_is_refused_with_the_option() {
    let directory = tempfile::tempdir().unwrap();
    let task = Stopped::after(|| {
        let path = directory.path().join("large");
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![1; 2 << 20]).unwrap();
        fs::remove_file(&path).unwrap();
        keep(file, 3);
    });
    let error = dump(&table(), &[task.0], &options(), Fate::Run).unwrap_err().to_string();
    assert!(error.contains("--ghost-limit 2097152") && error.contains("fd 3"), "{error}");
    let enough = Options { ghost_limit: 4 << 20, ..options() };
    dump(&table(), &[task.0], &enough, Fate::Run).unwrap();
}

#[test]
fn a_renamed_file_needs_and_gets_a_link() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    let task = Stopped::after(|| {
        let file = File::create(&old).unwrap();
        fs::hard_link(&old, &new).unwrap();
        fs::remove_file(&old).unwrap();
        keep(file, 3);
    });
    let error = dump(&table(), &[task.0], &options(), Fate::Run).unwrap_err().to_string();
    assert!(error.contains("--link-remap"), "{error}");
    let allowed = Options { link_remap: true, ..options() };
    dump(&table(), &[task.0], &allowed, Fate::Run).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "a tree that runs on needs no link");
    let again = round_trip(task, &allowed);
    let stat = fstat(again.fd(3)).unwrap();
    assert_eq!(stat.st_nlink, 1);
    assert_eq!(again.link(3), format!("{} (deleted)", old.display()));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn files_that_changed_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    fs::write(&path, b"1234").unwrap();
    let task = Stopped::after(|| keep(File::open(&path).unwrap(), 3));
    let table = table();
    let store = dump(&table, &[task.0], &options(), Fate::Run).unwrap();
    let try_again = || restore(&table, &[task.0], &store, &options()).map(drop).map_err(|e| e.to_string());
    try_again().unwrap();
    fs::write(&path, b"12345").unwrap();
    let error = try_again().unwrap_err();
    assert!(error.contains("has 5 bytes, 4 expected") && error.contains(path.to_str().unwrap()), "{error}");
    fs::remove_file(&path).unwrap();
    let error = try_again().unwrap_err();
    assert!(error.contains("put it back"), "{error}");
    fs::create_dir(&path).unwrap();
    assert!(try_again().is_err());
}

#[test]
fn pipes_with_data_sizes_packets_and_further_descriptions() {
    let task = Stopped::after(|| {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(1 << 17)).unwrap();
        nix::unistd::write(&writer, &[7; 100_000]).unwrap();
        keep(
            OpenOptions::new().read(true).open(format!("/proc/self/fd/{}", reader.as_raw_fd())).unwrap(),
            12,
        );
        keep(reader, 10);
        keep(writer, 11);
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_DIRECT | OFlag::O_NONBLOCK).unwrap();
        nix::unistd::write(&writer, b"one").unwrap();
        nix::unistd::write(&writer, b"three").unwrap();
        keep(reader, 20);
        keep(writer, 21);
        // Only a reader: its data, then the end.
        let (reader, writer) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&writer, b"last").unwrap();
        keep(reader, 30);
    });
    let again = round_trip(task, &options());
    assert_eq!(again.link(10), again.link(11));
    assert_eq!(again.link(10), again.link(12));
    assert_eq!(fcntl(again.fd(10), FcntlArg::F_GETPIPE_SZ).unwrap(), 1 << 17);
    let mut data = vec![0; 200_000];
    assert_eq!(nix::unistd::read(again.fd(10), &mut data).unwrap(), 100_000);
    assert!(data[..100_000].iter().all(|byte| *byte == 7));
    assert_eq!(nix::unistd::read(again.fd(20), &mut data).unwrap(), 3);
    assert_eq!(nix::unistd::read(again.fd(20), &mut data).unwrap(), 5);
    assert_eq!(nix::unistd::read(again.fd(20), &mut data).unwrap_err(), nix::errno::Errno::EAGAIN);
    assert_eq!(nix::unistd::read(again.fd(30), &mut data).unwrap(), 4);
    assert_eq!(nix::unistd::read(again.fd(30), &mut data).unwrap(), 0, "nobody writes any more");
}

#[test]
fn descriptions_shared_across_tasks() {
    let shared = tempfile::NamedTempFile::new().unwrap();
    shared.as_file().write_all_at(b"abcdef", 0).unwrap();
    // Two processes of one family: the second is forked by the first and reports its pid in the file.
    let note = tempfile::NamedTempFile::new().unwrap();
    let first = Stopped::after(|| {
        let file = File::open(shared.path()).unwrap();
        keep(file, 5);
        // SAFETY: the child only makes system calls.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                keep(File::open("/dev/zero").unwrap(), 6);
                nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP).unwrap();
                // SAFETY: ends the process.
                unsafe { libc::_exit(0) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                nix::sys::wait::waitpid(child, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
                fs::write(note.path(), child.to_string()).unwrap();
            }
        }
    });
    let child: i32 = fs::read_to_string(note.path()).unwrap().parse().unwrap();
    let table = table();
    let store = dump(&table, &[first.0, child], &options(), Fate::Kill).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL).unwrap();
    let entries: Vec<proto::FdinfoEntry> = store.read_image(Image::Fdinfo, 2).unwrap();
    assert_eq!(entries.iter().map(|e| e.fd).collect::<Vec<_>>(), [0, 1, 2, 5, 6]);
    let again = restore(&table, &[first.0, child], &store, &options()).unwrap();
    assert_eq!(again[0].numbers(), [0, 1, 2, 5]);
    assert_eq!(again[1].numbers(), [0, 1, 2, 5, 6]);
    let mut text = [0; 3];
    nix::unistd::read(again[0].fd(5), &mut text).unwrap();
    assert_eq!(&text, b"abc");
    nix::unistd::read(again[1].fd(5), &mut text).unwrap();
    assert_eq!(&text, b"def", "one position for both");
}

#[test]
fn memory_files_with_seals_and_contents() {
    let task = Stopped::after(|| {
        let file = File::from(crate::sys::memfd_create(c"test", libc::MFD_ALLOW_SEALING).unwrap());
        file.set_len(3 << 20).unwrap();
        file.write_all_at(b"inside", (2 << 20) + 5).unwrap();
        let seals = nix::fcntl::SealFlag::F_SEAL_SHRINK | nix::fcntl::SealFlag::F_SEAL_WRITE;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        keep(crate::sys::reopen(std::os::fd::AsFd::as_fd(&file), 0).unwrap(), 4);
        keep(file, 3);
    });
    let again = round_trip(task, &options());
    assert_eq!(again.link(3), "/memfd:test (deleted)");
    let file = File::from(again.fd(3));
    let mut text = [0; 6];
    file.read_exact_at(&mut text, (2 << 20) + 5).unwrap();
    assert_eq!(&text, b"inside");
    assert_eq!(fcntl(&file, FcntlArg::F_GET_SEALS).unwrap(), libc::F_SEAL_SHRINK | libc::F_SEAL_WRITE);
    assert_eq!(fstat(&file).unwrap().st_ino, fstat(again.fd(4)).unwrap().st_ino);
    assert!(file.write_all_at(b"x", 0).is_err());
}

#[test]
fn what_no_kind_knows_is_refused_by_name() {
    let task = Stopped::after(|| {
        // SAFETY: a new descriptor without arguments that point anywhere.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        assert!(fd >= 0);
    });
    let error = dump(&table(), &[task.0], &options(), Fate::Run).unwrap_err().to_string();
    let expected = format!("pid {} fd 3: anon_inode:[userfaultfd] is not supported yet", task.0);
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn many_descriptors_take_linear_time() {
    let time = |count: i32| {
        let task = Stopped::after(|| {
            crate::sys::raise_descriptor_limit().unwrap();
            for number in 0..count {
                keep(nix::sys::eventfd::EventFd::from_value(number as u32).unwrap(), 3 + number);
            }
        });
        let start = std::time::Instant::now();
        let store = dump(&table(), &[task.0], &options(), Fate::Run).unwrap();
        let again = restore(&table(), &[task.0], &store, &options()).unwrap();
        assert_eq!(again[0].numbers().len(), count as usize + 3);
        start.elapsed()
    };
    let (few, many) = (time(500), time(4000));
    assert!(many < few * 8 * 6 + std::time::Duration::from_secs(1), "{few:?} for 500, {many:?} for 4000");
}

#[test]
fn files_about_a_process_that_ended() {
    let task = Stopped::after(|| {
        let other = crate::sys::Helper::start().unwrap();
        let pid = other.pid();
        keep(File::open(format!("/proc/{pid}/stat")).unwrap(), 5);
        std::env::set_current_dir(format!("/proc/{pid}")).unwrap();
        drop(other);
    });
    let (link, cwd) = (task.link(5), fs::read_link(format!("/proc/{}/cwd", task.0)).unwrap());
    assert!(cwd.to_string_lossy().ends_with(" (deleted)"));
    let again = round_trip(task, &options());
    assert_eq!(again.link(5), link);
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", again.0)).unwrap(), cwd);
    let error = File::from(again.fd(5)).read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn what_procfs_tells_about_the_tree_is_opened_by_the_tree() {
    let task = Stopped::after(|| {
        keep(File::open("/proc/self/status").unwrap(), 5);
        let mut all = File::open("/proc/self/comm").unwrap();
        all.seek(SeekFrom::Start(2)).unwrap();
        keep(all, 4);
    });
    let link = task.link(5);
    let table = table();
    let store = dump(&table, &[task.0], &options(), Fate::Run).unwrap();
    // The first one lives on and is found under its pid.
    let again = restore(&table, &[task.0], &store, &options()).unwrap();
    assert_eq!(again[0].link(5), link);
    assert_eq!(File::from(again[0].fd(4)).stream_position().unwrap(), 2);
    assert_eq!(again[0].numbers(), [0, 1, 2, 4, 5]);
}

#[test]
fn files_that_somebody_else_provides() {
    let directory = tempfile::tempdir().unwrap();
    let (path, other) = (directory.path().join("path"), directory.path().join("other"));
    fs::write(&path, "1234").unwrap();
    fs::write(&other, "abcdef").unwrap();
    let task = Stopped::after(|| {
        keep(File::open(&path).unwrap(), 3);
        keep(crate::sys::memfd_create(c"name", 0).unwrap(), 4);
        let (reader, writer) = nix::unistd::pipe().unwrap();
        keep(reader, 5);
        keep(writer, 6);
    });
    let pipe = task.link(5);
    let mount = fs::read_to_string(format!("/proc/{}/fdinfo/3", task.0)).unwrap();
    let mount: i32 = crate::observed::line(&mount, "mnt_id").unwrap().parse().unwrap();
    let external = format!("file[{mount:x}:{:x}]", fstat(task.fd(3)).unwrap().st_ino);
    let mut options = Options { external: vec![external.clone()], ..options() };
    let table = table();
    let store = dump(&table, &[task.0], &options, Fate::Run).unwrap();
    let error = restore(&table, &[task.0], &store, &options).map(drop).unwrap_err().to_string();
    assert!(error.contains(&format!("--inherit-fd fd[N]:{external}")), "{error}");

    let (file, (_reader, writer)) = (File::open(&other).unwrap(), nix::unistd::pipe().unwrap());
    let keys = [
        (external, file.as_raw_fd()),
        ("/memfd:name".to_owned(), file.as_raw_fd()),
        (pipe, writer.as_raw_fd()),
    ];
    options.inherit_fd = keys.into();
    let again = restore(&table, &[task.0], &store, &options).unwrap();
    let wanted = other.to_str().unwrap();
    assert_eq!([3, 4].map(|number| again[0].link(number)), [wanted, wanted]);
    let own = fs::read_link(format!("/proc/self/fd/{}", writer.as_raw_fd())).unwrap();
    assert_eq!([5, 6].map(|number| again[0].link(number)), [own.to_str().unwrap(), own.to_str().unwrap()]);
}

#[test]
fn many_tasks_take_linear_time() {
    let shared = tempfile::NamedTempFile::new().unwrap();
    let time = |count: usize| {
        let tasks: Vec<Stopped> =
            (0..count).map(|_| Stopped::after(|| keep(File::open(shared.path()).unwrap(), 3))).collect();
        let pids: Vec<i32> = tasks.iter().map(|task| task.0).collect();
        let start = std::time::Instant::now();
        dump(&table(), &pids, &options(), Fate::Run).unwrap();
        start.elapsed()
    };
    let (few, many) = (time(20), time(160));
    assert!(many < few * 8 * 4 + std::time::Duration::from_secs(1), "{few:?} for 20, {many:?} for 160");
}
