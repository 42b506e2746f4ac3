//! `criu-rs page-server`, and the way of a dump to such a server.

use crate::workplace::Workplace;
use crate::{log, report, tls};
use anyhow::{Context, Result};
use criu_config::Options;
use criu_images::DirStore;
use criu_mem::transfer;
use criu_rpc::PageServer;
use nix::sys::socket::{setsockopt, sockopt::KeepAlive};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};

/// Connects to the page server that the options name, if they name one.
pub fn connect(options: &Options) -> Result<Option<transfer::Client>> {
    if !options.page_server {
        return Ok(None);
    }
    if let Some(fd) = options.ps_socket {
        let name = format!("the other end of --ps-socket {fd}");
        return client(options, given_socket(fd)?, "page-server", name, true).map(Some);
    }
    let port = options.port.context("--page-server needs --port")?;
    let address = options.address.as_deref().unwrap_or("127.0.0.1");
    let stream = TcpStream::connect((address, port)).with_context(|| {
        format!("page server {address}:{port} (start it there first: criu-rs page-server --port {port})")
    })?;
    stream.set_nodelay(true).context("TCP_NODELAY")?;
    client(options, stream, address, format!("{address}:{port}"), false).map(Some)
}

/// Encrypts where that is asked for; `host` is what the certificate must say.
fn client(
    options: &Options,
    stream: impl Read + Write + Send + 'static,
    host: &str,
    name: String,
    stays: bool,
) -> Result<transfer::Client> {
    if !options.tls {
        return Ok(transfer::Client::new(stream, name, stays));
    }
    let stream = tls::client(options, stream, host, stays).with_context(|| format!("page server {name}"))?;
    Ok(transfer::Client::in_records(stream, name, stays))
}

/// The socket of `--ps-socket`, whatever its kind.
fn given_socket(fd: i32) -> Result<File> {
    nix::sys::stat::fstat(borrowed(fd)).with_context(|| format!("--ps-socket {fd}"))?;
    // SAFETY: whoever started us gave this descriptor for this one use.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn borrowed(fd: i32) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: only asked whether it is open, which fstat answers for any number.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

/// Who the pages come from.
enum Source {
    Listener(TcpListener),
    Socket(File),
}

impl Source {
    fn of(options: &Options) -> Result<Source> {
        if let Some(fd) = options.ps_socket {
            return Ok(Source::Socket(given_socket(fd)?));
        }
        let any = Ipv4Addr::UNSPECIFIED.to_string();
        let (address, port) = (options.address.as_deref().unwrap_or(&any), options.port.unwrap_or(0));
        let listener = TcpListener::bind((address, port));
        Ok(Source::Listener(listener.with_context(|| format!("page-server: listen at {address}:{port}"))?))
    }

    /// The port; 0 for a socket that was given.
    fn port(&self) -> Result<u16> {
        match self {
            Source::Listener(listener) => Ok(listener.local_addr()?.port()),
            Source::Socket(_) => Ok(0),
        }
    }

    /// Serves one client.
    fn serve(self, options: &Options, place: &Workplace) -> Result<()> {
        let store = place.new_images()?;
        let pages = match self {
            Source::Socket(socket) => receive(options, socket, &store, true),
            Source::Listener(listener) => {
                let (stream, peer) = listener.accept().context("accept")?;
                drop(listener);
                tracing::info!("page-server: {peer} is connected");
                stream.set_nodelay(true).context("TCP_NODELAY")?;
                // A machine that is gone without a word is noticed some day.
                setsockopt(&stream, KeepAlive, &true).context("SO_KEEPALIVE")?;
                receive(options, stream, &store, false)
            }
        };
        let pages = pages.context("page-server")?;
        crate::actions::dedup_after(options, &store);
        tracing::info!("page-server: {pages} pages stored");
        Ok(())
    }
}

/// Stores what comes, encrypted where that is asked for; how many pages.
fn receive(
    options: &Options,
    mut stream: impl Read + Write + Send,
    store: &DirStore,
    stays: bool,
) -> Result<u64> {
    if !options.tls {
        return Ok(transfer::serve(&mut stream, store)?);
    }
    Ok(transfer::serve(&mut tls::server(options, stream, stays)?, store)?)
}

/// Stores the pages of one dump; the exit code.
pub fn run(options: &Options, place: &Workplace) -> Result<u8> {
    let source = Source::of(options)?;
    tracing::info!("page-server: listening at port {}", source.port()?);
    if options.background() {
        let pid = start(source, options, place, || {})?;
        place.write_pidfile(options, pid)?;
        return Ok(0);
    }
    place.write_pidfile(options, std::process::id() as i32)?;
    tell_ready(options, place)?;
    source.serve(options, place)?;
    Ok(0)
}

/// Starts a server in the background for an RPC client; `in_child` runs in its process first.
pub fn start_for_client(options: &Options, place: &Workplace, in_child: impl FnOnce()) -> Result<PageServer> {
    let source = Source::of(options)?;
    let port = source.port()?;
    let pid = start(source, options, place, in_child)?;
    place.write_pidfile(options, pid)?;
    Ok(PageServer { pid, port })
}

/// Serves in a child process; its pid.
fn start(source: Source, options: &Options, place: &Workplace, in_child: impl FnOnce()) -> Result<i32> {
    log::flush();
    // SAFETY: the process has one thread, so the child may do whatever the parent may.
    match unsafe { fork() }.context("fork")? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => {
            in_child();
            let served = leave_caller()
                .and_then(|()| tell_ready(options, place))
                .and_then(|()| source.serve(options, place));
            if let Err(error) = &served {
                report(error, options);
            }
            log::flush();
            std::process::exit(i32::from(served.is_err()))
        }
    }
}

/// A session of its own, and none of the caller's terminal or pipes.
fn leave_caller() -> Result<()> {
    setsid().context("setsid")?;
    let null: OwnedFd = File::options().read(true).write(true).open("/dev/null").context("/dev/null")?.into();
    dup2_stdin(&null).and_then(|()| dup2_stdout(&null)).and_then(|()| dup2_stderr(&null)).context("dup2")
}

/// To action scripts and `--status-fd`: clients can connect.
fn tell_ready(options: &Options, place: &Workplace) -> Result<()> {
    Ok(criu_rpc::tell_ready(&mut place.hooks(options)?, options.status_fd)?)
}
