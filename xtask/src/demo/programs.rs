//! The server and the client of the story.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::sleep;
use std::time::Duration;

/// Waits for a client and counts what it sends; the file then tells its port.
pub fn server(file: &str) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    fs::write(format!("{file}.new"), port.to_string())?;
    fs::rename(format!("{file}.new"), file)?;
    println!("server: listening on port {port}");
    let (mut client, _) = listener.accept()?;
    let mut word = [0; 8];
    while client.read_exact(&mut word).is_ok() {
        println!("server: {}", u64::from_be_bytes(word));
        client.write_all(&word)?;
    }
    Ok(())
}

/// Counts, and lets the server say every number after it.
pub fn client(port: &str) -> Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port.parse::<u16>()?))?;
    for number in 1u64.. {
        server.write_all(&number.to_be_bytes())?;
        let mut word = [0; 8];
        server.read_exact(&mut word).context("the server is gone")?;
        ensure!(u64::from_be_bytes(word) == number, "the server says another number");
        println!("client: {number}");
        sleep(Duration::from_millis(100));
    }
    Ok(())
}
