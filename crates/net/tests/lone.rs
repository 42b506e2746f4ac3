//! Netlink, packet and raw sockets through the traits.

mod common;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use common::{dump, in_own_network, restore};
use criu_net::{INET, NETLINK, PACKET};
use criu_resource::{Fate, FileKind, Options};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect,
    getsockname, recv, send, sendto, socket,
};

fn replace(kind: &dyn FileKind, fd: OwnedFd) -> (OwnedFd, Vec<criu_images::proto::FileEntry>) {
    let images = dump(kind, &Options::default(), &[fd.as_fd()], Fate::Kill).unwrap();
    drop(fd);
    let again = restore(kind, &Options::default(), &images).unwrap().remove(0);
    (again, images.files)
}

#[test]
fn netlink_with_groups() {
    in_own_network(|| {
        let flags = SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute).unwrap();
        // RTMGRP_LINK and RTMGRP_IPV4_IFADDR
        bind(fd.as_raw_fd(), &NetlinkAddr::new(77, 0x11)).unwrap();
        let (again, before) = replace(&NETLINK, fd);
        let name: NetlinkAddr = getsockname(again.as_raw_fd()).unwrap();
        assert_eq!((name.pid(), name.groups()), (77, 0x11));
        let after = dump(&NETLINK, &Options::default(), &[again.as_fd()], Fate::Run).unwrap().files;
        let socket = |files: &[criu_images::proto::FileEntry]| {
            let mut socket = files[0].nlsk.clone().unwrap();
            socket.ino = 0;
            socket
        };
        assert_eq!(socket(&after), socket(&before));
    });
}

#[test]
fn an_unbound_netlink_socket() {
    in_own_network(|| {
        let flags = SockFlag::empty();
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag).unwrap();
        let (_, before) = replace(&NETLINK, fd);
        assert_eq!(before[0].nlsk.as_ref().unwrap().portid, 0);
    });
}

#[test]
fn packet_sockets_hear_the_device_again() {
    in_own_network(|| {
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)
            .unwrap();
        let loopback = nix::net::if_::if_nametoindex("lo").unwrap();
        let mut address = [0u8; 20];
        address[..2].copy_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
        address[2..4].copy_from_slice(&(libc::ETH_P_ALL as u16).to_be_bytes());
        address[4..8].copy_from_slice(&loopback.to_ne_bytes());
        // SAFETY: a `sockaddr_ll` of 20 bytes.
        assert_eq!(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), 20) }, 0);
        let on = 1i32;
        criu_kernel::sockopt::set(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_AUXDATA, &on).unwrap();
        let (again, before) = replace(&PACKET, fd);
        let entry = before[0].psk.as_ref().unwrap();
        assert_eq!((entry.ifindex, entry.aux_data, entry.loss), (loopback, true, false));
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.send_to(b"x", "127.0.0.1:9").unwrap();
        assert!(recv(again.as_raw_fd(), &mut [0; 100], MsgFlags::empty()).unwrap() > 20);
    });
}

#[test]
fn a_connected_raw_socket() {
    in_own_network(|| {
        let fd = criu_net_raw();
        let target = SockaddrIn::new(127, 0, 0, 1, 0);
        connect(fd.as_raw_fd(), &target).unwrap();
        let (again, before) = replace(&INET, fd);
        assert_eq!(before[0].isk.as_ref().unwrap().dst_addr, [u32::from_ne_bytes([127, 0, 0, 1])]);
        // Only a connected socket may send without an address.
        send(again.as_raw_fd(), &[8, 0, 0xf7, 0xff, 0, 0, 0, 0], MsgFlags::empty()).unwrap();
        let (unconnected, _) = replace(&INET, criu_net_raw());
        assert!(send(unconnected.as_raw_fd(), &[0; 8], MsgFlags::empty()).is_err());
        sendto(unconnected.as_raw_fd(), &[8, 0, 0xf7, 0xff, 0, 0, 0, 0], &target, MsgFlags::empty()).unwrap();
    });
}

fn criu_net_raw() -> OwnedFd {
    socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::Icmp).unwrap()
}
