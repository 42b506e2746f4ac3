//! Pipes: both ends, what waits in them, how large they are, packet mode.

use crate::alone::{file_entry, missing};
use crate::files::inherited;
use crate::pipe_data::{Collected, PipeContents, PipeDataError, Stash, Stored};
use crate::{fown, sys};
use criu_images::{Image, RecordSet, proto};
use criu_resource::{
    BoxError, Descriptor, Dump, DumpContext, Fate, FileDump, FileKind, FileRestore, Restore, RestoreContext,
    Slot,
};
use criu_script::Script;
use nix::fcntl::OFlag;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Anonymous pipes (pipe(2)).
#[derive(Debug)]
pub struct Pipe;

/// Set where a description was opened through procfs, not made by pipe2(2).
const REOPENED: u32 = 0o100_000;

/// One pipe alone: its source is the reading end.
impl Dump for Pipe {
    type Source<'a> = BorrowedFd<'a>;
    type Entry = PipeContents;
    type Error = PipeDataError;

    fn dump(source: BorrowedFd<'_>) -> Result<PipeContents, PipeDataError> {
        Stash::default().copy(0, source)
    }
}

/// One pipe alone: reading end, writing end.
impl Restore for Pipe {
    type Entry = PipeContents;
    type Context<'a> = ();
    type Object = (OwnedFd, OwnedFd);
    type Error = PipeDataError;

    fn restore(entry: &PipeContents, (): ()) -> Result<(OwnedFd, OwnedFd), PipeDataError> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| PipeDataError::Io {
            pipe: 0,
            call: "pipe2",
            source: errno.into(),
        })?;
        entry.fill(0, writer.as_fd())?;
        Ok((reader, writer))
    }
}

impl FileKind for Pipe {
    fn name(&self) -> &'static str {
        "pipe"
    }

    fn types(&self) -> &'static [proto::FdTypes] {
        &[proto::FdTypes::Pipe]
    }

    fn claims(&self, d: &Descriptor<'_>) -> bool {
        d.mode & libc::S_IFMT == libc::S_IFIFO
            && d.link.as_os_str().as_bytes().starts_with(b"pipe:")
            && d.flags & libc::O_PATH as u32 == 0
    }

    fn dump<'t>(&'t self, _: &'t DumpContext<'t>) -> Box<dyn FileDump + 't> {
        Box::new(PipeDump { contents: Collected::new(Image::PipesData) })
    }

    fn restore<'t>(&'t self, context: &'t RestoreContext<'t>) -> Result<Box<dyn FileRestore + 't>, BoxError> {
        let contents = Stored::load(context.store, Image::PipesData)?;
        Ok(Box::new(PipeRestore { context, contents, ends: HashMap::new() }))
    }
}

struct PipeDump {
    contents: Collected,
}

/// The entry of a description. Its inode number is the pipe's name in the images.
fn entry(d: &Descriptor<'_>) -> proto::PipeEntry {
    proto::PipeEntry { id: d.id, pipe_id: d.ino as u32, flags: d.flags, fown: d.fown }
}

impl FileDump for PipeDump {
    fn lock(&mut self, _: &Descriptor<'_>) -> Result<(), BoxError> {
        Ok(())
    }

    fn entry(&mut self, d: &Descriptor<'_>, records: &mut RecordSet) -> Result<proto::FileEntry, BoxError> {
        let mut file = file_entry(proto::FdTypes::Pipe, d.id);
        file.pipe = Some(entry(d));
        if d.flags & libc::O_ACCMODE as u32 != libc::O_WRONLY as u32 {
            self.contents.store(d.ino as u32, d.fd, records)?;
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

/// The two ends of one pipe, and whether each original description is still to be given away.
struct Ends {
    ends: [OwnedFd; 2],
    fresh: [bool; 2],
    /// How many more descriptions are to come.
    left: usize,
}

struct PipeRestore<'t> {
    context: &'t RestoreContext<'t>,
    contents: Stored,
    /// By the pipe's name: before the first opening only counted.
    ends: HashMap<u32, (usize, Option<Ends>)>,
}

impl FileRestore for PipeRestore<'_> {
    fn plan(&mut self, entry: &proto::FileEntry) -> Result<(), BoxError> {
        let pipe = entry.pipe.as_ref().ok_or_else(|| missing(entry))?;
        self.ends.entry(pipe.pipe_id).or_default().0 += 1;
        Ok(())
    }

    fn open(&mut self, entry: &proto::FileEntry) -> Result<OwnedFd, BoxError> {
        let pipe = entry.pipe.as_ref().ok_or_else(|| missing(entry))?;
        let fd = match inherited(self.context.options, &format!("pipe:[{}]", pipe.pipe_id))? {
            Some(given) => sys::reopen(given.as_fd(), pipe.flags)?,
            None => self.own(pipe)?,
        };
        fown::prepare(fd.as_fd(), &pipe.fown, pipe.flags)?;
        Ok(fd)
    }

    fn connect(&mut self, _: &dyn Fn(u32) -> Option<OwnedFd>) -> Result<(), BoxError> {
        self.ends.clear();
        Ok(())
    }

    fn steps(&mut self, _: &proto::FileEntry, _: Slot, _: &mut Script) -> Result<(), BoxError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl PipeRestore<'_> {
    /// A description of a pipe of the tree: one of the two that pipe2(2) makes, or a further one.
    fn own(&mut self, pipe: &proto::PipeEntry) -> Result<OwnedFd, BoxError> {
        let (count, made) = self.ends.entry(pipe.pipe_id).or_default();
        if made.is_none() {
            let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            self.contents.fill(pipe.pipe_id, writer.as_fd())?;
            *made = Some(Ends { ends: [reader, writer], fresh: [true, true], left: *count });
        }
        let ends = made.as_mut().ok_or("pipe vanished")?;
        ends.left = ends.left.saturating_sub(1);
        let access = pipe.flags & libc::O_ACCMODE as u32;
        let end = usize::from(access == libc::O_WRONLY as u32);
        let original = access != libc::O_RDWR as u32 && pipe.flags & REOPENED == 0 && ends.fresh[end];
        let fd = if original {
            ends.fresh[end] = false;
            ends.ends[end].try_clone()?
        } else {
            sys::reopen(ends.ends[end].as_fd(), pipe.flags)?
        };
        if ends.left == 0 {
            // Nobody else comes: an end that the tree does not have is closed.
            self.ends.remove(&pipe.pipe_id);
        }
        Ok(fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_with_its_data_which_stays() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&writer, b"some data").unwrap();
        let contents = <Pipe as Dump>::dump(reader.as_fd()).unwrap();
        assert_eq!(contents.packets, [b"some data"]);
        assert_eq!(<Pipe as Dump>::dump(reader.as_fd()).unwrap(), contents, "it is still there");
        let (again, _writer) = <Pipe as Restore>::restore(&contents, ()).unwrap();
        assert_eq!(<Pipe as Dump>::dump(again.as_fd()).unwrap(), contents);
    }

    #[test]
    fn data_beyond_what_is_allowed_is_an_error() {
        let contents = PipeContents { size: 4096, packets: vec![vec![1; 4096], vec![2; 4096], vec![3]] };
        let error = <Pipe as Restore>::restore(&contents, ()).unwrap_err();
        assert!(matches!(error, PipeDataError::TooLarge { waiting: 8193, copied: 4096, .. }), "{error}");
    }
}
