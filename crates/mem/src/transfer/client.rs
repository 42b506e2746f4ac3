//! A dump's end: sends pages instead of storing them.

use super::wire::{Command, Head, number};
use crate::error::Error;
use crate::pages::{self, Job, PAGE};
use crate::read::Reader;
use criu_images::pagemap::PRESENT;
use std::io::{BufWriter, ErrorKind, Read, Write};

/// A stream socket.
pub trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// The largest record of TLS. The peer's portions are a multiple of it.
const RECORD: u64 = 16 << 10;

/// A session with a page server.
pub struct Client {
    stream: BufWriter<Box<dyn Stream>>,
    server: String,
    /// Others may hold the socket too.
    keeps_open: bool,
    /// The size of a record, where that matters.
    record: Option<u64>,
}

impl Client {
    /// Over a connected socket; `server` names the other end for messages. With `keeps_open`, closing the socket
    /// here would not end the connection.
    pub fn new(stream: impl Stream + 'static, server: impl Into<String>, keeps_open: bool) -> Client {
        let stream: Box<dyn Stream> = Box::new(stream);
        Client { stream: BufWriter::new(stream), server: server.into(), keeps_open, record: None }
    }

    /// For a stream that makes a record of every write, as TLS does. The peer (CRIU 4.2) takes whole records, and
    /// pages in portions that no record may overlap.
    pub fn in_records(stream: impl Stream + 'static, server: impl Into<String>, keeps_open: bool) -> Client {
        let stream: Box<dyn Stream> = Box::new(stream);
        let stream = BufWriter::with_capacity(0, stream);
        Client { stream, server: server.into(), keeps_open, record: Some(RECORD) }
    }

    /// Sends the pages of all jobs and waits until the server has stored them.
    ///
    /// # Errors
    /// [`Error::Server`], and those of reading the pages.
    pub fn send_all(&mut self, jobs: &[Job]) -> Result<(), Error> {
        for job in jobs {
            self.send(job)?;
        }
        self.request(&Head::of(Command::Close(self.keeps_open), 0))?;
        match i32::from_le_bytes(self.answer()?) {
            0 => Ok(()),
            status => Err(self.failed(format!("could not store the pages (status {status})"))),
        }
    }

    fn send(&mut self, job: &Job) -> Result<(), Error> {
        let of = number(job.image, job.id);
        self.request(&Head::of(Command::Open(true), of))?;
        // Whether it has a parent: pages are sent anyway, since only their content tells whether they changed.
        let [_] = self.answer()?;
        let reader = Reader::open(&job.source)?;
        let mut runs = job.runs.iter().peekable();
        let mut start = 0;
        pages::copy(&reader, &job.runs, &mut Vec::new(), &mut |pieces, bytes| {
            let mut rest = bytes;
            for piece in pieces {
                if let Some(run) = runs.next_if(|run| run.start == piece.start) {
                    let command = Command::Add(PRESENT);
                    self.request(&Head { command, pages: run.len() / PAGE, address: run.start, of })?;
                    start = run.start;
                }
                let (part, others) = rest.split_at(piece.len() as usize);
                self.write_pages(part, piece.start - start)?;
                rest = others;
            }
            Ok(())
        })
    }

    fn request(&mut self, head: &Head) -> Result<(), Error> {
        self.write(&head.encode())
    }

    /// Writes bytes that stand at `offset` of a range.
    fn write_pages(&mut self, mut bytes: &[u8], mut offset: u64) -> Result<(), Error> {
        while let Some(record) = self.record.filter(|_| !bytes.is_empty()) {
            let room = record - offset % record;
            let (part, rest) = bytes.split_at(bytes.len().min(room as usize));
            self.write(part)?;
            (bytes, offset) = (rest, offset + part.len() as u64);
        }
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.stream.write_all(bytes);
        written.map_err(|error| self.broken(&error))
    }

    fn answer<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        let came = self.stream.flush().and_then(|()| self.stream.get_mut().read_exact(&mut bytes));
        came.map_err(|error| self.broken(&error))?;
        Ok(bytes)
    }

    fn broken(&self, error: &std::io::Error) -> Error {
        self.failed(match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                "ended the connection; its own log says why".to_owned()
            }
            _ => error.to_string(),
        })
    }

    fn failed(&self, reason: String) -> Error {
        Error::Server { server: self.server.clone(), reason }
    }
}
