//! The client's side: a server process, a connection, requests.

use criu_images::prost::Message;
use criu_images::proto::{CriuOpts, CriuReq, CriuReqType as Kind, CriuResp};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg, send,
    socket, socketpair,
};
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A program that takes this role.
pub fn again(role: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "role", "--nocapture", "--test-threads=1"]);
    command.env(crate::ROLE, role).env(crate::DIR, dir).env_remove("CRIU_CONFIG_FILE");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A process that is killed and reaped in the end.
pub struct Process(pub Child);

impl Process {
    /// A target to dump: any process that is not the server.
    pub fn target() -> Process {
        Process(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }

    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Its exit code; it must end by itself.
    pub fn code(&mut self) -> Option<i32> {
        for _ in 0..2000 {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the server hangs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection.
pub struct Connection(OwnedFd);

impl Connection {
    pub fn to(path: &Path) -> Connection {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        Connection(socket)
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }

    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), Errno> {
        send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    pub fn send(&self, request: &CriuReq) {
        self.send_bytes(&request.encode_to_vec()).unwrap();
    }

    /// The next reply; `None` when the server has hung up.
    pub fn receive(&self) -> Option<CriuResp> {
        self.receive_with_fd().map(|(reply, _)| reply)
    }

    pub fn receive_with_fd(&self) -> Option<(CriuResp, Option<File>)> {
        let mut wanted = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut wanted, 20_000_u16), Ok(1), "the server does not answer");
        // As small as the buffers of the reference's own clients.
        let mut buffer = [0; 1024];
        let mut control = nix::cmsg_space!([i32; 1]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let fd = self.0.as_raw_fd();
        let packet = match recvmsg::<()>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_TRUNC) {
            Err(Errno::ECONNRESET) => return None,
            packet => packet.unwrap(),
        };
        let received = packet.cmsgs().unwrap().find_map(|message| match message {
            // SAFETY: the kernel made this descriptor just now, for us alone.
            ControlMessageOwned::ScmRights(fds) => Some(unsafe { File::from_raw_fd(fds[0]) }),
            _ => None,
        });
        let length = packet.bytes;
        assert!(length <= 1024, "a reply of {length} bytes");
        (length > 0).then(|| (CriuResp::decode(&buffer[..length]).unwrap(), received))
    }

    /// Asks and gets the answer.
    pub fn ask(&self, request: &CriuReq) -> CriuResp {
        self.send(request);
        self.receive().expect("an answer")
    }
}

/// A `swrk` with an images directory.
pub struct Swrk {
    pub connection: Connection,
    pub server: Process,
    pub dir: TempDir,
    pub images: File,
}

impl Swrk {
    pub fn start() -> Swrk {
        Swrk::start_with(|_| {})
    }

    /// Starts one after the command was changed.
    pub fn start_with(change: impl FnOnce(&mut Command)) -> Swrk {
        let dir = TempDir::new().unwrap();
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let mut command = again("swrk", dir.path());
        command.stdin(Stdio::from(theirs));
        change(&mut command);
        let server = Process(command.spawn().unwrap());
        drop(command); // it holds the server's end
        let images = File::open(dir.path()).unwrap();
        Swrk { connection: Connection(ours), server, dir, images }
    }

    /// Options that name the images directory and a process.
    pub fn opts(&self, pid: i32) -> CriuOpts {
        CriuOpts { images_dir_fd: self.images.as_raw_fd(), pid: Some(pid), ..CriuOpts::default() }
    }

    /// A file that the server wrote into the directory.
    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Sends the request and gives the answer, which must be the last.
    pub fn ask(&self, request: &CriuReq) -> CriuResp {
        self.connection.ask(request)
    }
}

pub fn request(kind: Kind, opts: impl Into<Option<CriuOpts>>) -> CriuReq {
    CriuReq { r#type: kind.into(), opts: opts.into(), ..CriuReq::default() }
}

pub fn kept_open(request: CriuReq) -> CriuReq {
    CriuReq { keep_open: Some(true), ..request }
}
