//! Images in memory.

use std::{
    collections::BTreeMap,
    io::{self, Cursor, Write},
    ops::Range,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{ImageReader, ImageWriter, Store};
use crate::error::{Error, Result};

type Files = BTreeMap<String, Arc<[u8]>>;

/// Images in memory. Clones share the same images; an image appears when its writer is finished.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    files: Arc<Mutex<Files>>,
    parent: Option<Box<MemoryStore>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store whose checkpoint builds upon that in another.
    pub fn upon(parent: &MemoryStore) -> Self {
        MemoryStore { parent: Some(Box::new(parent.clone())), ..Self::default() }
    }

    /// The bytes of an image.
    pub fn get(&self, name: &str) -> Option<Arc<[u8]>> {
        self.files().get(name).cloned()
    }

    /// Puts an image in, or replaces it.
    pub fn insert(&self, name: impl Into<String>, bytes: impl Into<Arc<[u8]>>) {
        self.files().insert(name.into(), bytes.into());
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        // No code panics while it holds the lock half-way through a change.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(name: &str) -> Error {
        Error::Missing { image: name.to_owned(), place: "memory".to_owned() }
    }
}

impl Store for MemoryStore {
    fn create(&self, name: &str) -> Result<Box<dyn ImageWriter>> {
        Ok(Box::new(MemoryWriter { store: self.clone(), name: name.to_owned(), bytes: Vec::new() }))
    }

    fn open(&self, name: &str) -> Result<Box<dyn ImageReader>> {
        let bytes = self.get(name).ok_or_else(|| Self::missing(name))?;
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn exists(&self, name: &str) -> bool {
        self.files().contains_key(name)
    }

    fn list(&self) -> Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.files().remove(name);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut files = self.files();
        let bytes = files.remove(from).ok_or_else(|| Self::missing(from))?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn punch(&self, name: &str, parts: &[Range<u64>]) -> Result<()> {
        let mut bytes = self.get(name).ok_or_else(|| Self::missing(name))?.to_vec();
        for part in parts {
            let end = bytes.len().min(part.end as usize);
            bytes[end.min(part.start as usize)..end].fill(0);
        }
        self.insert(name, bytes);
        Ok(())
    }

    fn parent(&self) -> Result<Option<Box<dyn Store>>> {
        Ok(self.parent.clone().map(|parent| parent as Box<dyn Store>))
    }
}

struct MemoryWriter {
    store: MemoryStore,
    name: String,
    bytes: Vec<u8>,
}

impl Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ImageWriter for MemoryWriter {
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.store.insert(self.name, self.bytes);
        Ok(())
    }
}

impl ImageReader for Cursor<Arc<[u8]>> {
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn len(&self) -> u64 {
        self.get_ref().len() as u64
    }
}
