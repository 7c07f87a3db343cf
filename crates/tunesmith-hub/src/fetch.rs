//! One file from the Hub into the cache: locked, continued where it broke off, and proved whole by its hash
//! before it gets its name.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::HubError;
use crate::layout::{RepoCache, make_parent};
use crate::listing::Entry;
use crate::names::{Commit, Digest, Repo};
use crate::progress::Bars;
use crate::remote::{Broken, Remote, innermost};

/// Attempts in a row that may bring nothing before a download is given up: 0.5 + 1 + 2 + 4 s of waiting.
const IDLE_ATTEMPTS: u32 = 5;

/// Where files come from and where they go.
pub(crate) struct Fetch<'a> {
    pub(crate) remote: &'a Remote,
    pub(crate) cache: &'a RepoCache,
    pub(crate) repo: &'a Repo,
    pub(crate) commit: &'a Commit,
    pub(crate) bars: &'a Bars,
}

impl Fetch<'_> {
    /// Sees to it that `entry` lies in the snapshot; content that is already on disk is not asked for again.
    pub(crate) async fn file(&self, entry: &Entry) -> Result<(), HubError> {
        if self.cache.holds(self.commit, entry) {
            return Ok(());
        }
        let blob = self.cache.blob(&entry.digest);
        let whole = || fs::metadata(&blob).is_ok_and(|meta| meta.len() == entry.size);
        if !whole() {
            let _lock = self.cache.lock(&entry.digest).await?;
            if !whole() {
                self.download(entry).await?;
                let partial = self.cache.partial(&entry.digest);
                fs::rename(&partial, &blob).map_err(HubError::disk("write", &blob))?;
            }
        }
        self.cache.point(self.commit, entry)
    }

    /// Fills the `.incomplete` file and proves it. Where the proof fails after a continuation, the file is fetched
    /// once more from its start: a leftover may have been damaged, or the server may ignore ranges.
    async fn download(&self, entry: &Entry) -> Result<(), HubError> {
        let path = self.cache.partial(&entry.digest);
        make_parent(&path)?;
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = file.map_err(HubError::disk("open", &path))?;
        let mut seen = Seen::of(&mut file, entry).map_err(HubError::disk("read", &path))?;
        let (repo, name) = (self.repo.id(), entry.name.as_str());
        tracing::info!(repo, file = name, bytes = entry.size, from = seen.bytes, "download");

        let mut second_try = false;
        loop {
            let continued = self.fill(entry, &path, &mut file, &mut seen).await?;
            let (bytes, hash) = (seen.bytes, seen.hash.finish());
            if bytes == entry.size && hash == entry.digest.as_str() {
                // A name under blobs/ promises content, also after a power cut.
                return file.sync_data().map_err(HubError::disk("write", &path));
            }
            if continued && !second_try {
                tracing::warn!(
                    repo,
                    file = name,
                    "the continued download is not the file: starting it anew"
                );
                second_try = true;
                restart(&mut file).map_err(HubError::disk("write", &path))?;
                seen = Seen::nothing(entry);
                continue;
            }
            let _ = fs::remove_file(&path); // the damage is what matters
            let (expected, found) = match bytes == entry.size {
                true => (entry.digest.as_str().to_string(), hash),
                false => (format!("{} bytes", entry.size), "more".to_string()),
            };
            return Err(HubError::Damaged {
                repo: repo.to_string(),
                file: name.to_string(),
                expected,
                found,
            });
        }
    }

    /// Brings in bytes until the file has its size (or more: then the server is wrong). True if any part of it
    /// was continued rather than fetched in one go.
    async fn fill(
        &self,
        entry: &Entry,
        path: &Path,
        file: &mut File,
        seen: &mut Seen,
    ) -> Result<bool, HubError> {
        let bar = self.bars.add(entry.name.as_str(), entry.size, seen.bytes);
        let (mut continued, mut idle) = (seen.bytes > 0, 0);
        while seen.bytes < entry.size {
            let before = seen.bytes;
            continued |= before > 0;
            let part = (before > 0).then_some(before..entry.size);
            let reason = match self.remote.open(self.repo, self.commit, &entry.name, part).await {
                Ok(mut stream) => loop {
                    match stream.next().await {
                        Some(Ok(chunk)) => {
                            seen.add(&chunk);
                            if seen.bytes > entry.size {
                                return Ok(continued);
                            }
                            file.write_all(&chunk).map_err(HubError::disk("write", path))?;
                            bar.at(seen.bytes);
                        }
                        Some(Err(error)) => break self.remote.quote(&innermost(&error)),
                        None => break "the connection was closed".to_string(),
                    }
                },
                Err(Broken::For(error)) => return Err(error),
                Err(Broken::Now(reason)) => reason,
            };
            if seen.bytes == entry.size {
                break;
            }
            idle = if seen.bytes > before { 0 } else { idle + 1 };
            tracing::debug!(
                file = entry.name.as_str(),
                at = seen.bytes,
                idle,
                reason,
                "the download broke off"
            );
            if idle == IDLE_ATTEMPTS {
                return Err(HubError::Interrupted {
                    repo: self.repo.id().to_string(),
                    file: entry.name.to_string(),
                    received: seen.bytes,
                    size: entry.size,
                    reason,
                });
            }
            tokio::time::sleep(Duration::from_millis(500 << idle.saturating_sub(1))).await;
        }
        Ok(continued)
    }
}

/// How much of a file has been seen, and the hash of it so far.
struct Seen {
    bytes: u64,
    hash: Hash,
}

impl Seen {
    fn nothing(entry: &Entry) -> Seen {
        Seen { bytes: 0, hash: Hash::new(entry) }
    }

    /// Reads what an earlier attempt left; leaves the file's position behind it.
    fn of(file: &mut File, entry: &Entry) -> std::io::Result<Seen> {
        let mut seen = Seen::nothing(entry);
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 if seen.bytes <= entry.size => return Ok(seen),
                n if n > 0 && seen.bytes <= entry.size => seen.add(&buffer[..n]),
                _ => {
                    restart(file)?; // longer than the file can be: not ours
                    return Ok(Seen::nothing(entry));
                }
            }
        }
    }

    fn add(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        match &mut self.hash {
            Hash::Git(hasher) => hasher.update(chunk),
            Hash::Sha256(hasher) => hasher.update(chunk),
        }
    }
}

fn restart(file: &mut File) -> std::io::Result<()> {
    use std::io::Seek;
    file.set_len(0)?;
    file.rewind()
}

enum Hash {
    Git(Sha1),
    Sha256(Sha256),
}

impl Hash {
    fn new(entry: &Entry) -> Hash {
        match entry.digest {
            // git hashes `blob`, the length, a zero byte, and then the content.
            Digest::Git(_) => Hash::Git(Sha1::new_with_prefix(format!("blob {}\0", entry.size))),
            Digest::Sha256(_) => Hash::Sha256(Sha256::new()),
        }
    }

    fn finish(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Hash::Git(hasher) => hex(&hasher.finalize()),
            Hash::Sha256(hasher) => hex(&hasher.finalize()),
        }
    }
}
