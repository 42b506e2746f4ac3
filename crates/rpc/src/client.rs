//! The connection to a client: packets in and out, notifications and their replies.

use crate::message::{self, Message};
use crate::{Failure, Peer};
use criu_engine::guard;
use criu_images::prost::Message as _;
use criu_images::proto::{CriuNotify, CriuReqType, CriuResp};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use nix::sys::stat::fstat;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The largest request that is read: thousands of times what clients send.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;

/// `cr_errmsg` is cut here: clients read replies into buffers of 1024 bytes.
const MAX_ERROR: usize = 768;

/// Milliseconds between looks for a signal while the client thinks about a stage.
const LOOK_UP: u16 = 200;

/// A connected client. Clones share the connection; who writes must be the one whose turn it is.
#[derive(Clone, Debug)]
pub struct Client {
    socket: Arc<OwnedFd>,
    peer: Peer,
    notified: bool,
}

/// Why there is no request.
#[derive(Debug)]
pub(crate) enum NoRequest {
    /// The client closed the connection, or it broke.
    Gone,
    /// A signal wants us to stop.
    Interrupted,
    /// What came makes no sense.
    Bad(Failure),
}

impl Client {
    pub(crate) fn new(socket: OwnedFd) -> Result<Client, Errno> {
        let peer = Peer::of(socket.as_fd())?;
        Ok(Client { socket: Arc::new(socket), peer, notified: false })
    }

    pub(crate) fn notified(&self, on: bool) -> Client {
        Client { notified: on, ..self.clone() }
    }

    /// Who it is.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// See [`Peer::become_client`].
    pub(crate) fn become_peer(&self) -> Result<(), crate::Error> {
        self.peer.become_client(self.socket.as_fd())
    }

    /// Whether it wants notifications (`notify_scripts`).
    pub fn wants_notifications(&self) -> bool {
        self.notified
    }

    /// The inode of our end of the connection, by which a client that dumps itself recognises the socket that
    /// must stay out of the dump (sock_diag(7): it is the peer of the client's end).
    pub fn socket_inode(&self) -> Option<u64> {
        fstat(self.socket.as_fd()).ok().map(|stat| stat.st_ino)
    }

    /// Closes the socket in a child process that has no business with the client and ends by exit(3), so that
    /// the connection ends with the process that serves it.
    pub fn leave(&self) {
        let _ = nix::unistd::close(self.socket.as_raw_fd()); // it is this process's own copy
    }

    /// Whether the client has closed its end.
    pub fn has_hung_up(&self) -> bool {
        let mut wanted = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        poll(&mut wanted, PollTimeout::ZERO).is_ok()
            && wanted[0].revents().is_some_and(|events| events.intersects(gone))
    }

    /// Tells the client that a stage is reached and waits until it agrees. `pid` is the root task's.
    /// Does nothing for a client that wants no notifications.
    ///
    /// # Errors
    /// The client disagrees, hangs up, or answers something else.
    pub fn notify(&self, stage: &str, pid: Option<i32>) -> Result<(), Failure> {
        match self.notified {
            true => self.ask(stage, pid, None).map(drop),
            false => Ok(()),
        }
    }

    /// Hands the master of the root task's terminal to the client (`orphan_pts_master`).
    ///
    /// # Errors
    /// As [`notify`](Self::notify), and the client wants no notifications, so that the terminal would be lost.
    pub fn send_orphan_pts_master(&self, master: BorrowedFd<'_>) -> Result<(), Failure> {
        if !self.notified {
            return Err(Failure::bad_request(
                "orphan_pts_master needs notify_scripts: nobody takes the terminal",
            ));
        }
        self.ask("orphan-pts-master", None, Some(master)).map(drop)
    }

    /// Asks the client for more external resources (`query-ext-files`), in the form of `--external`.
    pub(crate) fn query_external(&self) -> Result<Vec<String>, Failure> {
        if !self.notified {
            return Ok(Vec::new());
        }
        let answer = self.ask("query-ext-files", None, None)?;
        Ok(answer.request.opts.map(|opts| opts.external).unwrap_or_default())
    }

    fn ask(&self, stage: &str, pid: Option<i32>, fd: Option<BorrowedFd<'_>>) -> Result<Message, Failure> {
        let notify = CriuNotify { script: Some(stage.into()), pid };
        let question = CriuResp {
            r#type: CriuReqType::Notify.into(),
            success: true,
            notify: Some(notify),
            ..CriuResp::default()
        };
        let gone = |errno: Errno| {
            Failure::new(format!("the RPC client hung up at stage {stage}")).with_errno(errno as i32)
        };
        self.send_with(&question, fd).map_err(gone)?;
        let answer = self.await_packet().and_then(|()| self.receive()).map_err(|none| match none {
            NoRequest::Gone => gone(Errno::ECONNRESET),
            NoRequest::Interrupted => Failure::new("interrupted").with_errno(libc::EINTR),
            NoRequest::Bad(failure) => failure,
        })?;
        match (answer.kind(), answer.request.notify_success) {
            (Some(CriuReqType::Notify), Some(true)) => Ok(answer),
            (Some(CriuReqType::Notify), _) => {
                Err(Failure::new(format!("the RPC client reports that its action for {stage} failed")))
            }
            _ => Err(Failure::bad_request(format!(
                "the RPC client did not answer the notification of {stage}"
            ))),
        }
    }

    /// Sends a reply.
    pub(crate) fn send(&self, reply: &CriuResp) -> Result<(), Errno> {
        self.send_with(reply, None)
    }

    fn send_with(&self, reply: &CriuResp, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let bytes = reply.encode_to_vec();
        let fds: Vec<_> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        loop {
            let parts = [IoSlice::new(&bytes)];
            match sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
                Err(Errno::EINTR) if !guard::cancelled() => {}
                result => return result.map(drop),
            }
        }
    }

    /// Waits until there is something to read, or a signal asks us to stop. Looks now and then: a signal may
    /// arrive just before the wait.
    fn await_packet(&self) -> Result<(), NoRequest> {
        loop {
            let mut wanted = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut wanted, LOOK_UP) {
                _ if guard::cancelled() => return Err(NoRequest::Interrupted),
                Ok(0) | Err(Errno::EINTR) => {}
                _ => return Ok(()), // reading tells more
            }
        }
    }

    /// Waits for a request.
    pub(crate) fn receive(&self) -> Result<Message, NoRequest> {
        // The length first: a packet that does not fit is cut by the kernel.
        let length = self.packet(&mut [], MsgFlags::MSG_PEEK)?;
        if length == 0 {
            return Err(NoRequest::Gone);
        }
        if length > MAX_MESSAGE {
            self.packet(&mut [], MsgFlags::empty())?;
            return Err(NoRequest::Bad(Failure::bad_request(format!(
                "a request of {length} bytes is too large (at most {MAX_MESSAGE})"
            ))));
        }
        let mut bytes = vec![0; length];
        let length = self.packet(&mut bytes, MsgFlags::empty())?;
        message::decode(bytes.get(..length).unwrap_or(&bytes)).map_err(NoRequest::Bad)
    }

    /// Reads one packet into `buffer`; its true length.
    fn packet(&self, buffer: &mut [u8], flags: MsgFlags) -> Result<usize, NoRequest> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, flags | MsgFlags::MSG_TRUNC) {
                Ok(length) => return Ok(length),
                Err(Errno::EINTR) if guard::cancelled() => return Err(NoRequest::Interrupted),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    tracing::debug!("rpc: the connection broke: {errno}");
                    return Err(NoRequest::Gone);
                }
            }
        }
    }
}

/// A reply to a request of this kind.
pub(crate) fn reply(kind: CriuReqType, result: &Result<(), Failure>) -> CriuResp {
    let mut reply = CriuResp { r#type: kind.into(), success: result.is_ok(), ..CriuResp::default() };
    if let Err(failure) = result {
        reply.cr_errno = Some(failure.errno);
        reply.cr_errmsg = Some(shortened(&failure.message));
    }
    reply
}

fn shortened(message: &str) -> String {
    match message.char_indices().map(|(at, _)| at).find(|at| *at >= MAX_ERROR) {
        Some(end) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_fit_into_small_buffers() {
        let failure = Failure::new("é".repeat(2000));
        let reply = reply(CriuReqType::Dump, &Err(failure));
        assert!(reply.encoded_len() < 1024);
        assert!(reply.cr_errmsg.is_some_and(|text| text.ends_with('…')));
    }
}
