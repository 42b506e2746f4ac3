//! The images directory and the work directory.

use anyhow::{Context, Result};
use criu_config::Options;
use criu_images::DirStore;
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

    /// A store for statistics.
    pub fn statistics(&self) -> Result<DirStore> {
        Ok(DirStore::open_writable(&self.work)?)
    }

    /// Creates the log file; `path` is taken from the work directory.
    pub fn create_log(&self, path: &Path, with_pid: bool) -> Result<File> {
        let mut path = self.work.join(path);
        if with_pid {
            path.as_mut_os_string().push(format!(".{}", std::process::id()));
        }
        File::create(&path).with_context(|| format!("--log-file {}", path.display()))
    }

    /// Whoever takes part in a dump or restore of the command line: signals and action scripts.
    pub fn hooks(&self, options: &Options) -> Result<ScriptHooks> {
        let images = File::open(&self.images).context("--images-dir")?;
        Ok(ScriptHooks::new(options.action_script.clone(), images.as_fd(), self.work.clone())?)
    }
}
