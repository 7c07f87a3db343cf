//! The standard cache on disk, shared with every other Hugging Face tool.
//!
//! ```text
//! models--owner--name/
//!   refs/main                      the commit that `main` was when last asked
//!   snapshots/<commit>/config.json -> ../../blobs/<hash>
//!   blobs/<hash>                   content, named by its own hash
//!   blobs/<hash>.incomplete        a download under way, or one to be continued
//!   .tunesmith/<commit>.json       what the commit holds (ours; other tools pass over it)
//! .locks/models--owner--name/<hash>.lock
//! ```
//!
//! Paths are made from the checked types of `crate::names` only.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::HubError;
use crate::listing::{Entry, TreeEntry, check};
use crate::names::{Commit, Digest, FileName, Repo, Revision};

/// One repository's part of the cache.
#[derive(Debug, Clone)]
pub(crate) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    /// The part of `cache` that belongs to `repo`; nothing is created yet.
    pub(crate) fn new(cache: &Path, repo: &Repo) -> RepoCache {
        RepoCache {
            folder: cache.join(repo.folder()),
            locks: cache.join(".locks").join(repo.folder()),
        }
    }

    /// The folder a commit's files appear in.
    pub(crate) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.folder.join("snapshots").join(commit.as_str())
    }

    /// Where a file of a commit appears.
    pub(crate) fn pointer(&self, commit: &Commit, name: &FileName) -> PathBuf {
        self.snapshot(commit).join(name.as_str())
    }

    /// Where content lies.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join(digest.as_str())
    }

    /// Where content is collected until it is whole.
    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join(format!("{}.incomplete", digest.as_str()))
    }

    /// Whether a file of a commit is there in full.
    pub(crate) fn holds(&self, commit: &Commit, entry: &Entry) -> bool {
        fs::metadata(self.pointer(commit, &entry.name))
            .is_ok_and(|meta| meta.is_file() && meta.len() == entry.size)
    }

    /// The commit a revision was when last asked.
    pub(crate) fn commit_of(&self, revision: &Revision) -> Option<Commit> {
        match revision {
            Revision::Commit(commit) => Some(commit.clone()),
            Revision::Name(name) => {
                let text = fs::read_to_string(self.folder.join("refs").join(name)).ok()?;
                Commit::parse(text.trim()).ok()
            }
        }
    }

    /// Remembers the commit of a branch or tag.
    pub(crate) fn remember(&self, revision: &Revision, commit: &Commit) -> Result<(), HubError> {
        match revision {
            Revision::Name(name) if self.commit_of(revision).as_ref() != Some(commit) => {
                replace(&self.folder.join("refs").join(name), commit.as_str().as_bytes())
            }
            _ => Ok(()),
        }
    }

    /// The kept listing of a commit; a damaged one counts as missing.
    pub(crate) fn listing(&self, commit: &Commit) -> Option<Vec<Entry>> {
        let tree: Vec<TreeEntry> =
            serde_json::from_slice(&fs::read(self.listing_path(commit)).ok()?).ok()?;
        check(&tree).ok()
    }

    /// Keeps the listing of a commit.
    pub(crate) fn keep_listing(&self, commit: &Commit, tree: &[TreeEntry]) -> Result<(), HubError> {
        let path = self.listing_path(commit);
        let json = serde_json::to_vec(tree)
            .map_err(|error| HubError::disk("write", &path)(error.into()))?;
        replace(&path, &json)
    }

    fn listing_path(&self, commit: &Commit) -> PathBuf {
        self.folder.join(".tunesmith").join(format!("{}.json", commit.as_str()))
    }

    /// The files of a commit that are on this disk, whoever put them there, sorted.
    pub(crate) fn names_on_disk(&self, commit: &Commit) -> Vec<FileName> {
        let top = self.snapshot(commit);
        let (mut names, mut folders) = (Vec::new(), vec![top.clone()]);
        while let Some(folder) = folders.pop() {
            for item in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = item.path();
                let relative = path.strip_prefix(&top).ok().and_then(Path::to_str);
                match item.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(path),
                    // A link to a blob that is gone is no file: metadata follows links.
                    Ok(_) if fs::metadata(&path).is_ok_and(|meta| meta.is_file()) => {
                        names.extend(relative.and_then(|name| FileName::parse(name).ok()));
                    }
                    _ => {}
                }
            }
        }
        names.sort();
        names
    }

    /// Makes content appear under its name: a relative link, or what the file system can do instead.
    pub(crate) fn point(&self, commit: &Commit, entry: &Entry) -> Result<(), HubError> {
        let (pointer, blob) = (self.pointer(commit, &entry.name), self.blob(&entry.digest));
        let fail = || HubError::disk("create", &pointer);
        make_parent(&pointer)?;
        // Up from the file's folder to `snapshots/<commit>`, from there past `snapshots` to the repository.
        let up = "../".repeat(entry.name.as_str().matches('/').count() + 2);
        let target = PathBuf::from(format!("{up}blobs/{}", entry.digest.as_str()));
        match fs::remove_file(&pointer) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail()(error)),
            _ => {}
        }
        match link(&target, &pointer) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()), // another process was as fast
            Err(_) => fs::hard_link(&blob, &pointer)
                .or_else(|_| fs::copy(&blob, &pointer).map(|_| ()))
                .map_err(fail()),
        }
    }

    /// Waits until no other process fetches this content; the lock ends with the returned file.
    pub(crate) async fn lock(&self, digest: &Digest) -> Result<File, HubError> {
        let path = self.locks.join(format!("{}.lock", digest.as_str()));
        make_parent(&path)?;
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(HubError::disk("open", &path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if !told => {
                    told = true;
                    tracing::info!(lock = %path.display(), "another process downloads the same file: waiting for it");
                }
                Err(TryLockError::WouldBlock) => {
                    tokio::time::sleep(Duration::from_millis(100)).await
                }
                Err(TryLockError::Error(error)) => {
                    return Err(HubError::disk("lock", &path)(error));
                }
            }
        }
    }
}

#[cfg(unix)]
fn link(target: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

#[cfg(not(unix))]
fn link(_target: &Path, _pointer: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Creates the folder a file is to lie in.
pub(crate) fn make_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(HubError::disk("create", parent))
}

/// Writes a small file in one step, so that no reader sees half of it.
fn replace(path: &Path, content: &[u8]) -> Result<(), HubError> {
    make_parent(path)?;
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}.tmp", std::process::id()));
    let new = PathBuf::from(new);
    let written = File::create(&new)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&new); // the first failure is the one to report
        HubError::disk("write", path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Kind;

    #[test]
    fn links_lead_to_blobs_from_any_depth() {
        let root = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(root.path(), &Repo::parse(Kind::Dataset, "o/n").unwrap());
        let commit = Commit::parse(&"c".repeat(40)).unwrap();
        for name in ["top.json", "a/b.json", "a/b2/c.json"] {
            let entry = Entry {
                name: FileName::parse(name).unwrap(),
                size: 2,
                digest: Digest::git(&"d".repeat(40)).unwrap(),
            };
            make_parent(&cache.blob(&entry.digest)).unwrap();
            fs::write(cache.blob(&entry.digest), "ok").unwrap();
            cache.point(&commit, &entry).unwrap();
            cache.point(&commit, &entry).unwrap();
            assert_eq!(fs::read_to_string(cache.pointer(&commit, &entry.name)).unwrap(), "ok");
            assert!(cache.holds(&commit, &entry));
            assert!(!cache.holds(&commit, &Entry { size: 3, ..entry }));
        }
        assert_eq!(cache.names_on_disk(&commit).len(), 3);
        fs::remove_dir_all(root.path().join("datasets--o--n/blobs")).unwrap();
        assert!(cache.names_on_disk(&commit).is_empty(), "links to nothing are no files");
    }

    #[test]
    fn references_are_remembered_and_checked() {
        let root = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(root.path(), &Repo::parse(Kind::Model, "n").unwrap());
        let (commit, pr) =
            (Commit::parse(&"c".repeat(40)).unwrap(), Revision::parse("refs/pr/1").unwrap());
        assert_eq!(cache.commit_of(&pr), None);
        cache.remember(&pr, &commit).unwrap();
        assert_eq!(cache.commit_of(&pr), Some(commit));
        fs::write(root.path().join("models--n/refs/refs/pr/1"), "../../../etc").unwrap();
        assert_eq!(cache.commit_of(&pr), None, "a reference is no path");
    }
}
