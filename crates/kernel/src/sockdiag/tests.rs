use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::stat::fstat;
use std::os::fd::AsFd;

use super::*;

fn inode(fd: &impl AsFd) -> u64 {
    fstat(fd).unwrap().st_ino
}

#[test]
fn tcp_sockets_with_their_queues() {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(host).unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"12345").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let _waiting = TcpStream::connect(address).unwrap();

        let table = SockDiag::open().unwrap().all().unwrap();
        let seen = &table.inet[&inode(&listener)];
        assert!(seen.is_listening());
        assert_eq!((seen.local, seen.receive_queue), (address, 1));
        let seen = &table.inet[&inode(&server)];
        assert_eq!((seen.local, seen.remote), (address, client.local_addr().unwrap()));
        // CLOSE_WAIT: the peer's end was received, and counts as one byte or none.
        assert_eq!(seen.state, 8);
        assert!(matches!(seen.receive_queue, 5 | 6), "{seen:?}");
        assert_eq!(table.inet[&inode(&client)].shutdown, 2);
    }
}

#[test]
fn udp_sockets() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let found = SockDiag::open().unwrap().inet(libc::AF_INET, Protocol::Udp).unwrap();
    let seen = found.iter().find(|s| s.inode == inode(&socket)).unwrap();
    assert_eq!(seen.local, socket.local_addr().unwrap());
    assert_eq!((seen.state, seen.remote.port()), (7, 0));
    assert!(seen.memory.unwrap().rcvbuf > 0);
}

#[test]
fn unix_sockets_know_peers_names_and_files() {
    let diag = SockDiag::open().unwrap();
    let (mut a, b) = UnixStream::pair().unwrap();
    a.write_all(b"abc").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let name = format!("criu-kernel-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let hidden = UnixListener::bind_addr(&address).unwrap();

    let table = diag.all().unwrap().unix;
    assert_eq!(table[&inode(&a)].peer, Some(inode(&b)));
    assert_eq!(table[&inode(&b)].receive_queue, 3);
    let seen = &table[&inode(&listener)];
    assert_eq!((seen.state, seen.kind), (10, libc::SOCK_STREAM as u8));
    assert_eq!(seen.path(), Some(path.as_path()));
    assert_eq!(seen.file_inode, Some(nix::sys::stat::stat(&path).unwrap().st_ino as u32));
    assert_eq!(seen.pending, [inode(&client)]);
    let seen = &table[&inode(&hidden)];
    assert_eq!((seen.abstract_name(), seen.path()), (Some(name.as_bytes()), None));
}

#[test]
fn netlink_sockets_see_themselves() {
    let diag = SockDiag::open().unwrap();
    let found = diag.netlink().unwrap();
    let seen = found.iter().find(|s| s.inode == inode(&diag.socket)).unwrap();
    assert_eq!(i32::from(seen.protocol), libc::NETLINK_SOCK_DIAG);
    assert_ne!(seen.port, 0);
}

#[test]
fn packet_sockets() {
    let made = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None);
    let Ok(made) = made else { return }; // needs CAP_NET_RAW
    let found = SockDiag::open().unwrap().packet().unwrap();
    let seen = found.iter().find(|s| s.inode == inode(&made)).unwrap();
    assert_eq!((seen.kind, seen.interface), (libc::SOCK_RAW as u8, 0));
}
