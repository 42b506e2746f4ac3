//! A store that forgets what was written unless the dump completes.

use criu_images::{Image, ImageReader, ImageWriter, Result, Store};
use std::ops::Range;
use std::sync::Mutex;

/// Passes everything on and notes the names created; removes those on drop, unless [`Scratch::keep`] was
/// called.
#[derive(Debug)]
pub(crate) struct Scratch<'a> {
    store: &'a dyn Store,
    created: Mutex<Vec<String>>,
}

impl<'a> Scratch<'a> {
    pub(crate) fn new(store: &'a dyn Store) -> Scratch<'a> {
        Scratch { store, created: Mutex::new(Vec::new()) }
    }

    /// How many pages of 4096 bytes lie in the `pages-N.img` that were written.
    pub(crate) fn pages(&self) -> Result<u64> {
        let names = self.names();
        let images =
            names.iter().filter(|name| matches!(Image::from_file_name(name), Some((Image::Pages, _))));
        images.map(|name| Ok(self.store.open(name)?.len() / 4096)).sum()
    }

    pub(crate) fn keep(self) {
        self.names().clear();
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.created.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // The inventory first: nothing is to be taken for a checkpoint meanwhile.
        for name in self.names().iter().rev() {
            let _ = self.store.remove(name); // the dump's own error is the one to report
        }
    }
}

impl Store for Scratch<'_> {
    fn create(&self, name: &str) -> Result<Box<dyn ImageWriter>> {
        self.names().push(name.to_owned());
        self.store.create(name)
    }

    fn open(&self, name: &str) -> Result<Box<dyn ImageReader>> {
        self.store.open(name)
    }

    fn exists(&self, name: &str) -> bool {
        self.store.exists(name)
    }

    fn list(&self) -> Result<Vec<String>> {
        self.store.list()
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.store.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.names().push(to.to_owned());
        self.store.rename(from, to)
    }

    fn punch(&self, name: &str, parts: &[Range<u64>]) -> Result<()> {
        self.store.punch(name, parts)
    }

    fn parent(&self) -> Result<Option<Box<dyn Store>>> {
        self.store.parent()
    }
}
