//! Reading a long file of procfs on another thread, while this one takes it apart.

use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Bytes of one read.
const CHUNK: usize = 64 << 10;
/// How many chunks wait at most.
const WAITING: usize = 16;

/// A file whose first bytes are there already, and whose rest, if there is any, comes from a thread of its own.
pub(crate) struct ReadAhead {
    chunk: io::Cursor<Vec<u8>>,
    more: Option<Receiver<io::Result<Vec<u8>>>>,
}

impl ReadAhead {
    /// Starts to read.
    ///
    /// # Errors
    /// Those of reading, and of starting a thread for a file longer than one chunk.
    pub(crate) fn new(mut file: File) -> io::Result<ReadAhead> {
        let first = chunk(&mut file)?;
        let is_all = first.len() < CHUNK;
        let mut this = ReadAhead { chunk: io::Cursor::new(first), more: None };
        if !is_all {
            let (give, more) = sync_channel(WAITING);
            thread::Builder::new().name("procfs".into()).spawn(move || {
                loop {
                    let chunk = chunk(&mut file);
                    let last = !matches!(&chunk, Ok(bytes) if bytes.len() == CHUNK);
                    if give.send(chunk).is_err() || last {
                        return; // nobody listens any more, or all is read
                    }
                }
            })?;
            this.more = Some(more);
        }
        Ok(this)
    }
}

/// As many bytes as fit into a chunk; fewer only at the end.
fn chunk(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(CHUNK);
    file.take(CHUNK as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.chunk.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            match self.more.as_ref().and_then(|more| more.recv().ok()) {
                Some(chunk) => self.chunk = io::Cursor::new(chunk?),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn all_of_it_in_order() {
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let bytes: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            file.rewind().unwrap();
            let mut read = Vec::new();
            ReadAhead::new(file).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == bytes, "{len} bytes");
        }
    }
}
