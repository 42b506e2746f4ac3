//! Internet sockets through the traits, as the engine uses them.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use common::{dump, in_own_network, restore};
use criu_net::INET;
use criu_resource::{Fate, Options};

fn established() -> Options {
    Options { tcp_established: true, ..Options::default() }
}

#[test]
fn a_server_with_a_connection_is_killed_and_comes_back() {
    in_own_network(|| {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let options = established();
            let listener = TcpListener::bind(address).unwrap();
            let address = listener.local_addr().unwrap();
            let mut client = TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let (server, _) = listener.accept().unwrap();
            server.set_nodelay(true).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(7))).unwrap();
            client.write_all(b"unread").unwrap();

            let images = dump(&INET, &options, &[listener.as_fd(), server.as_fd()], Fate::Kill).unwrap();
            drop((listener, server));
            client.write_all(b" in the dark").unwrap();
            client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "silence, no reset");
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();

            let mut fds = restore(&INET, &options, &images).unwrap().into_iter();
            let listener = TcpListener::from(fds.next().unwrap());
            let mut server = TcpStream::from(fds.next().unwrap());
            assert!(server.nodelay().unwrap());
            assert_eq!(server.read_timeout().unwrap(), Some(Duration::from_secs(7)));
            let mut bytes = [0; 18];
            server.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"unread in the dark");
            server.write_all(b"answer").unwrap();
            client.read_exact(&mut bytes[..6]).unwrap();
            assert_eq!(&bytes[..6], b"answer");
            let _another = TcpStream::connect(address).unwrap();
            listener.accept().unwrap();
        }
    });
}

#[test]
fn a_connection_is_refused_by_name_and_goes_on() {
    in_own_network(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        let refused = dump(&INET, &Options::default(), &[server.as_fd()], Fate::Kill).err().unwrap();
        let text = refused.to_string();
        assert!(text.contains(&format!("{} -> {peer}", server.local_addr().unwrap())), "{text}");
        assert!(text.contains("--tcp-established"), "{text}");
        server.write_all(b"x").unwrap();
        let mut client = client;
        assert_eq!(client.read(&mut [0]).unwrap(), 1);
    });
}

#[test]
fn a_dump_of_a_tree_that_runs_on_leaves_no_lock() {
    in_own_network(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        dump(&INET, &established(), &[server.as_fd(), client.as_fd()], Fate::Run).unwrap();
        server.write_all(b"x").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 1);
        assert!(!criu_net::lock::remove_stale(std::process::id() as i32).unwrap());
    });
}

#[test]
fn connections_in_the_backlog() {
    in_own_network(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let refused = dump(&INET, &established(), &[listener.as_fd()], Fate::Run).err().unwrap().to_string();
        assert!(refused.contains("--skip-in-flight"), "{refused}");
        let skip = Options { skip_in_flight: true, ..established() };
        dump(&INET, &skip, &[listener.as_fd()], Fate::Run).unwrap();
    });
}

#[test]
fn connections_are_closed_where_asked() {
    in_own_network(|| {
        let options = Options { tcp_close: true, ..Options::default() };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let images = dump(&INET, &options, &[client.as_fd()], Fate::Kill).unwrap();
        drop(client);
        let mut fds = restore(&INET, &Options::default(), &images).unwrap();
        let mut client = TcpStream::from(fds.remove(0));
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert_eq!(client.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn one_port_many_sockets() {
    in_own_network(|| {
        let options = established();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut servers: Vec<_> = (0..5).map(|_| listener.accept().unwrap().0).collect();
        let mut fds: Vec<_> = servers.iter().chain(&clients).map(AsFd::as_fd).collect();
        // Connections before the socket that listens, and behind it.
        fds.insert(3, listener.as_fd());
        let images = dump(&INET, &options, &fds, Fate::Kill).unwrap();
        drop((servers, clients, listener));
        let mut fds = restore(&INET, &options, &images).unwrap();
        let listener = TcpListener::from(fds.remove(3));
        let mut ends: Vec<TcpStream> = fds.into_iter().map(TcpStream::from).collect();
        clients = ends.split_off(5);
        servers = ends;
        for server in &mut servers {
            let peer = server.peer_addr().unwrap();
            server.write_all(peer.to_string().as_bytes()).unwrap();
        }
        drop(servers);
        for client in &mut clients {
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert_eq!(text, client.local_addr().unwrap().to_string());
        }
        assert_eq!(listener.local_addr().unwrap(), address);
    });
}

#[test]
fn udp_sockets_come_back() {
    in_own_network(|| {
        let one = UdpSocket::bind("127.0.0.1:0").unwrap();
        let two = UdpSocket::bind("[::]:0").unwrap();
        let address = one.local_addr().unwrap();
        two.connect(format!("[::ffff:127.0.0.1]:{}", address.port())).unwrap();
        one.set_broadcast(true).unwrap();
        let images = dump(&INET, &Options::default(), &[one.as_fd(), two.as_fd()], Fate::Kill).unwrap();
        drop((one, two));
        let mut fds = restore(&INET, &Options::default(), &images).unwrap();
        let two = UdpSocket::from(fds.pop().unwrap());
        let one = UdpSocket::from(fds.pop().unwrap());
        assert!(one.broadcast().unwrap() && !two.broadcast().unwrap());
        two.send(b"datagram").unwrap();
        let mut bytes = [0; 20];
        assert_eq!(one.recv(&mut bytes).unwrap(), 8);
        assert_eq!(one.local_addr().unwrap(), address);
    });
}

#[test]
fn sockets_of_another_namespace_are_refused() {
    in_own_network(|| {
        let foreign: OwnedFd = UdpSocket::bind("127.0.0.1:0").unwrap().into();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let refused = dump(&INET, &Options::default(), &[foreign.as_fd()], Fate::Run).err().unwrap();
            assert!(refused.to_string().contains("another network namespace"), "{refused}");
        })
        .join()
        .unwrap();
    });
}
