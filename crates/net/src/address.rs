//! Addresses of internet sockets, as the kernel and as the images have them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use criu_kernel::sockopt;
use nix::errno::Errno;
use nix::sys::socket::{SockaddrIn, SockaddrIn6, SockaddrLike, bind, connect};

use crate::error::{Called, Error, Result};

/// The address as the images have it: 32-bit words in network order, one for IPv4 and four for IPv6.
pub(crate) fn words(address: IpAddr) -> Vec<u32> {
    let to_words = |octets: &[u8]| {
        octets.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]])).collect()
    };
    match address {
        IpAddr::V4(address) => to_words(&address.octets()),
        IpAddr::V6(address) => to_words(&address.octets()),
    }
}

/// The address that [`words`] made.
pub(crate) fn from_words(family: i32, words: &[u32], port: u32) -> Result<SocketAddr> {
    let octets: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let corrupt = || Error::Corrupt(format!("address of {} words for family {family}", words.len()));
    let port = u16::try_from(port).map_err(|_| Error::Corrupt(format!("port {port}")))?;
    // Old images have four words for IPv4 too.
    let address = match family {
        libc::AF_INET => IpAddr::from(*octets.first_chunk::<4>().ok_or_else(corrupt)?),
        libc::AF_INET6 if octets.len() == 16 => {
            IpAddr::from(*octets.first_chunk::<16>().ok_or_else(corrupt)?)
        }
        _ => return Err(corrupt()),
    };
    Ok(SocketAddr::new(address, port))
}

/// The unspecified address of a family, port 0.
pub(crate) fn unspecified(family: i32) -> SocketAddr {
    let address =
        if family == libc::AF_INET { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(address, 0)
}

fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk::<2>()?);
    let port = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
    match i32::from(family) {
        libc::AF_INET => {
            let address: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddrV4::new(address.into(), port).into())
        }
        libc::AF_INET6 => {
            let flow: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            let address: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let scope: [u8; 4] = bytes.get(24..28)?.try_into().ok()?;
            let scope = u32::from_ne_bytes(scope);
            Some(SocketAddrV6::new(address.into(), port, u32::from_be_bytes(flow), scope).into())
        }
        _ => None,
    }
}

/// The local address of a socket.
pub(crate) fn local(fd: BorrowedFd<'_>) -> Result<SocketAddr> {
    let storage: nix::sys::socket::SockaddrStorage =
        nix::sys::socket::getsockname(fd.as_raw_fd()).called("getsockname")?;
    let v4 = storage.as_sockaddr_in().map(|a| SocketAddr::from(SocketAddrV4::from(*a)));
    let v6 = storage.as_sockaddr_in6().map(|a| SocketAddr::from(SocketAddrV6::from(*a)));
    v4.or(v6).ok_or_else(|| Error::Unsupported(format!("address family {:?}", storage.family())))
}

/// The peer's address, also of a socket that is not connected yet or no more; `None` where there was none.
pub(crate) fn remote(fd: BorrowedFd<'_>) -> Result<Option<SocketAddr>> {
    let peer = |room| sockopt::get_bytes(fd, libc::SOL_SOCKET, libc::SO_PEERNAME, room);
    // The room has to be no more than the address takes.
    match peer(size_of::<libc::sockaddr_in6>()).or_else(|_| peer(size_of::<libc::sockaddr_in>())) {
        Err(Errno::ENOTCONN) => Ok(None),
        answer => {
            let bytes = answer.called("getsockopt(SO_PEERNAME)")?;
            Ok(parse(&bytes).filter(|address| address.port() != 0))
        }
    }
}

/// bind(2)
pub(crate) fn bind_to(fd: BorrowedFd<'_>, local: SocketAddr) -> Result<()> {
    with(local, |address| bind(fd.as_raw_fd(), address)).map_err(|errno| Error::Bind { local, errno })
}

/// connect(2)
pub(crate) fn connect_to(fd: BorrowedFd<'_>, remote: SocketAddr) -> nix::Result<()> {
    with(remote, |address| connect(fd.as_raw_fd(), address))
}

fn with(address: SocketAddr, call: impl Fn(&dyn SockaddrLike) -> nix::Result<()>) -> nix::Result<()> {
    match address {
        SocketAddr::V4(v4) => call(&SockaddrIn::from(v4)),
        SocketAddr::V6(v6) => call(&SockaddrIn6::from(v6)),
    }
}

/// An IPv4-mapped IPv6 address is IPv4 on the wire.
pub(crate) fn on_the_wire(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_image_form() {
        for text in ["127.0.0.1:80", "[fe80::1]:443", "[::ffff:10.0.0.1]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            let back = from_words(family, &words(address.ip()), address.port().into()).unwrap();
            assert_eq!(back, address);
        }
        assert!(from_words(libc::AF_INET6, &[1], 80).is_err());
        assert!(from_words(libc::AF_INET, &[], 80).is_err());
        assert!(from_words(libc::AF_INET, &[1], 70_000).is_err());
    }
}
