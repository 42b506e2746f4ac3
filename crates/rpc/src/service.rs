//! The service: listens on a socket, serves each client in a process of its own.

use crate::requests::Session;
use crate::{Backend, Client, Error, ScriptHooks, serve::serve, tell_ready};
use criu_config::{Options, Sources};
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket};
use nix::unistd::{ForkResult, daemon, fork};
use std::convert::Infallible;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// The socket in the work directory, unless --address says otherwise.
const DEFAULT_ADDRESS: &str = "criu_service.socket";

/// Serves clients at `--address` (default: criu_service.socket in the work directory) for ever. With `--daemon`
/// it goes to the background once it listens; then it writes `--pidfile`, runs the action scripts for the stage
/// status-ready and writes a zero byte to `--status-fd`.
///
/// Anybody may connect. A client that is neither root nor the user who started the service is served by a
/// process that has taken on the client's own ids. `sources` are the layers below the requests; the service's
/// own arguments count for them only where they name configuration files.
///
/// Call it while the process has one thread.
///
/// # Errors
/// The service cannot listen, or cannot write its files.
pub fn service(options: &Options, sources: &Sources, backend: &dyn Backend) -> Result<Infallible, Error> {
    let work = options.work_dir();
    let address = work.join(options.address.as_deref().unwrap_or(DEFAULT_ADDRESS));
    let mut scripts = scripts(options)?;
    let listener = listen_at(&address)?;
    tracing::info!("rpc: listening at {}", address.display());
    backend.flush_log();
    if options.background() {
        daemon(true, false).map_err(Error::system("daemon"))?;
    }
    if let Some(file) = &options.pidfile {
        write_pidfile(&work.join(file))?;
    }
    tell_ready(&mut scripts, options.status_fd)?;
    // Nobody asks for the end of those who serve: the kernel reaps them.
    handle_children(SigHandler::SigIgn)?;
    let mut sources = sources.clone();
    sources.arguments.retain(|setting| ["config", "no-default-config"].contains(&setting.option.name));
    loop {
        match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // SAFETY: accept4 made this descriptor just now, for us alone.
            Ok(fd) => serve_apart(unsafe { OwnedFd::from_raw_fd(fd) }, &listener, &sources, backend),
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                tracing::warn!("rpc: a client has to wait: accept: {errno}");
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(errno) => return Err(Error::system("accept")(errno)),
        }
    }
}

fn serve_apart(socket: OwnedFd, listener: &OwnedFd, sources: &Sources, backend: &dyn Backend) {
    backend.flush_log();
    // SAFETY: the process has one thread, so the child may do whatever the parent may.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => {
            tracing::debug!("rpc: pid {child} serves a client");
            backend.flush_log();
        }
        Ok(ForkResult::Child) => {
            let done = be_the_server(socket, listener.as_fd(), sources, backend);
            if let Err(error) = &done {
                tracing::error!("rpc: {error}");
            }
            backend.flush_log();
            std::process::exit(i32::from(!done.unwrap_or(false)));
        }
        Err(errno) => tracing::error!("rpc: a client is turned away: fork: {errno}"),
    }
}

fn be_the_server(
    socket: OwnedFd,
    listener: BorrowedFd<'_>,
    sources: &Sources,
    backend: &dyn Backend,
) -> Result<bool, Error> {
    handle_children(SigHandler::SigDfl)?;
    let client = Client::new(socket).map_err(Error::system("getsockopt(SO_PEERCRED)"))?;
    // The owner's frame is never left: this process ends by exit(3).
    nix::unistd::close(listener.as_raw_fd()).map_err(Error::system("close"))?;
    client.become_peer()?;
    Ok(serve(&Session { client, backend, sources: sources.clone(), inherited: false }))
}

fn listen_at(path: &Path) -> Result<OwnedFd, Error> {
    let bad = |reason: String| Error::Address { path: path.into(), reason };
    let address =
        UnixAddr::new(path).map_err(|_| bad("the path of a socket has at most 107 bytes".into()))?;
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            fs::remove_file(path).map_err(|error| bad(format!("cannot remove an old socket: {error}")))?;
        }
        Ok(_) => return Err(bad("there is a file that is not a socket".into())),
        Err(_) => {}
    }
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .map_err(Error::system("socket"))?;
    bind(listener.as_raw_fd(), &address).map_err(|errno| bad(errno.desc().into()))?;
    fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(|error| bad(error.to_string()))?;
    listen(&listener, Backlog::MAXCONN).map_err(Error::system("listen"))?;
    Ok(listener)
}

fn write_pidfile(path: &Path) -> Result<(), Error> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(std::process::id().to_string().as_bytes())
    };
    write().map_err(|source| Error::File { option: "--pidfile", path: path.into(), source })
}

/// The service's own action scripts, for its only stage, status-ready.
fn scripts(options: &Options) -> Result<ScriptHooks, Error> {
    let images = options.images_dir();
    let failed = |source| Error::File { option: "--images-dir", path: options.images_dir(), source };
    let images = File::open(images).map_err(failed)?;
    ScriptHooks::new(options.action_script.clone(), images.as_fd(), options.work_dir()).map_err(failed)
}

fn handle_children(handler: SigHandler) -> Result<(), Error> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: neither ignoring nor the default action runs code of ours.
    unsafe { sigaction(Signal::SIGCHLD, &action) }.map(drop).map_err(Error::system("sigaction"))
}
