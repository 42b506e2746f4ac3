//! Segments in the name of the peer: how a new socket hears of a FIN that the old one had heard.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};

use super::Connection;
use crate::address::on_the_wire;
use crate::error::{Called, Error, Result};
use crate::lock::MARK;
use crate::options;

/// The sender has no more to send.
pub(super) const FIN: u8 = 0x01;
/// The acknowledgement number counts.
pub(super) const ACK: u8 = 0x10;

/// Delivers an empty segment from the peer, past the network lock.
pub(super) fn from_peer(to: &Connection, flags: u8, sequence: u32, acknowledged: u32) -> Result<()> {
    let (source, target) = (on_the_wire(to.remote), on_the_wire(to.local));
    let window = (to.stream.snd_wnd() >> to.stream.snd_wscale.min(14)).min(0xffff) as u16;
    let packet = packet(source, target, flags, sequence, acknowledged, window)?;
    let v4 = target.is_ipv4();
    let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
        .called("socket(SOCK_RAW)")?;
    // IPPROTO_RAW: the IP header is part of what is sent.
    options::set(raw.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, MARK as i32)?;
    let call = "sendto(a segment from the peer)";
    let sent = match target {
        SocketAddr::V4(target) => {
            sendto(raw.as_raw_fd(), &packet, &SockaddrIn::from(target), MsgFlags::empty())
        }
        SocketAddr::V6(mut target) => {
            target.set_port(0);
            sendto(raw.as_raw_fd(), &packet, &SockaddrIn6::from(target), MsgFlags::empty())
        }
    };
    sent.map(drop).called(call)
}

fn packet(
    source: SocketAddr,
    target: SocketAddr,
    flags: u8,
    sequence: u32,
    acknowledged: u32,
    window: u16,
) -> Result<Vec<u8>> {
    const LEN: u8 = 20;
    let mut tcp = Vec::with_capacity(LEN.into());
    tcp.extend(source.port().to_be_bytes());
    tcp.extend(target.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledged.to_be_bytes());
    tcp.extend([(LEN / 4) << 4, flags]);
    tcp.extend(window.to_be_bytes());
    // Checksum, urgent pointer.
    tcp.extend([0; 4]);

    let (mut header, mut pseudo) = (Vec::new(), Vec::new());
    match (source.ip(), target.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // The kernel fills in identification and checksum.
            header.extend([0x45, 0, 0, 20 + LEN, 0, 0, 0, 0, 64, libc::IPPROTO_TCP as u8, 0, 0]);
            for address in [from.octets(), to.octets()] {
                header.extend(address);
                pseudo.extend(address);
            }
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            header.extend([0x60, 0, 0, 0, 0, LEN, libc::IPPROTO_TCP as u8, 64]);
            for address in [from.octets(), to.octets()] {
                header.extend(address);
                pseudo.extend(address);
            }
        }
        _ => return Err(Error::Corrupt(format!("{source} and {target} are of different families"))),
    }
    pseudo.extend([0, libc::IPPROTO_TCP as u8, 0, LEN]);
    let sum = checksum(pseudo.iter().chain(&tcp).copied());
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    Ok([header, tcp].concat())
}

/// The internet checksum of an even number of bytes.
fn checksum(bytes: impl Iterator<Item = u8>) -> u16 {
    let mut sum = 0u32;
    for (index, byte) in bytes.enumerate() {
        sum += if index % 2 == 0 { u32::from(byte) << 8 } else { u32::from(byte) };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_sums_up_to_zero() {
        let packet =
            packet("10.0.0.1:80".parse().unwrap(), "10.0.0.2:4321".parse().unwrap(), FIN | ACK, 1, 2, 3)
                .unwrap();
        assert_eq!(packet.len(), 40);
        let pseudo = [10, 0, 0, 1, 10, 0, 0, 2, 0, 6, 0, 20];
        assert_eq!(checksum(pseudo.into_iter().chain(packet[20..].iter().copied())), 0);
        assert_eq!(packet[33], FIN | ACK);
        assert!(super::packet("[::1]:1".parse().unwrap(), "1.2.3.4:1".parse().unwrap(), 0, 0, 0, 0).is_err());
    }
}
