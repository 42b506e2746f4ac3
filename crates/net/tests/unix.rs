//! Unix sockets through the traits, as the engine uses them.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

use common::{dump, restore};
use criu_net::UNIX;
use criu_resource::{Fate, Options};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

fn through(fds: &[BorrowedFd<'_>]) -> impl FnOnce() -> std::vec::IntoIter<OwnedFd> + use<> {
    let images = dump(&UNIX, &Options::default(), fds, Fate::Kill).unwrap();
    move || restore(&UNIX, &Options::default(), &images).unwrap().into_iter()
}

fn refusal(fds: &[BorrowedFd<'_>], options: &Options) -> String {
    dump(&UNIX, options, fds, Fate::Kill).err().expect("refused").to_string()
}

#[test]
fn a_pair_with_queues() {
    let (mut one, mut two) = UnixStream::pair().unwrap();
    one.write_all(b"to two").unwrap();
    two.write_all(&[7; 100_000]).unwrap();
    one.set_nonblocking(true).unwrap();
    let again = through(&[one.as_fd(), two.as_fd()]);
    let mut bytes = [0; 6];
    two.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"to two", "the dump took nothing away");
    drop((one, two));

    let mut fds = again();
    let mut one = UnixStream::from(fds.next().unwrap());
    let mut two = UnixStream::from(fds.next().unwrap());
    two.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"to two");
    let mut large = vec![0; 100_000];
    one.read_exact(&mut large).unwrap();
    assert!(large.iter().all(|byte| *byte == 7));
    assert_eq!(one.read(&mut bytes).unwrap_err().kind(), ErrorKind::WouldBlock, "non-blocking as before");
    two.write_all(b"on").unwrap();
    assert_eq!(one.read(&mut bytes).unwrap(), 2);
}

#[test]
fn packets_keep_their_borders() {
    for kind in [SockType::SeqPacket, SockType::Datagram] {
        let (one, two) = socketpair(AddressFamily::Unix, kind, None, SockFlag::empty()).unwrap();
        let packets: [&[u8]; 3] = [b"a", b"bcd", b"ef"];
        for packet in packets {
            send(one.as_raw_fd(), packet, MsgFlags::empty()).unwrap();
        }
        let again = through(&[one.as_fd(), two.as_fd()]);
        drop((one, two));
        let fds: Vec<_> = again().collect();
        for packet in packets {
            let mut bytes = [0; 10];
            let len = recv(fds[1].as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).unwrap();
            assert_eq!(&bytes[..len], packet);
        }
        send(fds[1].as_raw_fd(), b"back", MsgFlags::empty()).unwrap();
        assert_eq!(recv(fds[0].as_raw_fd(), &mut [0; 10], MsgFlags::MSG_DONTWAIT).unwrap(), 4);
    }
}

#[test]
fn a_server_with_a_client_and_one_that_waits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    let (server, _) = listener.accept().unwrap();
    let waiting = UnixStream::connect(&path).unwrap();
    client.write_all(b"hello").unwrap();
    let again = through(&[client.as_fd(), server.as_fd(), waiting.as_fd(), listener.as_fd()]);
    drop((listener, client, server, waiting));

    let mut fds = again();
    let mut client = UnixStream::from(fds.next().unwrap());
    let mut server = UnixStream::from(fds.next().unwrap());
    let mut waiting = UnixStream::from(fds.next().unwrap());
    let listener = UnixListener::from(fds.next().unwrap());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o640);
    let mut bytes = [0; 5];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    assert_eq!(server.local_addr().unwrap().as_pathname(), Some(path.as_path()));
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.write_all(b"x").unwrap();
    assert_eq!(waiting.read(&mut [0]).unwrap(), 1);
    UnixStream::connect(&path).unwrap();
}

#[test]
fn abstract_datagrams_connected_one_way() {
    let name = SocketAddr::from_abstract_name(format!("criu-net-{}", std::process::id())).unwrap();
    let server = UnixDatagram::bind_addr(&name).unwrap();
    let client = UnixDatagram::unbound().unwrap();
    client.connect_addr(&name).unwrap();
    client.send(b"one").unwrap();
    client.send(b"").unwrap();
    client.send(b"three").unwrap();
    let again = through(&[client.as_fd(), server.as_fd()]);
    drop((client, server));
    let mut fds = again();
    let client = UnixDatagram::from(fds.next().unwrap());
    let server = UnixDatagram::from(fds.next().unwrap());
    client.send(b"four!").unwrap();
    let mut bytes = [0; 10];
    for expected in [&b"one"[..], b"", b"three", b"four!"] {
        let len = server.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], expected);
    }
    // Anybody else may send to it as well.
    let another = UnixDatagram::unbound().unwrap();
    another.connect_addr(&name).unwrap();
    another.send(b"x").unwrap();
}

#[test]
fn half_closed_and_widowed() {
    let (mut one, two) = UnixStream::pair().unwrap();
    one.write_all(b"last").unwrap();
    one.shutdown(std::net::Shutdown::Write).unwrap();
    let (mut gone, widow) = UnixStream::pair().unwrap();
    gone.write_all(b"farewell").unwrap();
    drop(gone);
    let again = through(&[one.as_fd(), two.as_fd(), widow.as_fd()]);
    drop((one, two, widow));
    let mut fds = again();
    let mut one = UnixStream::from(fds.next().unwrap());
    let mut two = UnixStream::from(fds.next().unwrap());
    let mut widow = UnixStream::from(fds.next().unwrap());
    let mut text = String::new();
    two.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last");
    two.write_all(b"answer").unwrap();
    assert_eq!(one.read(&mut [0; 10]).unwrap(), 6);
    assert_eq!(one.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    text.clear();
    widow.read_to_string(&mut text).unwrap();
    assert_eq!(text, "farewell");
}

#[test]
fn a_deleted_name_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gone");
    let server = UnixDatagram::bind(&path).unwrap();
    let client = UnixDatagram::unbound().unwrap();
    client.connect(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "another").unwrap();
    let again = through(&[client.as_fd(), server.as_fd()]);
    drop((client, server));
    let mut fds = again();
    let client = UnixDatagram::from(fds.next().unwrap());
    let server = UnixDatagram::from(fds.next().unwrap());
    client.send(b"still there").unwrap();
    assert_eq!(server.recv(&mut [0; 20]).unwrap(), 11);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "another");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!(server.local_addr().unwrap().as_pathname(), Some(path.as_path()));
}

#[test]
fn a_relative_name() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().to_path_buf();
    let (images, name) = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
        std::env::set_current_dir(&inside).unwrap();
        let server = UnixListener::bind("relative").unwrap();
        let images = dump(&UNIX, &Options::default(), &[server.as_fd()], Fate::Kill).unwrap();
        (images, server.local_addr().unwrap().as_pathname().unwrap().to_owned())
    })
    .join()
    .unwrap();
    let server = UnixListener::from(restore(&UNIX, &Options::default(), &images).unwrap().remove(0));
    assert_eq!(server.local_addr().unwrap().as_pathname(), Some(name.as_path()));
    UnixStream::connect(directory.path().join("relative")).unwrap();
}

#[test]
fn peers_outside_of_the_tree() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let outside = UnixDatagram::bind(&path).unwrap();
    let client = UnixDatagram::unbound().unwrap();
    client.connect(&path).unwrap();
    let text = refusal(&[client.as_fd()], &Options::default());
    assert!(text.contains("--ext-unix-sk") && text.contains("log"), "{text}");

    let options = Options { ext_unix_sk: Some(Vec::new()), ..Options::default() };
    let images = dump(&UNIX, &options, &[client.as_fd()], Fate::Kill).unwrap();
    drop(client);
    let client = UnixDatagram::from(restore(&UNIX, &options, &images).unwrap().remove(0));
    client.send(b"hello").unwrap();
    assert_eq!(outside.recv(&mut [0; 10]).unwrap(), 5);
    assert!(
        restore(&UNIX, &Options::default(), &images).err().unwrap().to_string().contains("--ext-unix-sk")
    );

    let (end, _other) = UnixStream::pair().unwrap();
    assert!(refusal(&[end.as_fd()], &options).contains("--inherit-fd"));
}

#[test]
fn an_inherited_end() {
    let (end, mut other) = UnixStream::pair().unwrap();
    let inode = nix::sys::stat::fstat(&end).unwrap().st_ino;
    let options = Options { external: vec![format!("unix[{inode}]")], ..Options::default() };
    let images = dump(&UNIX, &options, &[end.as_fd()], Fate::Kill).unwrap();
    let inherit_fd = [(format!("socket:[{inode}]"), end.as_raw_fd())].into();
    let options = Options { inherit_fd, ..Options::default() };
    let mut again = UnixStream::from(restore(&UNIX, &options, &images).unwrap().remove(0));
    again.write_all(b"x").unwrap();
    assert_eq!(other.read(&mut [0]).unwrap(), 1);
}

fn send_descriptor(through: &OwnedFd, fd: i32) {
    let fds = [fd];
    let rights = [nix::sys::socket::ControlMessage::ScmRights(&fds)];
    let bytes = [std::io::IoSlice::new(b"x")];
    nix::sys::socket::sendmsg::<()>(through.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).unwrap();
}

#[test]
fn descriptors_in_flight_that_nobody_holds_are_refused() {
    let (one, two) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty()).unwrap();
    send_descriptor(&one, 0);
    let text = refusal(&[one.as_fd(), two.as_fd()], &Options::default());
    assert!(text.contains("in flight"), "{text}");
}

#[test]
fn sockets_in_flight_even_over_themselves() {
    for kind in [SockType::Stream, SockType::SeqPacket, SockType::Datagram] {
        let (one, two) = socketpair(AddressFamily::Unix, kind, None, SockFlag::empty()).unwrap();
        send(one.as_raw_fd(), b"before", MsgFlags::empty()).unwrap();
        send_descriptor(&one, one.as_raw_fd());
        send_descriptor(&one, two.as_raw_fd());
        send(one.as_raw_fd(), b"after", MsgFlags::empty()).unwrap();
        let again = through(&[one.as_fd(), two.as_fd()]);
        drop((one, two));
        let fds: Vec<_> = again().collect();
        let mut seen = Vec::new();
        let mut text = Vec::new();
        let mut bytes = [0; 6];
        loop {
            let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
            let mut space = nix::cmsg_space!([i32; 4]);
            let flags = MsgFlags::MSG_DONTWAIT;
            let fd = fds[1].as_raw_fd();
            let Ok(message) = nix::sys::socket::recvmsg::<()>(fd, &mut parts, Some(&mut space), flags) else {
                break;
            };
            for control in message.cmsgs().unwrap() {
                let nix::sys::socket::ControlMessageOwned::ScmRights(rights) = control else { panic!() };
                seen.extend(rights.iter().map(|fd| common::same(*fd, fds[0].as_raw_fd())));
            }
            let len = message.bytes;
            text.extend_from_slice(&bytes[..len]);
        }
        assert_eq!(
            (seen.as_slice(), text.as_slice()),
            (&[true, false][..], &b"beforexxafter"[..]),
            "{kind:?}"
        );
    }
}
