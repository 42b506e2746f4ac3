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

/// Copies the contents of many pipes through one pipe of criu-rs's own: no further buffers are needed,
/// whose number the kernel limits for each user.
#[derive(Debug)]
pub struct Stash {
    image: Image,
    done: HashSet<u32>,
    ends: Option<(File, OwnedFd)>,
}

impl Stash {
    /// Nothing copied yet. `image` is where the contents go.
    pub fn new(image: Image) -> Stash {
        Stash { image, done: HashSet::new(), ends: None }
    }

    /// Stores the contents of the pipe whose reading end is `fd`, unless that was done before.
    ///
    /// # Errors
    /// [`PipeDataError`].
    pub fn store(
        &mut self,
        pipe: u32,
        fd: BorrowedFd<'_>,
        records: &mut RecordSet,
    ) -> Result<(), PipeDataError> {
        if !self.done.insert(pipe) {
            return Ok(());
        }
        let size = fcntl(fd, FcntlArg::F_GETPIPE_SZ)
            .map_err(|errno| failed(pipe, "fcntl(F_GETPIPE_SZ)")(errno.into()))? as usize;
        for packet in self.packets(pipe, fd, size)? {
            let entry = PipeDataEntry { pipe_id: pipe, bytes: packet.len() as u32, size: Some(size as u32) };
            records.push(Record::new(self.image, 0, &entry).with_payload(packet));
        }
        Ok(())
    }

    /// The contents: one piece, or several where the pipe holds packets. At least one, maybe empty.
    fn packets(&mut self, pipe: u32, fd: BorrowedFd<'_>, size: usize) -> Result<Vec<Vec<u8>>, PipeDataError> {
        let waiting = sys::waiting(fd).map_err(|errno| failed(pipe, "ioctl(FIONREAD)")(errno.into()))?;
        if waiting == 0 {
            return Ok(vec![Vec::new()]);
        }
        let (reader, writer) = match &self.ends {
            Some(ends) => ends,
            None => {
                let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
                    .map_err(|errno| failed(pipe, "pipe2")(errno.into()))?;
                self.ends.insert((File::from(reader), writer))
            }
        };
        grow(writer.as_fd(), size).map_err(|e| failed(pipe, "fcntl(F_SETPIPE_SZ)")(e.into()))?;
        let copied = match tee(fd, writer, size, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(copied) => copied,
            Err(Errno::EAGAIN) => 0,
            Err(errno) => return Err(failed(pipe, "tee")(errno.into())),
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
        Ok(packets)
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

/// The contents of all pipes of a restore.
#[derive(Debug, Default)]
pub struct Contents {
    pipes: HashMap<u32, Vec<(PipeDataEntry, Vec<u8>)>>,
}

impl Contents {
    /// Reads them from an image, which may be missing.
    ///
    /// # Errors
    /// Those of reading images.
    pub fn load(store: &dyn Store, image: Image) -> Result<Contents, criu_images::Error> {
        let mut contents = Contents::default();
        let records = match record::read_records(store, image, 0) {
            Err(error) if error.is_missing() => Vec::new(),
            other => other?,
        };
        for record in records {
            let entry: PipeDataEntry = record.decode()?;
            contents.pipes.entry(entry.pipe_id).or_default().push((entry, record.payload));
        }
        Ok(contents)
    }

    /// Sets size and contents of the new pipe whose writing end is `fd`; only once for each pipe.
    ///
    /// # Errors
    /// [`PipeDataError`].
    pub fn fill(&mut self, pipe: u32, fd: BorrowedFd<'_>) -> Result<(), PipeDataError> {
        let Some(packets) = self.pipes.remove(&pipe) else { return Ok(()) };
        let wanted = packets[0].0.size.unwrap_or_default() as usize;
        let present = fcntl(fd, FcntlArg::F_GETPIPE_SZ)
            .map_err(|errno| failed(pipe, "fcntl(F_GETPIPE_SZ)")(errno.into()))?
            as usize;
        let size = if wanted == 0 || wanted == present {
            present
        } else {
            resize(fd, wanted).map_err(|errno| failed(pipe, "fcntl(F_SETPIPE_SZ)")(errno.into()))?
        };
        if size < wanted {
            tracing::warn!(
                "pipe {pipe}: its buffer of {wanted} bytes becomes one of {size} (no CAP_SYS_RESOURCE)"
            );
        }
        let mut file = File::from(fd.try_clone_to_owned().map_err(failed(pipe, "dup"))?);
        let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(|errno| failed(pipe, "fcntl")(errno.into()))?;
        // Never wait: what does not fit is an error.
        let packet_mode = if packets.len() > 1 { libc::O_DIRECT } else { 0 };
        let set = |flags: i32| {
            sys::set_flags(fd, flags as u32).map_err(|errno| failed(pipe, "fcntl(F_SETFL)")(errno.into()))
        };
        set(flags | libc::O_NONBLOCK | packet_mode)?;
        let waiting = packets.iter().map(|(_, data)| data.len()).sum();
        let mut copied = 0;
        for (_, data) in &packets {
            let written = file.write_all(data);
            if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return Err(PipeDataError::TooLarge { pipe, waiting, size: wanted, copied });
            }
            written.map_err(failed(pipe, "write"))?;
            copied += data.len();
        }
        set(flags)
    }
}
