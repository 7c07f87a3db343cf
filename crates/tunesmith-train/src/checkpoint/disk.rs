//! The one way from saving, pruning and resuming to the file system: each operation can be watched, and made to fail.
//!
//! A test that lets the k-th operation fail, for every k, has seen every way in which a disk can break off a save; one
//! that records them all can replay any beginning of the record, which is what a power cut leaves.

use crate::TrainError;
use rustix::{
    fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with},
    io::Errno,
};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// An operation that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// Makes a folder.
    MakeDir(&'a Path),
    /// Makes an empty file.
    Create(&'a Path),
    /// Sets space aside for a file.
    Reserve(&'a Path),
    /// Adds these bytes to a file.
    Write(&'a Path, &'a [u8]),
    /// Waits until a file, or the names in a folder, are on the disk.
    Sync(&'a Path),
    /// Gives a file or folder another name.
    Rename(&'a Path, &'a Path),
    /// Removes a file.
    Unlink(&'a Path),
    /// Removes an empty folder.
    RemoveDir(&'a Path),
    /// Opens a file to read it.
    Open(&'a Path),
    /// Reads a part of an open file.
    Read(&'a Path),
    /// Reads the names in a folder.
    List(&'a Path),
}

/// What becomes of an operation.
#[derive(Debug)]
pub enum Verdict {
    /// It is made.
    Go,
    /// Half of a write is made; the system says so, and the rest is asked for again.
    Short,
    /// It is not made, and fails like this.
    Fail(io::Error),
}

type Watch = dyn Fn(&Op<'_>) -> Verdict + Send + Sync;

/// The file system, or one that is watched.
#[derive(Clone, Default)]
pub struct Disk {
    watch: Option<Arc<Watch>>,
}

impl Disk {
    /// A file system that asks `watch` before each operation.
    pub fn watched(watch: impl Fn(&Op<'_>) -> Verdict + Send + Sync + 'static) -> Self {
        Self { watch: Some(Arc::new(watch)) }
    }

    fn ask(&self, op: &Op<'_>) -> io::Result<bool> {
        match self.watch.as_ref().map_or(Verdict::Go, |watch| watch(op)) {
            Verdict::Go => Ok(true),
            Verdict::Short => Ok(false),
            Verdict::Fail(error) => Err(error),
        }
    }

    fn make<T>(
        &self,
        op: &Op<'_>,
        path: &Path,
        act: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, TrainError> {
        self.ask(op).and_then(|_| act()).map_err(TrainError::io(path))
    }

    /// Makes a folder and those above it; each new name is on the disk when this returns.
    pub(super) fn make_dirs(&self, path: &Path) -> Result<(), TrainError> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        let parent = parent(path);
        self.make_dirs(parent)?;
        self.make_dir(path)?;
        self.sync(parent)
    }

    pub(super) fn make_dir(&self, path: &Path) -> Result<(), TrainError> {
        self.make(&Op::MakeDir(path), path, || fs::create_dir(path))
    }

    /// A new file of about `n_bytes`. Where the file system can, the space is set aside at once: a full disk shows before
    /// anything is written.
    pub(super) fn create(&self, path: &Path, n_bytes: u64) -> Result<NewFile, TrainError> {
        let file = self.make(&Op::Create(path), path, || {
            File::options().write(true).create_new(true).open(path)
        })?;
        self.make(&Op::Reserve(path), path, || {
            match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, n_bytes.max(1)) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
                reserved => reserved.map_err(io::Error::from),
            }
        })?;
        let (disk, path) = (self.clone(), path.to_owned());
        Ok(NewFile { disk, path, file, hasher: blake3::Hasher::new() })
    }

    /// Waits until a file, or the names in a folder, are on the disk.
    pub(super) fn sync(&self, path: &Path) -> Result<(), TrainError> {
        self.make(&Op::Sync(path), path, || File::open(path)?.sync_all())
    }

    /// The same for a folder and everything below it.
    pub(super) fn sync_tree(&self, dir: &Path) -> Result<(), TrainError> {
        for path in self.list(dir)? {
            if path.is_dir() { self.sync_tree(&path)? } else { self.sync(&path)? }
        }
        self.sync(dir)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), TrainError> {
        self.make(&Op::Rename(from, to), from, || fs::rename(from, to))
    }

    /// Renames unless `to` exists.
    pub(super) fn rename_new(&self, from: &Path, to: &Path) -> Result<(), TrainError> {
        self.make(&Op::Rename(from, to), to, || {
            match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
                // File systems without this flag, such as NFS.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => rename_checked(from, to),
                renamed => renamed.map_err(io::Error::from),
            }
        })
    }

    /// Removes a folder with everything in it.
    pub(super) fn remove_tree(&self, dir: &Path) -> Result<(), TrainError> {
        for path in self.list(dir)? {
            match path.is_dir() && !path.is_symlink() {
                true => self.remove_tree(&path)?,
                false => self.make(&Op::Unlink(&path), &path, || fs::remove_file(&path))?,
            }
        }
        self.make(&Op::RemoveDir(dir), dir, || fs::remove_dir(dir))
    }

    /// Opens a file to read it.
    pub(super) fn open(&self, path: &Path) -> Result<OldFile, TrainError> {
        let file = self.make(&Op::Open(path), path, || File::open(path))?;
        Ok(OldFile { disk: self.clone(), path: path.to_owned(), file })
    }

    /// The whole of a small file.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, TrainError> {
        let mut bytes = Vec::new();
        self.open(path)?.read_to_end(&mut bytes).map_err(TrainError::io(path))?;
        Ok(bytes)
    }

    /// What lies in a folder, sorted by name; nothing where there is no such folder.
    pub(super) fn list(&self, dir: &Path) -> Result<Vec<PathBuf>, TrainError> {
        let names = self.make(&Op::List(dir), dir, || match fs::read_dir(dir) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        });
        names.map(|mut names: Vec<PathBuf>| {
            names.sort();
            names
        })
    }
}

/// A file in the making: its hash is made as it is written.
pub(super) struct NewFile {
    disk: Disk,
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
}

impl NewFile {
    /// Waits until it is on the disk; its size and hash.
    pub(super) fn finish(self) -> Result<(u64, blake3::Hash), TrainError> {
        self.disk.make(&Op::Sync(&self.path), &self.path, || self.file.sync_all())?;
        Ok((self.hasher.count(), self.hasher.finalize()))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let whole = self.disk.ask(&Op::Write(&self.path, bytes))?;
        let bytes = if whole { bytes } else { &bytes[..bytes.len().div_ceil(2)] };
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that is read.
pub(super) struct OldFile {
    disk: Disk,
    path: PathBuf,
    file: File,
}

impl Read for OldFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.ask(&Op::Read(&self.path))?;
        self.file.read(buffer)
    }
}

/// Renames unless `to` exists. Between check and rename nobody else writes there: a run has its directory locked.
fn rename_checked(from: &Path, to: &Path) -> io::Result<()> {
    match fs::symlink_metadata(to) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
        Err(e) => Err(e),
    }
}

/// The folder that holds `path`.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_flag_an_existing_target_is_not_replaced_either() {
        let root = tempfile::tempdir().unwrap();
        let (staging, target) = (root.path().join("new"), root.path().join("target"));
        fs::create_dir(&staging).unwrap();
        rename_checked(&staging, &target).unwrap();
        fs::create_dir(&staging).unwrap();
        let error = rename_checked(&staging, &target).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(staging.exists());
    }

    #[test]
    fn a_short_write_is_completed_and_hashed_once() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        let disk = Disk::watched(|op| match op {
            Op::Write(_, bytes) if bytes.len() > 1 => Verdict::Short,
            _ => Verdict::Go,
        });
        let mut file = disk.create(&path, 11).unwrap();
        file.write_all(b"eleven byte").unwrap();
        assert_eq!(file.finish().unwrap(), (11, blake3::hash(b"eleven byte")));
        assert_eq!(fs::read(&path).unwrap(), b"eleven byte");
    }
}
