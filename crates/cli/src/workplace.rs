//! The images directory and the work directory.

use anyhow::{Context, Result};
use criu_config::Options;
use criu_images::{DirStore, Image, lineage};
use criu_rpc::ScriptHooks;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Where images, logs and the pid file lie.
pub struct Workplace {
    /// Images.
    pub images: PathBuf,
    /// Logs, statistics, pid file.
    pub work: PathBuf,
}

impl Workplace {
    /// Takes both from the options and checks that they are there.
    pub fn open(options: &Options) -> Result<Workplace> {
        let (images, work) = (options.images_dir(), options.work_dir());
        for (dir, option) in [(&images, "--images-dir"), (&work, "--work-dir")] {
            let found = std::fs::metadata(dir).with_context(|| format!("{option} {}", dir.display()))?;
            anyhow::ensure!(found.is_dir(), "{option} {}: not a directory", dir.display());
        }
        Ok(Workplace { images, work })
    }

    /// A store for reading images.
    pub fn images(&self) -> Result<DirStore> {
        Ok(DirStore::open(&self.images)?)
    }

    /// A store for writing images.
    pub fn new_images(&self) -> Result<DirStore> {
        Ok(DirStore::open_writable(&self.images)?)
    }

    /// Writes `--pidfile`, if it is asked for; for containers' sake without a line end.
    pub fn write_pidfile(&self, options: &Options, pid: i32) -> Result<()> {
        let Some(path) = &options.pidfile else { return Ok(()) };
        let path = self.work.join(path);
        std::fs::write(&path, pid.to_string()).with_context(|| format!("--pidfile {}", path.display()))
    }

    /// Links the images directory to its parent (`--prev-images-dir`). What is returned takes the link away again,
    /// unless it is kept.
    pub fn link_parent(&self, options: &Options) -> Result<ParentLink> {
        let Some(parent) = &options.prev_images_dir else { return Ok(ParentLink(None)) };
        let found = std::fs::metadata(self.images.join(parent));
        let found = found.with_context(|| format!("--prev-images-dir {}", parent.display()))?;
        anyhow::ensure!(found.is_dir(), "--prev-images-dir {}: not a directory", parent.display());
        let inventory = self.images.join(parent).join(Image::Inventory.file_name(0));
        anyhow::ensure!(
            inventory.exists(),
            "--prev-images-dir {}: no complete checkpoint is there (inventory.img is missing)",
            parent.display()
        );
        let link = self.images.join(lineage::PARENT);
        if std::fs::read_link(&link).is_ok_and(|target| target == *parent) {
            return Ok(ParentLink(None));
        }
        let _ = std::fs::remove_file(&link); // of an earlier checkpoint; if it stays, the next step says why
        std::os::unix::fs::symlink(parent, &link).with_context(|| link.display().to_string())?;
        if parent.is_absolute() {
            tracing::warn!("--prev-images-dir is absolute: the images cannot be moved to another place");
        }
        Ok(ParentLink(Some(link)))
    }

    /// A store for statistics.
    pub fn statistics(&self) -> Result<DirStore> {
        Ok(DirStore::open_writable(&self.work)?)
    }

    /// Creates the log file; `path` is taken from the work directory.
    pub fn create_log(&self, path: &Path) -> Result<File> {
        let path = self.work.join(path);
        File::create(&path).with_context(|| format!("--log-file {}", path.display()))
    }

    /// Whoever takes part in a dump or restore of the command line: signals and action scripts.
    pub fn hooks(&self, options: &Options) -> Result<ScriptHooks> {
        let images = File::open(&self.images).context("--images-dir")?;
        Ok(ScriptHooks::new(options.action_script.clone(), images.as_fd(), self.work.clone())?)
    }
}

/// A link to the parent checkpoint that is there only if the dump succeeds.
pub struct ParentLink(Option<PathBuf>);

impl ParentLink {
    /// The dump is complete.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for ParentLink {
    fn drop(&mut self) {
        let Some(link) = &self.0 else { return };
        let _ = std::fs::remove_file(link); // the dump's own error is the one to report
    }
}
