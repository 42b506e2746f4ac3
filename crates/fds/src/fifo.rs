//! Pipes with a name: mkfifo(3).
//!
//! In the images a fifo is two entries: itself, and a regular file that holds name, flags and owner.

use crate::alone::{file_entry, missing};
use crate::pipe_data::{Collected, Stored};
use crate::{Files, sys};
use criu_images::{Image, RecordSet, proto};
use criu_resource::{
    BoxError, Descriptor, DumpContext, Fate, FileDump, FileKind, FileRestore, RestoreContext, Slot,
};
use criu_script::Script;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Fifos.
#[derive(Debug)]
pub struct Fifo {
    files: Arc<Files>,
}

impl Fifo {
    /// The kind, over the files that it shares with others.
    pub fn new(files: &Arc<Files>) -> Fifo {
        Fifo { files: files.clone() }
    }
}

impl FileKind for Fifo {
    fn name(&self) -> &'static str {
        "fifo"
    }

    fn types(&self) -> &'static [proto::FdTypes] {
        &[proto::FdTypes::Fifo]
    }

    fn claims(&self, d: &Descriptor<'_>) -> bool {
        d.mode & libc::S_IFMT == libc::S_IFIFO && d.link.is_absolute() && d.flags & libc::O_PATH as u32 == 0
    }

    fn dump<'t>(&'t self, _: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(FifoDump { files: &self.files, contents: Collected::new(Image::FifoData) })
    }

    fn restore<'t>(&'t self, context: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        let contents = Stored::load(context.store, Image::FifoData)?;
        Ok(Box::new(FifoRestore { files: &self.files, context, contents, both_ends: Vec::new() }))
    }
}

struct FifoDump<'t> {
    files: &'t Files,
    contents: Collected,
}

impl FileDump for FifoDump<'_> {
    fn lock(&mut self, _: &Descriptor<'_>) -> Result<(), BoxError> {
        Ok(())
    }

    fn entry(&mut self, d: &Descriptor<'_>, records: &mut RecordSet) -> Result<proto::FileEntry, BoxError> {
        let name = Descriptor { id: self.files.next_id(), fown: d.fown, ..*d };
        self.files.add(self.files.regular_entry(&name)?);
        let pipe_id = d.ino as u32;
        let mut file = file_entry(proto::FdTypes::Fifo, d.id);
        file.fifo = Some(proto::FifoEntry { id: d.id, pipe_id, regf_id: Some(name.id) });
        if d.flags & libc::O_ACCMODE as u32 != libc::O_WRONLY as u32 {
            self.contents.store(pipe_id, d.fd, records)?;
        }
        Ok(file)
    }

    fn finish(&mut self, _: &dyn Fn(i32, i32) -> Option<u32>, _: &mut RecordSet) -> Result<(), BoxError> {
        Ok(())
    }

    fn commit(self: Box<Self>, _: Fate) -> Result<(), BoxError> {
        Ok(())
    }
}

struct FifoRestore<'t> {
    files: &'t Files,
    context: &'t RestoreContext<'t>,
    contents: Stored,
    /// Until all are open: so that opening one end does not wait for the other, and data has a place.
    both_ends: Vec<OwnedFd>,
}

impl FileRestore for FifoRestore<'_> {
    fn plan(&mut self, entry: &proto::FileEntry) -> Result<(), BoxError> {
        entry.fifo.as_ref().map(drop).ok_or_else(|| missing(entry))
    }

    fn open(&mut self, entry: &proto::FileEntry) -> Result<OwnedFd, BoxError> {
        let fifo = entry.fifo.as_ref().ok_or_else(|| missing(entry))?;
        // Very old images use the same id for both.
        let id = fifo.regf_id.unwrap_or(fifo.id);
        let both = self.files.open(self.context.store, id, Some(libc::O_RDWR as u32))?;
        // Whoever outside of the tree has it open keeps its contents.
        if sys::waiting(both.as_fd())? == 0 {
            self.contents.fill(fifo.pipe_id, both.as_fd())?;
        }
        let fd = self.files.open(self.context.store, id, None)?;
        let signal = self.files.regular(id).map_or(0, |name| name.fown.signum);
        if signal != 0 {
            sys::set_owner_signal(fd.as_fd(), signal as i32)?;
        }
        self.both_ends.push(both);
        Ok(fd)
    }

    fn connect(&mut self, _: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), BoxError> {
        self.both_ends.clear();
        Ok(())
    }

    fn steps(&mut self, _: &proto::FileEntry, _: Slot, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Stopped, keep, round_trip};
    use criu_resource::Options;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::sys::stat::{Mode, fstat};
    use std::fs::{self, OpenOptions};

    #[test]
    fn contents_and_both_ends_of_one_that_was_deleted_too() {
        let directory = tempfile::tempdir().unwrap();
        let (stays, goes) = (directory.path().join("stays"), directory.path().join("goes"));
        let task = Stopped::after(|| {
            for (path, number) in [(&stays, 10), (&goes, 20)] {
                nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o600)).unwrap();
                let both = OpenOptions::new().read(true).write(true).open(path).unwrap();
                let reader = OpenOptions::new().read(true).open(path).unwrap();
                let writer = OpenOptions::new().write(true).open(path).unwrap();
                fcntl(&writer, FcntlArg::F_SETPIPE_SZ(8192)).unwrap();
                nix::unistd::write(&writer, b"waiting").unwrap();
                drop(both);
                keep(reader, number);
                keep(writer, number + 1);
            }
            fs::remove_file(&goes).unwrap();
        });
        let again = round_trip(task, &Options::default());
        for number in [10, 20] {
            assert_eq!(fcntl(again.fd(number), FcntlArg::F_GETPIPE_SZ).unwrap(), 8192);
            let mut text = [0; 20];
            assert_eq!(nix::unistd::read(again.fd(number), &mut text).unwrap(), 7);
            assert_eq!(&text[..7], b"waiting");
            nix::unistd::write(again.fd(number + 1), b"more").unwrap();
            assert_eq!(nix::unistd::read(again.fd(number), &mut text).unwrap(), 4);
        }
        assert_eq!(again.link(10), stays.to_str().unwrap());
        assert_eq!(fstat(again.fd(20)).unwrap().st_nlink, 0);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
