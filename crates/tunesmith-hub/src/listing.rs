//! What a repository holds at one commit: names, sizes and content hashes.
//!
//! # Why
//! A commit never changes, so its listing is asked for once and kept beside the snapshots, in
//! `.tunesmith/<commit>.json`: with it the cache alone can tell whether every file that is wanted is there.
//! hf-hub has a listing call, but its type loses the SHA-256 of large files, which is what names their blobs
//! and proves that a download is whole; hence the few lines of JSON here.

use serde::{Deserialize, Serialize};

use crate::HubError;
use crate::names::{Digest, FileName};

/// One entry as the Hub writes it in `/api/{models,datasets}/…/tree/…`, and as it is kept in the cache.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs: Option<TreeLfs>,
}

/// Where a large file is kept outside git.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct TreeLfs {
    oid: String,
    size: u64,
}

/// A file that can be fetched.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: FileName,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// The hash of its content.
    pub(crate) digest: Digest,
}

/// Checks every name and hash of a listing and sorts its files by name.
pub(crate) fn check(tree: &[TreeEntry]) -> Result<Vec<Entry>, HubError> {
    let mut entries = Vec::with_capacity(tree.len());
    for raw in tree.iter().filter(|raw| raw.kind == "file") {
        let name = FileName::parse(&raw.path)?;
        entries.push(match &raw.lfs {
            Some(lfs) => Entry { name, size: lfs.size, digest: Digest::sha256(&lfs.oid)? },
            None => Entry { name, size: raw.size, digest: Digest::git(&raw.oid)? },
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries.dedup_by(|a, b| a.name == b.name);
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_go_by_sha256_and_small_ones_by_git_blob() {
        let json = format!(
            r#"[{{"type":"directory","oid":"x","size":0,"path":"data"}},
                {{"type":"file","oid":"{g}","size":9,"path":"b.json"}},
                {{"type":"file","oid":"{g}","size":134,"path":"a.safetensors","xetHash":"q",
                  "lfs":{{"oid":"{s}","size":7000,"pointerSize":134}}}}]"#,
            g = "a".repeat(40),
            s = "b".repeat(64)
        );
        let tree: Vec<TreeEntry> = serde_json::from_str(&json).unwrap();
        let entries = check(&tree).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].name.as_str(), entries[0].size), ("a.safetensors", 7000));
        assert_eq!(entries[0].digest, Digest::Sha256("b".repeat(64)));
        assert_eq!(entries[1].digest, Digest::Git("a".repeat(40)));
        let kept = serde_json::to_string(&tree).unwrap();
        assert_eq!(
            check(&serde_json::from_str::<Vec<TreeEntry>>(&kept).unwrap()).unwrap().len(),
            2
        );
    }

    #[test]
    fn one_hostile_entry_condemns_the_listing() {
        let good = "a".repeat(40);
        for (path, oid) in [("../x", good.as_str()), ("/x", &good), ("x", "../../x"), ("x", "")] {
            let entry = TreeEntry {
                kind: "file".into(),
                path: path.into(),
                size: 1,
                oid: oid.into(),
                lfs: None,
            };
            assert!(matches!(check(&[entry]), Err(HubError::InvalidName { .. })), "{path} {oid}");
        }
    }
}
