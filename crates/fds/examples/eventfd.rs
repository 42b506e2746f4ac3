//! Dumps an eventfd of one's own and makes an equal one: no tracer, no root, no image directory.
//!
//! `cargo run -p criu-fds --example eventfd`

use criu_fds::{Eventfd, Observed};
use criu_images::prost::Message;
use criu_images::proto::EventfdFileEntry;
use criu_resource::{Dump, Restore};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let event = EventFd::from_value_and_flags(42, EfdFlags::EFD_NONBLOCK)?;

    // What can be seen of the descriptor from outside, then the entry made of it.
    let observed = Observed::own(event.as_fd())?;
    let entry = Eventfd::dump(&observed.view(event.as_fd(), 1))?;
    let bytes = entry.encode_to_vec();
    println!("an eventfd in {} bytes: counter {}, flags {:#o}", bytes.len(), entry.counter, entry.flags);

    // Anywhere else, any time later:
    let entry = EventfdFileEntry::decode(bytes.as_slice())?;
    let mut again = File::from(Eventfd::restore(&entry, ())?);
    let mut counter = [0; 8];
    again.read_exact(&mut counter)?;
    println!("its copy counts {}", u64::from_ne_bytes(counter));
    Ok(())
}
