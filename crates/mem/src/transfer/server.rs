//! The end that stores pages.

use super::client::Stream;
use super::wire::{Command, Head, LEN, name};
use crate::pages::{PAGE, write_sparsely};
use criu_images::pagemap::{self, LAZY, PARENT, PRESENT, Pagemap};
use criu_images::{Image, ImageWriter, Lineage, Pages, Store};
use std::fs::File;
use std::io::{self, ErrorKind, Write};

/// Pages images of a server have ids from here on, out of the way of those that the dump itself writes.
const FIRST_PAGES_ID: u32 = 0x10000;
/// Bytes taken from the socket at once.
const BUFFER: usize = 256 << 10;

/// Why a session failed; nothing of it is kept then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client left.
    #[error("the client hung up before all pages were here; nothing of them is kept")]
    HungUp,
    /// What came is no such protocol, or not one of this version.
    #[error("{0}; nothing is kept (the client must be CRIU 4.2, or of the same protocol)")]
    Protocol(String),
    /// The socket failed.
    #[error("connection: {0}")]
    Socket(io::Error),
    /// Images could not be read or written.
    #[error(transparent)]
    Images(#[from] criu_images::Error),
}

/// Stores the pages of one session in `store`; returns how many.
///
/// # Errors
/// See [`Error`].
pub fn serve(stream: &mut dyn Stream, store: &dyn Store) -> Result<u64, Error> {
    let mut session = Session { store, created: Vec::new(), open: None, next: FIRST_PAGES_ID, pages: 0 };
    loop {
        let head = match receive(stream)? {
            Ok(head) => head,
            Err(command) => return Err(Error::Protocol(format!("command {command:#x} is unknown"))),
        };
        match head.command {
            Command::Open(answer) => {
                let has_parent = session.open(&head)?;
                if answer {
                    send(stream, &[u8::from(has_parent)])?;
                }
            }
            Command::HasParent => {
                let (image, id) = pagemap_of(&head)?;
                let has_parent = parent_of(store, image, id)?.is_some();
                send(stream, &i32::from(has_parent).to_le_bytes())?;
            }
            Command::Add(flags) => session.add(&head, flags, stream)?,
            Command::Get => {
                return Err(Error::Protocol("pages are asked for (lazy-pages), not sent".into()));
            }
            Command::Close(stays) => {
                session.finish_open()?;
                let pages = session.pages;
                session.created.clear();
                send(stream, &0_i32.to_le_bytes())?;
                if !stays {
                    // Who closes first keeps the port busy; that should be the client.
                    let _ = stream.read(&mut [0]);
                }
                return Ok(pages);
            }
        }
    }
}

fn receive(stream: &mut dyn Stream) -> Result<Result<Head, u32>, Error> {
    let mut bytes = [0; LEN];
    stream.read_exact(&mut bytes).map_err(socket)?;
    Ok(Head::decode(&bytes))
}

fn send(stream: &mut dyn Stream, answer: &[u8]) -> Result<(), Error> {
    stream.write_all(answer).and_then(|()| stream.flush()).map_err(socket)
}

fn socket(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Error::HungUp,
        _ => Error::Socket(error),
    }
}

fn pagemap_of(head: &Head) -> Result<(Image, u64), Error> {
    name(head.of).ok_or_else(|| Error::Protocol(format!("pagemap {:#x} is of an unknown kind", head.of)))
}

/// What the parent checkpoint has of a pagemap, if it has it at all.
fn parent_of(store: &dyn Store, image: Image, id: u64) -> Result<Option<Pages>, Error> {
    let lineage = Lineage::open(store)?;
    if !lineage.is_incremental() {
        return Ok(None);
    }
    match lineage.pages_from(1, image, id) {
        Err(error) if error.is_missing() => Ok(None),
        pages => Ok(Some(pages?)),
    }
}

/// A session; dropped before it is complete, it removes what it wrote.
struct Session<'a> {
    store: &'a dyn Store,
    created: Vec<String>,
    open: Option<Open>,
    next: u32,
    pages: u64,
}

/// The pagemap that is being filled.
struct Open {
    image: Image,
    id: u64,
    of: u64,
    map: Pagemap,
    name: String,
    writer: Box<dyn ImageWriter>,
    written: u64,
    end: u64,
    parent: Option<Pages>,
}

impl Session<'_> {
    /// Begins a pagemap; whether the parent checkpoint has it.
    fn open(&mut self, head: &Head) -> Result<bool, Error> {
        self.finish_open()?;
        let (image, id) = pagemap_of(head)?;
        let pagemap = image.file_name(id);
        if self.created.contains(&pagemap) {
            return Err(Error::Protocol(format!("{pagemap} is opened twice")));
        }
        let pages_id = self.next;
        self.next += 1;
        let name = Image::Pages.file_name(pages_id.into());
        let parent = parent_of(self.store, image, id)?;
        self.created.extend([pagemap, name.clone()]);
        let writer = self.store.create(&name)?;
        let map = Pagemap { pages_id, entries: Vec::new() };
        let has_parent = parent.is_some();
        self.open = Some(Open { image, id, of: head.of, map, name, writer, written: 0, end: 0, parent });
        Ok(has_parent)
    }

    fn add(&mut self, head: &Head, flags: u32, stream: &mut dyn Stream) -> Result<(), Error> {
        let open = self.open.as_mut().filter(|open| open.of == head.of);
        let open = open.ok_or_else(|| Error::Protocol("pages come before their pagemap".into()))?;
        let end = head.pages.checked_mul(PAGE).and_then(|len| head.address.checked_add(len));
        let end = end.filter(|_| head.address.is_multiple_of(PAGE) && head.address >= open.end);
        let Some(end) = end else {
            let reason = format!("{} pages at {:#x} are not in order", head.pages, head.address);
            return Err(Error::Protocol(reason));
        };
        match flags & !LAZY {
            PRESENT => open.take(end - head.address, stream)?,
            PARENT => open.check_parent(head.address, end)?,
            _ => return Err(Error::Protocol(format!("pages with flags {flags} are not in the stream"))),
        }
        open.end = end;
        open.map.entries.push(pagemap::entry(head.address, head.pages, flags));
        if flags & PRESENT != 0 {
            self.pages += head.pages;
        }
        Ok(())
    }

    fn finish_open(&mut self) -> Result<(), Error> {
        let Some(open) = self.open.take() else { return Ok(()) };
        if let Some(fd) = open.writer.as_fd() {
            let file = File::from(fd.try_clone_to_owned().map_err(open.failed())?);
            file.set_len(open.written).map_err(open.failed())?;
        }
        open.writer.finish()?;
        Ok(open.map.write(self.store, open.image, open.id)?)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        for name in &self.created {
            let _ = self.store.remove(name); // the session's own error is the one to report
        }
    }
}

impl Open {
    fn failed(&self) -> impl Fn(io::Error) -> Error + use<> {
        let name = self.name.clone();
        move |source| criu_images::Error::io(name.clone(), "write", source).into()
    }

    /// Takes pages from the socket.
    fn take(&mut self, len: u64, stream: &mut dyn Stream) -> Result<(), Error> {
        let failed = self.failed();
        let file = self.writer.as_fd().map(|fd| fd.try_clone_to_owned()).transpose();
        let file = file.map_err(&failed)?.map(File::from);
        let mut buffer = vec![0; BUFFER.min(usize::try_from(len).unwrap_or(BUFFER))];
        let mut left = len;
        while left > 0 {
            let part = &mut buffer[..left.min(BUFFER as u64) as usize];
            stream.read_exact(part).map_err(socket)?;
            match &file {
                Some(file) => write_sparsely(file, part, self.written).map_err(&failed)?,
                None => self.writer.write_all(part).map_err(&failed)?,
            }
            self.written += part.len() as u64;
            left -= part.len() as u64;
        }
        Ok(())
    }

    /// Pages that the client leaves to the parent must be there.
    fn check_parent(&self, start: u64, end: u64) -> Result<(), Error> {
        let mut at = start;
        let extents = self.parent.iter().flat_map(|parent| &parent.extents);
        for extent in extents.filter(|extent| extent.offset.is_some() && extent.range.end > start) {
            if extent.range.start > at || at >= end {
                break;
            }
            at = extent.range.end;
        }
        match at >= end {
            true => Ok(()),
            false => {
                Err(Error::Protocol(format!("the page at {at:#x} is left to a parent checkpoint without it")))
            }
        }
    }
}

#[cfg(test)]
mod tests;
