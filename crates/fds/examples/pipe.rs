//! Copies what waits in a pipe, without taking it, into a new pipe of the same size.
//!
//! `cargo run -p criu-fds --example pipe`

use criu_fds::Pipe;
use criu_resource::{Dump, Restore};
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (reader, writer) = nix::unistd::pipe()?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(8192))?;
    File::from(writer).write_all(b"nobody has read this yet")?;

    let contents = Pipe::dump(reader.as_fd())?;
    println!("{} bytes wait in a buffer of {}", contents.packets.concat().len(), contents.size);

    let (again, _) = <Pipe as Restore>::restore(&contents, ())?;
    for (name, end) in [("the original", reader), ("its copy", again)] {
        let mut text = String::new();
        File::from(end).read_to_string(&mut text)?;
        println!("{name}: {text}");
    }
    Ok(())
}
