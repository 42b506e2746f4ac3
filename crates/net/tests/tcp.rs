//! Connections are taken out of their sockets and carried on in others.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use common::in_own_network;
use criu_images::proto::SkOptsEntry;
use criu_net::lock::Lock;
use criu_net::tcp::{Connection, State};
use criu_resource::{Dump, NetworkLock};

fn pair(address: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for end in [&client, &server] {
        end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    (client, server)
}

fn dump(socket: &TcpStream) -> Connection {
    Connection::dump(socket.as_fd()).unwrap()
}

/// Ends the socket silently and carries the connection on in another.
fn replace(socket: TcpStream) -> TcpStream {
    let before = dump(&socket);
    Connection::abandon(socket.as_fd()).unwrap();
    drop(socket);
    revive(&before)
}

fn revive(connection: &Connection) -> TcpStream {
    let rebuilt = connection.build(&SkOptsEntry::default()).unwrap();
    let again = TcpStream::from(rebuilt.resume().unwrap());
    again.set_nonblocking(false).unwrap();
    again.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    again
}

fn read_exactly(socket: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    socket.read_exact(&mut bytes).unwrap();
    bytes
}

fn goes_on(address: &'static str) {
    in_own_network(move || {
        let (mut client, mut server) = pair(address);
        client.write_all(b"before").unwrap();
        assert_eq!(read_exactly(&mut server, 6), b"before");
        client.write_all(b"unread").unwrap();

        let mut server = replace(server);
        assert_eq!(read_exactly(&mut server, 6), b"unread");
        client.write_all(b"after").unwrap();
        assert_eq!(read_exactly(&mut server, 5), b"after");
        server.write_all(b"answer").unwrap();
        assert_eq!(read_exactly(&mut client, 6), b"answer");
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the end of the stream arrives");
    });
}

#[test]
fn ipv4_goes_on() {
    goes_on("127.0.0.1:0");
}

#[test]
fn ipv6_goes_on() {
    goes_on("[::1]:0");
}

#[test]
fn mapped_ipv4_goes_on() {
    goes_on("[::ffff:127.0.0.1]:0");
}

#[test]
fn a_dump_leaves_the_connection_as_it_was() {
    in_own_network(|| {
        let (mut client, mut server) = pair("127.0.0.1:0");
        client.write_all(b"unread").unwrap();
        let first = dump(&server);
        assert_eq!((first.state, first.incoming.as_slice()), (State::Established, &b"unread"[..]));
        let mut second = dump(&server);
        second.stream.timestamp = first.stream.timestamp;
        assert_eq!(first, second);
        assert_eq!(read_exactly(&mut server, 6), b"unread");
        server.write_all(b"answer").unwrap();
        assert_eq!(read_exactly(&mut client, 6), b"answer");
    });
}

#[test]
fn both_ends_in_one_tree_with_full_queues() {
    in_own_network(|| {
        let (mut client, server) = pair("127.0.0.1:0");
        client.set_nonblocking(true).unwrap();
        let data: Vec<u8> = (0..8 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut written = 0;
        loop {
            match client.write(&data[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let mut lock = Lock::new(NetworkLock::Nftables, 4711);
        lock.add(local, remote);
        lock.apply().unwrap();
        let (one, two) = (dump(&client), dump(&server));
        assert!(one.stream.unsq_len() > 0, "{:?}", one.stream);
        for end in [&client, &server] {
            Connection::abandon(end.as_fd()).unwrap();
        }
        drop((client, server));

        let rebuilt = [&one, &two].map(|end| end.build(&SkOptsEntry::default()).unwrap());
        drop(lock);
        let [client, server] = rebuilt.map(|end| TcpStream::from(end.resume().unwrap()));
        let mut server = server;
        server.set_nonblocking(false).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert!(read_exactly(&mut server, written) == data[..written], "the bytes come as they were sent");
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn half_closed_by_the_peer() {
    in_own_network(|| {
        let (mut client, server) = pair("127.0.0.1:0");
        client.write_all(b"last words").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(dump(&server).state, State::CloseWait);
        let mut server = replace(server);
        assert_eq!(dump(&server).state, State::CloseWait);
        assert_eq!(read_exactly(&mut server, 10), b"last words");
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        server.write_all(b"answer").unwrap();
        assert_eq!(read_exactly(&mut client, 6), b"answer");
    });
}

#[test]
fn half_closed_by_us() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        in_own_network(move || {
            let (mut client, server) = pair(address);
            server.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            while dump(&server).state == State::FinWait1 {
                // The acknowledgement may be delayed.
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(dump(&server).state, State::FinWait2);
            let mut server = replace(server);
            assert_eq!(dump(&server).state, State::FinWait2);
            client.write_all(b"still here").unwrap();
            assert_eq!(read_exactly(&mut server, 10), b"still here");
            drop(client);
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
        });
    }
}

/// States in which something of the handshake of closing is lost on the way.
#[test]
fn closing_states_under_the_lock() {
    in_own_network(|| {
        for (theirs_first, expected) in [(false, State::FinWait1), (true, State::LastAck)] {
            let (mut client, mut server) = pair("127.0.0.1:0");
            if theirs_first {
                client.shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(server.read(&mut [0]).unwrap(), 0);
            }
            let mut lock = Lock::new(NetworkLock::Nftables, 4712);
            lock.add(server.local_addr().unwrap(), server.peer_addr().unwrap());
            lock.apply().unwrap();
            server.write_all(b"unsent?").unwrap();
            server.shutdown(std::net::Shutdown::Write).unwrap();
            let before = dump(&server);
            assert_eq!(before.state, expected);
            assert_eq!(before.outgoing, b"unsent?");
            Connection::abandon(server.as_fd()).unwrap();
            drop(server);
            let rebuilt = before.build(&SkOptsEntry::default()).unwrap();
            drop(lock);
            let server = TcpStream::from(rebuilt.resume().unwrap());
            assert_eq!(read_exactly(&mut client, 7), b"unsent?");
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            drop(server);
        }
    });
}

#[test]
fn the_lock_blocks_and_unlocks() {
    for method in [NetworkLock::Nftables, NetworkLock::Iptables] {
        in_own_network(move || {
            let (mut client, mut server) = pair("127.0.0.1:0");
            let (mut other, mut other_server) = pair("127.0.0.1:0");
            let mut lock = Lock::new(method, 4713);
            lock.add(client.local_addr().unwrap(), client.peer_addr().unwrap());
            lock.apply().unwrap();
            client.write_all(b"hello").unwrap();
            server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let blocked = server.read(&mut [0]).unwrap_err();
            assert_eq!(blocked.kind(), ErrorKind::WouldBlock);
            other.write_all(b"free").unwrap();
            assert_eq!(read_exactly(&mut other_server, 4), b"free", "other connections are free");
            drop(lock);
            server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            assert_eq!(read_exactly(&mut server, 5), b"hello");
        });
    }
}

#[test]
fn a_kept_lock_stays_until_it_is_removed() {
    for method in [NetworkLock::Nftables, NetworkLock::Iptables] {
        in_own_network(move || {
            let (mut client, mut server) = pair("[::1]:0");
            let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let mut lock = Lock::new(method, 4714);
            lock.add(local, remote);
            lock.apply().unwrap();
            lock.keep().unwrap();
            client.write_all(b"hello").unwrap();
            server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            assert!(server.read(&mut [0]).is_err());
            if method == NetworkLock::Nftables {
                assert!(criu_net::lock::remove_stale(4714).unwrap());
                assert!(!criu_net::lock::remove_stale(4714).unwrap());
            } else {
                let inventory =
                    criu_images::proto::InventoryEntry { network_lock_method: Some(0), ..Default::default() };
                let store = criu_images::MemoryStore::default();
                use criu_images::{Image, StoreExt};
                store.write_image(Image::Inventory, 0, &[inventory]).unwrap();
                store.write_image::<criu_images::proto::PstreeEntry>(Image::Pstree, 0, &[]).unwrap();
                let unlock = criu_net::lock::Unlock::from_images(&store).unwrap();
                unlock.run(&[(local, remote)]).unwrap();
            }
            server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            assert_eq!(read_exactly(&mut server, 5), b"hello");
        });
    }
}

#[test]
fn a_killed_dump_unlocks() {
    in_own_network(|| {
        let (mut client, mut server) = pair("127.0.0.1:0");
        let (read, write) = nix::unistd::pipe().unwrap();
        // SAFETY: the child only makes system calls and allocates, and ends by a signal.
        let child = match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                let mut lock = Lock::new(NetworkLock::Nftables, 4715);
                lock.add(client.local_addr().unwrap(), client.peer_addr().unwrap());
                lock.apply().unwrap();
                nix::unistd::write(&write, b"x").unwrap();
                loop {
                    nix::unistd::pause();
                }
            }
            nix::unistd::ForkResult::Parent { child } => child,
        };
        drop(write);
        assert_eq!(nix::unistd::read(&read, &mut [0]).unwrap(), 1, "the child has locked");
        client.write_all(b"hello").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(server.read(&mut [0]).is_err());
        nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
        nix::sys::wait::waitpid(child, None).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(read_exactly(&mut server, 5), b"hello");
        assert!(!criu_net::lock::remove_stale(4715).unwrap());
    });
}

#[test]
fn a_connection_that_is_being_made() {
    in_own_network(|| {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
        use std::os::fd::AsRawFd;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (local, remote) = ("127.0.0.1:12345".parse().unwrap(), listener.local_addr().unwrap());
        let mut lock = Lock::new(NetworkLock::Nftables, 4716);
        lock.add(local, remote);
        lock.apply().unwrap();
        let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
        bind(client.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 12345)).unwrap();
        let target = SockaddrIn::new(127, 0, 0, 1, remote.port());
        assert_eq!(connect(client.as_raw_fd(), &target), Err(nix::errno::Errno::EINPROGRESS));
        let before = Connection::dump(client.as_fd()).unwrap();
        assert_eq!(before.state, State::SynSent);
        Connection::abandon(client.as_fd()).unwrap();
        drop(client);
        let rebuilt = before.build(&SkOptsEntry::default()).unwrap();
        drop(lock);
        let mut client = TcpStream::from(rebuilt.resume().unwrap());
        let (mut server, peer) = listener.accept().unwrap();
        assert_eq!(peer, local);
        server.write_all(b"x").unwrap();
        client.set_nonblocking(false).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 1);
    });
}

#[test]
fn sockets_left_in_repair_mode_are_rescued() {
    in_own_network(|| {
        let (mut client, mut server) = pair("127.0.0.1:0");
        // Another process, so that no other test's sockets are touched.
        let copy = std::os::fd::OwnedFd::from(server.try_clone().unwrap());
        let mut holder = std::process::Command::new("sleep").arg("100").stdin(copy).spawn().unwrap();
        Connection::abandon(server.as_fd()).unwrap();
        assert!(server.write_all(b"x").is_err(), "a socket in repair mode is of no use to its owner");
        assert!(criu_net::rescue(holder.id() as i32).unwrap());
        server.write_all(b"x").unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 1);
        holder.kill().unwrap();
        holder.wait().unwrap();
    });
}
