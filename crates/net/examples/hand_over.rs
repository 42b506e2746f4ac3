//! Hands an established TCP connection to another process, which may start later.
//!
//! ```text
//! # hand_over serve 127.0.0.1:7000 /tmp/connection &
//! # nc 127.0.0.1 7000            → 1, 2, 3, then the server ends, and nc sees nothing of it
//! # hand_over resume /tmp/connection
//!                                → 4, 5, 6, on the same connection
//! ```
//!
//! The directory then holds `tcp-stream-1.img`, in the format of CRIU, and the two addresses as text.

use std::error::Error;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use criu_images::{DirStore, Image, RecordSet, proto::SkOptsEntry, record};
use criu_net::lock::{self, Lock};
use criu_net::tcp::{Connection, State};
use criu_resource::{Dump, NetworkLock};

/// The lock's name: any number that nobody else uses.
const LOCK: i32 = 7000;
const INODE: u32 = 1;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address, directory] => serve(address, Path::new(directory)),
        ["resume", directory] => resume(Path::new(directory)),
        _ => Err("usage: hand_over serve ADDRESS DIRECTORY | hand_over resume DIRECTORY".into()),
    }
}

fn serve(address: &str, directory: &Path) -> Result<()> {
    let (mut socket, peer) = TcpListener::bind(address)?.accept()?;
    count(&mut socket, 1..=3)?;

    // From here on the peer hears nothing, until somebody unlocks.
    let mut lock = Lock::new(NetworkLock::Nftables, LOCK);
    lock.add(socket.local_addr()?, peer);
    lock.apply()?;
    let connection = Connection::dump(socket.as_fd())?;

    std::fs::create_dir_all(directory)?;
    let records: RecordSet = [connection.record(INODE)].into_iter().collect();
    records.write_to(&DirStore::open_writable(directory)?)?;
    let ends = format!("{} {} {}", connection.local, connection.remote, connection.state as u8);
    std::fs::write(directory.join("ends"), ends)?;

    // Without this, the end of the process would be the end of the stream.
    Connection::abandon(socket.as_fd())?;
    lock.keep()?;
    Ok(())
}

fn resume(directory: &Path) -> Result<()> {
    let ends = std::fs::read_to_string(directory.join("ends"))?;
    let [local, remote, state] = ends.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err("the file `ends` is damaged".into());
    };
    let (local, remote): (SocketAddr, SocketAddr) = (local.parse()?, remote.parse()?);
    let state = State::from_number(state.parse()?).ok_or("unknown state")?;
    let store = DirStore::open(directory)?;
    let records = record::read_records(&store, Image::TcpStream, INODE.into())?;
    let record = records.first().ok_or("an empty image")?;
    let connection = Connection::from_record(record, local, remote, state)?;

    // First the socket, then the network: no packet ever finds the port without its connection.
    let rebuilt = connection.build(&SkOptsEntry::default())?;
    lock::remove_stale(LOCK)?;
    let mut socket = TcpStream::from(rebuilt.resume()?);
    socket.set_nonblocking(false)?;
    count(&mut socket, 4..=6)
}

fn count(socket: &mut TcpStream, numbers: std::ops::RangeInclusive<u32>) -> Result<()> {
    for number in numbers {
        writeln!(socket, "{number}")?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
