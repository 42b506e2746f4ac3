//! What waits in a pipe or fifo, and how much fits: read without taking it, written back.

use crate::sys;
use criu_images::proto::PipeDataEntry;
use criu_images::{Image, Record, RecordSet, Store, record};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, tee};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A pipe whose contents cannot be stored or put back.
#[derive(Debug, thiserror::Error)]
pub enum PipeDataError {
    /// A system call failed.
    #[error("pipe {pipe}: {call}: {source}")]
    Io {
        /// The pipe's inode number.
        pipe: u32,
        /// Which call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Its contents do not fit a pipe that criu-rs may make.
    #[error(
        "pipe {pipe} holds {waiting} bytes in a buffer of {size}, of which only {copied} can be handled without \
         CAP_SYS_RESOURCE; run criu-rs with it, or raise /proc/sys/fs/pipe-max-size"
    )]
    TooLarge {
        /// The pipe's inode number.
        pipe: u32,
        /// Bytes in it.
        waiting: usize,
        /// Size of its buffer in bytes.
        size: usize,
        /// Bytes that were copied.
        copied: usize,
    },
}

fn failed(pipe: u32, call: &'static str) -> impl Fn(io::Error) -> PipeDataError {
    move |source| PipeDataError::Io { pipe, call, source }
}

/// A pipe's buffer: how large it is and what waits in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PipeContents {
    /// Size of the buffer in bytes; 0 for the usual one.
    pub size: usize,
    /// The bytes: one piece, or one for each packet where the pipe holds packets (O_DIRECT). At least one,
    /// maybe empty.
    pub packets: Vec<Vec<u8>>,
}

/// Copies the contents of many pipes through one pipe of criu-rs's own: no further buffers are needed,
/// whose number the kernel limits for each user.
#[derive(Debug, Default)]
pub struct Stash {
    ends: Option<(File, OwnedFd)>,
}

impl Stash {
    /// Copies the contents of the pipe whose reading end is `fd`, and leaves them there. `pipe` names it in
    /// errors.
    ///
    /// # Errors
    /// [`PipeDataError`].
    pub fn copy(&mut self, pipe: u32, fd: BorrowedFd<'_>) -> Result<PipeContents, PipeDataError> {
        let call = |call| move |errno: Errno| failed(pipe, call)(errno.into());
        let size = fcntl(fd, FcntlArg::F_GETPIPE_SZ).map_err(call("fcntl(F_GETPIPE_SZ)"))? as usize;
        let waiting = sys::waiting(fd).map_err(call("ioctl(FIONREAD)"))?;
        if waiting == 0 {
            return Ok(PipeContents { size, packets: vec![Vec::new()] });
        }
        let (reader, writer) = match &self.ends {
            Some(ends) => ends,
            None => {
                let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
                let (reader, writer) = nix::unistd::pipe2(flags).map_err(call("pipe2"))?;
                self.ends.insert((File::from(reader), writer))
            }
        };
        grow(writer.as_fd(), size).map_err(call("fcntl(F_SETPIPE_SZ)"))?;
        let copied = match tee(fd, writer, size, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(copied) => copied,
            Err(Errno::EAGAIN) => 0,
            Err(errno) => return Err(call("tee")(errno)),
        };
        // A read ends at a packet's end, however large the buffer.
        let mut packets = Vec::new();
        let mut left = copied;
        while left > 0 {
            let mut packet = vec![0; left];
            let len = (&*reader).read(&mut packet).map_err(failed(pipe, "read"))?;
            packet.truncate(len);
            left = left.saturating_sub(len.max(1));
            packets.push(packet);
        }
        if copied < waiting {
            return Err(PipeDataError::TooLarge { pipe, waiting, size, copied });
        }
        Ok(PipeContents { size, packets })
    }
}

/// The contents of the pipes of a dump, each stored once.
#[derive(Debug)]
pub(crate) struct Collected {
    image: Image,
    done: HashSet<u32>,
    stash: Stash,
}

impl Collected {
    /// Nothing yet. `image` is where the contents go.
    pub fn new(image: Image) -> Collected {
        Collected { image, done: HashSet::new(), stash: Stash::default() }
    }

    /// Stores the contents of the pipe whose reading end is `fd`, unless that was done before.
    pub fn store(
        &mut self,
        pipe: u32,
        fd: BorrowedFd<'_>,
        records: &mut RecordSet,
    ) -> Result<(), PipeDataError> {
        if !self.done.insert(pipe) {
            return Ok(());
        }
        let contents = self.stash.copy(pipe, fd)?;
        for packet in contents.packets {
            let size = Some(contents.size as u32);
            let entry = PipeDataEntry { pipe_id: pipe, bytes: packet.len() as u32, size };
            records.push(Record::new(self.image, 0, &entry).with_payload(packet));
        }
        Ok(())
    }
}

/// Makes a pipe's buffer at least `size` bytes large, or as large as criu-rs may.
fn grow(fd: BorrowedFd<'_>, size: usize) -> nix::Result<usize> {
    let present = fcntl(fd, FcntlArg::F_GETPIPE_SZ)? as usize;
    if present >= size { Ok(present) } else { resize(fd, size) }
}

/// Sets a pipe's buffer size; without CAP_SYS_RESOURCE up to the system's limit.
fn resize(fd: BorrowedFd<'_>, size: usize) -> nix::Result<usize> {
    match fcntl(fd, FcntlArg::F_SETPIPE_SZ(size as i32)) {
        Ok(size) => Ok(size as usize),
        Err(Errno::EPERM) => {
            let limit = std::fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap_or_default();
            let limit: i32 = limit.trim().parse().unwrap_or(1 << 20);
            match fcntl(fd, FcntlArg::F_SETPIPE_SZ(limit.min(size as i32))) {
                Ok(size) => Ok(size as usize),
                // The user has too many pipe buffers already: this one stays as small as it is.
                Err(Errno::EPERM) => fcntl(fd, FcntlArg::F_GETPIPE_SZ).map(|size| size as usize),
                Err(errno) => Err(errno),
            }
        }
        Err(errno) => Err(errno),
    }
}

impl PipeContents {
    /// Sets size and contents of the new pipe whose writing end is `fd`. `pipe` names it in errors.
    ///
    /// # Errors
    /// [`PipeDataError`]. A buffer that may not be as large as it was is no error while the data fits.
    pub fn fill(&self, pipe: u32, fd: BorrowedFd<'_>) -> Result<(), PipeDataError> {
        let call = |call| move |errno: Errno| failed(pipe, call)(errno.into());
        let present = fcntl(fd, FcntlArg::F_GETPIPE_SZ).map_err(call("fcntl(F_GETPIPE_SZ)"))? as usize;
        let wanted = self.size;
        let size = match wanted {
            0 => present,
            size if size == present => present,
            size => resize(fd, size).map_err(call("fcntl(F_SETPIPE_SZ)"))?,
        };
        if size < wanted {
            tracing::warn!(
                "pipe {pipe}: its buffer of {wanted} bytes becomes one of {size} (no CAP_SYS_RESOURCE)"
            );
        }
        let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(call("fcntl"))?;
        let set = |flags: i32| sys::set_flags(fd, flags as u32).map_err(call("fcntl(F_SETFL)"));
        // Never wait: what does not fit is an error.
        let packet_mode = if self.packets.len() > 1 { libc::O_DIRECT } else { 0 };
        set(flags | libc::O_NONBLOCK | packet_mode)?;
        let mut file = File::from(fd.try_clone_to_owned().map_err(failed(pipe, "dup"))?);
        let waiting = self.packets.iter().map(Vec::len).sum();
        let mut copied = 0;
        for packet in &self.packets {
            let written = file.write_all(packet);
            if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return Err(PipeDataError::TooLarge { pipe, waiting, size: wanted, copied });
            }
            written.map_err(failed(pipe, "write"))?;
            copied += packet.len();
        }
        set(flags)
    }
}

/// The contents of all pipes of a restore.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pipes: HashMap<u32, PipeContents>,
}

impl Stored {
    /// Reads them from an image, which may be missing.
    pub fn load(store: &dyn Store, image: Image) -> Result<Stored, criu_images::Error> {
        let mut stored = Stored::default();
        let records = match record::read_records(store, image, 0) {
            Err(error) if error.is_missing() => Vec::new(),
            other => other?,
        };
        for record in records {
            let entry: PipeDataEntry = record.decode()?;
            let contents = stored.pipes.entry(entry.pipe_id).or_default();
            contents.size = entry.size.unwrap_or_default() as usize;
            contents.packets.push(record.payload);
        }
        Ok(stored)
    }

    /// Fills the new pipe whose writing end is `fd`; only once for each pipe.
    pub fn fill(&mut self, pipe: u32, fd: BorrowedFd<'_>) -> Result<(), PipeDataError> {
        self.pipes.remove(&pipe).map_or(Ok(()), |contents| contents.fill(pipe, fd))
    }
}
