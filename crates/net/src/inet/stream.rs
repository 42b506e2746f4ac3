//! TCP sockets: listening, connected, half-closed and closed ones.

use std::os::fd::{BorrowedFd, OwnedFd};

use criu_images::RecordSet;
use criu_images::proto::{InetSkEntry, SkShutdown, TcpOptsEntry};
use criu_kernel::tcp_repair;
use criu_resource::{Dump, Options};
use nix::sys::socket::{Backlog, listen};

use super::dump::Basics;
use crate::error::{Called, Error, Result};
use crate::options;
use crate::sys;
use crate::tcp::{Connection, State};

/// The state, when a socket in it can be dumped.
pub(super) fn check(fd: BorrowedFd<'_>, basics: &Basics, options: &Options) -> Result<State> {
    let info = tcp_repair::info(fd).called("getsockopt(TCP_INFO)")?;
    let state = State::from_number(info.state.into())
        .ok_or_else(|| Error::Unsupported(format!("TCP state {}", info.state)))?;
    match state {
        // Of a listening socket, this counts the connections to be accepted.
        State::Listen if info.unacked > 0 && !options.skip_in_flight => {
            Err(Error::InFlight { local: basics.local, count: info.unacked })
        }
        State::SynReceived | State::TimeWait => Err(Error::Unsupported(format!("TCP state {state:?}"))),
        _ => match basics.remote {
            Some(remote) if state.is_live() && !options.tcp_established && !options.tcp_close => {
                Err(Error::Established { local: basics.local, remote })
            }
            _ => Ok(state),
        },
    }
}

/// Fills in what is TCP's own, and stores the connection.
pub(super) fn dump(
    fd: BorrowedFd<'_>,
    basics: &Basics,
    options: &Options,
    entry: &mut InetSkEntry,
    records: &mut RecordSet,
) -> Result<()> {
    let info = tcp_repair::info(fd).called("getsockopt(TCP_INFO)")?;
    entry.state = info.state.into();
    if entry.state == State::Listen as u32 {
        // Of a listening socket, this is the backlog.
        entry.backlog = info.sacked;
    }
    if sys::hung_up(fd)? {
        entry.shutdown = Some(SkShutdown::Read as i32);
    }
    entry.tcp_opts = Some(dump_options(fd)?);
    if basics.remote.is_some() && !options.tcp_close {
        let connection = Connection::dump(fd)?;
        entry.state = connection.state as u32;
        records.push(connection.record(entry.ino));
    }
    Ok(())
}

fn dump_options(fd: BorrowedFd<'_>) -> Result<TcpOptsEntry> {
    let get = |name| options::get(fd, libc::IPPROTO_TCP, name);
    let number = |name| get(name).map(|value| Some(value as u32).filter(|value| *value != 0));
    let flag = |name| get(name).map(|value| Some(value != 0).filter(|value| *value));
    Ok(TcpOptsEntry {
        cork: flag(libc::TCP_CORK)?,
        nodelay: flag(libc::TCP_NODELAY)?,
        keepcnt: number(libc::TCP_KEEPCNT)?,
        keepidle: number(libc::TCP_KEEPIDLE)?,
        keepintvl: number(libc::TCP_KEEPINTVL)?,
    })
}

/// Sets TCP's own options.
pub(super) fn restore_options(fd: BorrowedFd<'_>, entry: &InetSkEntry) -> Result<()> {
    let Some(values) = &entry.tcp_opts else { return Ok(()) };
    let set = |name, value: Option<u32>| match value {
        Some(value) => options::set(fd, libc::IPPROTO_TCP, name, value as i32),
        None => Ok(()),
    };
    set(libc::TCP_NODELAY, values.nodelay.map(u32::from))?;
    set(libc::TCP_CORK, values.cork.map(u32::from))?;
    set(libc::TCP_KEEPCNT, values.keepcnt)?;
    set(libc::TCP_KEEPIDLE, values.keepidle)?;
    set(libc::TCP_KEEPINTVL, values.keepintvl)
}

/// Makes a bound socket listen, if it did.
pub(super) fn restore_listening(fd: &OwnedFd, entry: &InetSkEntry) -> Result<()> {
    if entry.state != State::Listen as u32 {
        return Ok(());
    }
    // nix refuses a backlog over the system's limit, which the kernel would cut down anyhow.
    let backlog = i32::try_from(entry.backlog).unwrap_or(i32::MAX);
    let backlog = Backlog::new(backlog).unwrap_or(Backlog::MAXCONN);
    listen(fd, backlog).called(format!("listen({})", entry.backlog))
}
