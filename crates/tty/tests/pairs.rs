//! Ptys whose both ends are dumped, those that lost an end, and those that somebody else provides.

mod common;

use common::{Open, alone, built, dump, dump_with, infos, restore};
use criu_resource::{BoxError, Fate, Options};
use criu_resource::{Dump, Restore};
use criu_tty::{OrphanMaster, Pty, Settings, Terminals, device};
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

fn pty(index: u32) -> Pty {
    Pty::open(Path::new("/dev/ptmx"), Some(index)).unwrap()
}

fn slave(pty: &Pty) -> OwnedFd {
    pty.slave(OFlag::O_RDWR, None).unwrap()
}

fn here(id: u32, fd: std::os::fd::BorrowedFd<'_>) -> Open<'_> {
    Open(id, fd, std::process::id() as i32, fd.as_raw_fd())
}

fn read(fd: &OwnedFd) -> Vec<u8> {
    let mut buffer = [0; 256];
    let length = nix::unistd::read(fd, &mut buffer).unwrap();
    buffer[..length].to_vec()
}

fn options() -> Options {
    Options::default()
}

#[test]
fn a_pair_with_settings_owner_and_data() {
    let _alone = alone();
    let pair = pty(311);
    let (one, two) = (slave(&pair), pair.slave(OFlag::O_RDONLY | OFlag::O_NONBLOCK, None).unwrap());
    let mut settings = Settings::dump(one.as_fd()).unwrap();
    settings.termios.c_lflag &= !libc::ECHO;
    settings.winsize.ws_col = 111;
    Settings::restore(&settings, one.as_fd()).unwrap();
    nix::unistd::fchown(&one, Some(13333.into()), Some(44444.into())).unwrap();
    nix::unistd::write(pair.master(), b"typed\nahead\n").unwrap();
    nix::unistd::write(&one, b"not read\n").unwrap();
    pair.set_packet_mode(true).unwrap();

    let open = [here(1, one.as_fd()), here(2, pair.master()), here(3, two.as_fd())];
    let store = dump(&[], &open, &options(), Fate::Kill).unwrap();
    let ids: Vec<u32> = infos(&store).iter().map(|info| info.id).collect();
    assert_eq!(ids, [622, 623], "slaves share an entry");
    drop((one, two, pair));

    let (files, ()) = restore(&Terminals::new(), &store, &built(&[]), &options(), |_| ()).unwrap();
    let [one, master, two] = [1, 2, 3].map(|id| &files[&id]);
    assert_eq!(Settings::dump(one.as_fd()).unwrap(), settings);
    assert_eq!(nix::unistd::ttyname(one).unwrap().to_str(), Some("/dev/pts/311"));
    let stat = fstat(one).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid), (13333, 44444));
    let flags = nix::fcntl::fcntl(two, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    assert!(OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
    assert_eq!(flags & libc::O_ACCMODE, libc::O_RDONLY);
    assert_eq!((read(one), read(two)), (b"typed\n".to_vec(), b"ahead\n".to_vec()));
    assert_eq!(read(master), b"\0not read\r\n", "with the byte of packet mode");
    nix::unistd::write(master, b"new\n").unwrap();
    assert_eq!(read(one), b"new\n");
}

#[test]
fn what_a_dump_took_is_back_when_the_tree_runs_on() {
    let _alone = alone();
    let pair = pty(312);
    let one = slave(&pair);
    nix::unistd::write(pair.master(), b"typed\n").unwrap();
    let before = Settings::dump(one.as_fd()).unwrap();
    let open = [here(1, one.as_fd()), here(2, pair.master())];
    for _ in 0..3 {
        dump(&[], &open, &options(), Fate::Run).unwrap();
    }
    assert_eq!(Settings::dump(one.as_fd()).unwrap(), before);
    let mut echo = [0; 64];
    assert_eq!(nix::unistd::read(pair.master(), &mut echo).unwrap(), 7);
    assert_eq!(read(&one), b"typed\n");
}

#[test]
fn a_master_without_slave_keeps_its_number_lock_and_exclusiveness() {
    let _alone = alone();
    let pair = pty(313);
    pair.set_locked(true).unwrap();
    let store = dump(&[], &[here(1, pair.master())], &options(), Fate::Kill).unwrap();
    drop(pair);
    let (mut files, ()) = restore(&Terminals::new(), &store, &built(&[]), &options(), |_| ()).unwrap();
    let again = Pty::from_master(files.remove(&1).unwrap()).unwrap();
    assert_eq!(again.index(), 313);
    assert!(again.slave(OFlag::O_RDWR, None).is_err(), "locked");
    again.set_locked(false).unwrap();
    slave(&again);
}

#[test]
fn a_hung_up_slave_is_so_again() {
    let _alone = alone();
    let pair = pty(314);
    let hung = slave(&pair);
    drop(pair);
    let store = dump(&[], &[here(1, hung.as_fd())], &options(), Fate::Kill).unwrap();
    drop(hung);
    let (files, ()) = restore(&Terminals::new(), &store, &built(&[]), &options(), |_| ()).unwrap();
    assert!(Settings::dump(files[&1].as_fd()).unwrap_err().is_hung_up());
    let name = std::fs::read_link(format!("/proc/self/fd/{}", files[&1].as_raw_fd())).unwrap();
    assert_eq!(name, Path::new("/dev/pts/314 (deleted)"));
    assert!(nix::unistd::write(&files[&1], b"word").is_err());
}

#[test]
fn a_number_taken_meanwhile_is_named() {
    let _alone = alone();
    let pair = pty(315);
    let store = dump(&[], &[here(1, pair.master())], &options(), Fate::Run).unwrap();
    let error = restore(&Terminals::new(), &store, &built(&[]), &options(), |_| ()).unwrap_err();
    assert!(error.to_string().contains("pty number 315 is taken"), "{error}");
}

#[test]
fn a_slave_alone_is_refused_with_the_remedy() {
    let _alone = alone();
    let (pair, other) = (pty(316), pty(317));
    let (one, two) = (slave(&pair), slave(&other));
    let error = dump(&[], &[here(1, one.as_fd())], &options(), Fate::Kill).unwrap_err().to_string();
    assert!(error.contains("/dev/pts/316") && error.contains("--shell-job"), "{error}");
    let job = Options { shell_job: true, ..options() };
    dump(&[], &[here(1, one.as_fd())], &job, Fate::Kill).unwrap();
    let both = [here(1, one.as_fd()), here(2, two.as_fd())];
    let error = dump(&[], &both, &job, Fate::Kill).unwrap_err().to_string();
    assert!(error.contains("/dev/pts/316 and /dev/pts/317"), "{error}");
}

#[test]
fn a_terminal_from_outside() {
    let _alone = alone();
    let (pair, new) = (pty(318), pty(319));
    let (one, replacement) = (slave(&pair), slave(&new));
    let stat = fstat(&one).unwrap();
    let key = device::key(stat.st_rdev, stat.st_dev);
    let external = Options { external: vec![key.clone()], ..options() };
    let store = dump(&[], &[here(1, one.as_fd())], &external, Fate::Kill).unwrap();
    let error = restore(&Terminals::new(), &store, &built(&[]), &options(), |_| ()).unwrap_err().to_string();
    assert!(error.ends_with(&format!("use --inherit-fd fd[N]:{key}")), "{error}");
    let given = Options { inherit_fd: [(key, replacement.as_raw_fd())].into(), ..options() };
    let (files, ()) = restore(&Terminals::new(), &store, &built(&[]), &given, |_| ()).unwrap();
    assert_eq!(fstat(&files[&1]).unwrap().st_rdev, fstat(&replacement).unwrap().st_rdev);
}

#[derive(Default)]
struct Orphanage(Mutex<Vec<(u32, OwnedFd)>>);

impl OrphanMaster for Orphanage {
    fn take(&self, index: u32, master: OwnedFd) -> Result<(), BoxError> {
        self.0.lock().unwrap().push((index, master));
        Ok(())
    }
}

#[test]
fn the_master_of_an_orphan_goes_to_whoever_takes_it() {
    let _alone = alone();
    let pair = pty(320);
    let one = slave(&pair);
    let orphanage = Arc::new(Orphanage::default());
    let terminals = Terminals::with_orphans(orphanage.clone());
    let store = dump_with(&terminals, &[], &[here(1, one.as_fd())], &options(), Fate::Kill).unwrap();
    drop((pair, one));
    let (files, ()) = restore(&terminals, &store, &built(&[]), &options(), |_| ()).unwrap();
    let taken = orphanage.0.lock().unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].0, 320);
    nix::unistd::write(&taken[0].1, b"word\n").unwrap();
    assert_eq!(read(&files[&1]), b"word\n");
}

#[test]
fn damaged_images_are_refused() {
    use criu_images::{Image, StoreExt};
    let _alone = alone();
    let pair = pty(321);
    let store = dump(&[], &[here(1, pair.master())], &options(), Fate::Run).unwrap();
    let mut infos = infos(&store);
    infos[0].winsize = None;
    store.write_image(Image::TtyInfo, 0, &infos).unwrap();
    let error = restore(&Terminals::new(), &store, &built(&[]), &options(), |_| ()).unwrap_err();
    assert!(error.to_string().contains("lacks some of its settings"), "{error}");
}
