//! One connection, from its first request to its end.

use crate::client::{NoRequest, reply};
use crate::requests::{Next, Session};
use crate::{Backend, Client, Error, Failure};
use criu_config::Sources;
use criu_images::proto::CriuReqType;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Serves the client at the other end of an inherited socket, which this call takes over, until the client is
/// done. `sources` are the layers below the request: files, environment, arguments of `swrk` itself.
///
/// Gives whether the last request succeeded; a client that never asks for anything is no failure.
///
/// Call it while the process has one thread.
///
/// # Errors
/// `fd` is not such a socket.
pub fn swrk(fd: RawFd, sources: &Sources, backend: &dyn Backend) -> Result<bool, Error> {
    let client = Client::new(adopt(fd)?).map_err(Error::system("getsockopt(SO_PEERCRED)"))?;
    Ok(serve(&Session { client, backend, sources: sources.clone(), inherited: true }))
}

fn adopt(fd: RawFd) -> Result<OwnedFd, Error> {
    let bad = |reason: String| Error::NotASocket { fd, reason };
    if fd < 0 {
        return Err(bad("a negative number".into()));
    }
    // SAFETY: the number is not negative, and the descriptor is only borrowed for this check, which fails
    // with EBADF when it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    match getsockopt(&borrowed, sockopt::SockType) {
        Ok(SockType::SeqPacket) => {}
        Ok(other) => return Err(bad(format!("{other:?}"))),
        Err(errno) => return Err(bad(errno.desc().into())),
    }
    // SAFETY: it is open, and whoever started this process gave it to us by its number alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // Action scripts and what a restore runs need not know of it.
    fcntl(socket.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(Error::system("fcntl"))?;
    Ok(socket)
}

/// Serves a connection until it ends; whether the last request succeeded.
pub(crate) fn serve(session: &Session<'_>) -> bool {
    let mut success = true;
    let mut expected: Option<&[CriuReqType]> = None;
    loop {
        let message = match session.client.receive() {
            Ok(message) => message,
            Err(NoRequest::Gone) => return success,
            Err(NoRequest::Interrupted) => return false,
            Err(NoRequest::Bad(failure)) => return refuse(session, failure),
        };
        let fits = |kinds: &[CriuReqType]| message.kind().is_some_and(|kind| kinds.contains(&kind));
        if !expected.is_none_or(fits) {
            return refuse(session, Failure::bad_request("after PRE_DUMP only PRE_DUMP or DUMP may come"));
        }
        let done = session.handle(&message);
        success = done.success;
        match done.next {
            Next::Any => expected = None,
            Next::OneOf(kinds) => expected = Some(kinds),
            Next::End => return success,
        }
    }
}

/// Tells the client why nothing is done; always false.
fn refuse(session: &Session<'_>, failure: Failure) -> bool {
    tracing::error!("rpc: {failure}");
    match session.client.send(&reply(CriuReqType::Empty, &Err(failure))) {
        Ok(()) | Err(Errno::EPIPE) => {} // gone: it does not want to know
        Err(errno) => tracing::warn!("rpc: the client cannot be told: {errno}"),
    }
    false
}
