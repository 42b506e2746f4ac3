//! `ip_opts_entry`: options of the IP layer (ip(7), ipv6(7), raw(7)).

use std::os::fd::BorrowedFd;

use criu_images::proto::{IpOptsEntry, IpOptsRawEntry};
use criu_kernel::sockopt;
use nix::errno::Errno;

use crate::error::{Called, Result};
use crate::options::{get, set};

const SOL_RAW: i32 = 255;
const ICMP_FILTER: i32 = 1;
const SOL_ICMPV6: i32 = 58;
const ICMPV6_FILTER: i32 = 1;

/// Where the filter of a raw ICMP socket is, and how many words it has.
fn filter_of(family: i32, protocol: i32) -> Option<(i32, i32, usize)> {
    match (family, protocol) {
        (libc::AF_INET, libc::IPPROTO_ICMP) => Some((SOL_RAW, ICMP_FILTER, 1)),
        (libc::AF_INET6, libc::IPPROTO_ICMPV6) => Some((SOL_ICMPV6, ICMPV6_FILTER, 8)),
        _ => None,
    }
}

pub(super) fn dump(fd: BorrowedFd<'_>, family: i32, kind: i32, protocol: i32) -> Result<IpOptsEntry> {
    let flag = |level, name| get(fd, level, name).map(|value| (value != 0).then_some(true));
    let number = |name| get(fd, libc::IPPROTO_IP, name).map(|value| Some(value as u32).filter(|v| *v != 0));
    let raw = if kind == libc::SOCK_RAW { Some(dump_raw(fd, family, protocol)?) } else { None };
    if family == libc::AF_INET6 {
        let freebind = match sockopt::get::<i32>(fd, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND) {
            // Linux before 4.15.
            Err(Errno::ENOPROTOOPT) => None,
            value => (value.called("getsockopt(IPV6_FREEBIND)")? != 0).then_some(true),
        };
        let pktinfo = flag(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)?;
        return Ok(IpOptsEntry { freebind, pktinfo, raw, ..IpOptsEntry::default() });
    }
    Ok(IpOptsEntry {
        freebind: flag(libc::IPPROTO_IP, libc::IP_FREEBIND)?,
        pktinfo: flag(libc::IPPROTO_IP, libc::IP_PKTINFO)?,
        tos: number(libc::IP_TOS)?,
        ttl: number(libc::IP_TTL)?,
        raw,
    })
}

fn dump_raw(fd: BorrowedFd<'_>, family: i32, protocol: i32) -> Result<IpOptsRawEntry> {
    let flag = |level, name| get(fd, level, name).map(|value| (value != 0).then_some(true));
    let icmpv_filter = match filter_of(family, protocol) {
        None => Vec::new(),
        Some((level, name, words)) => sockopt::get_bytes(fd, level, name, words * 4)
            .called("getsockopt(ICMP_FILTER)")?
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
            .collect(),
    };
    let v6 = family == libc::AF_INET6;
    Ok(IpOptsRawEntry {
        hdrincl: if v6 {
            flag(libc::IPPROTO_IPV6, libc::IPV6_HDRINCL)?
        } else {
            flag(libc::IPPROTO_IP, libc::IP_HDRINCL)?
        },
        nodefrag: if v6 { None } else { flag(libc::IPPROTO_IP, libc::IP_NODEFRAG)? },
        checksum: None,
        icmpv_filter,
    })
}

pub(super) fn restore(fd: BorrowedFd<'_>, family: i32, protocol: i32, options: &IpOptsEntry) -> Result<()> {
    let number = |level, name, value: Option<u32>| match value {
        Some(value) => set(fd, level, name, value as i32),
        None => Ok(()),
    };
    let flag = |level, name, value: Option<bool>| number(level, name, value.map(u32::from));
    if family == libc::AF_INET6 {
        flag(libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, options.freebind)?;
        flag(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, options.pktinfo)?;
    } else {
        flag(libc::IPPROTO_IP, libc::IP_FREEBIND, options.freebind)?;
        flag(libc::IPPROTO_IP, libc::IP_PKTINFO, options.pktinfo)?;
        number(libc::IPPROTO_IP, libc::IP_TOS, options.tos)?;
        number(libc::IPPROTO_IP, libc::IP_TTL, options.ttl)?;
    }
    let Some(raw) = &options.raw else { return Ok(()) };
    if let (Some((level, name, _)), false) = (filter_of(family, protocol), raw.icmpv_filter.is_empty()) {
        let bytes: Vec<u8> = raw.icmpv_filter.iter().flat_map(|word| word.to_ne_bytes()).collect();
        sockopt::set_bytes(fd, level, name, &bytes).called("setsockopt(ICMP_FILTER)")?;
    }
    flag(libc::IPPROTO_IP, libc::IP_NODEFRAG, raw.nodefrag)?;
    if family == libc::AF_INET6 {
        flag(libc::IPPROTO_IPV6, libc::IPV6_HDRINCL, raw.hdrincl)
    } else {
        flag(libc::IPPROTO_IP, libc::IP_HDRINCL, raw.hdrincl)
    }
}
