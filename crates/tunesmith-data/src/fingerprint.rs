//! A short name for the content of data files, so that a checkpoint notices when they changed.

use crate::DataError;
use rayon::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Up to this size all bytes are hashed; of larger files 256 blocks spread evenly, with both ends among them.
const WHOLE: u64 = 256 << 20;
const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 256;

/// The BLAKE3 hash of the files' sizes and contents, in their order; where they lie does not matter.
///
/// # Errors
/// A file that cannot be read.
pub fn fingerprint(files: &[PathBuf]) -> Result<String, DataError> {
    let hashes =
        files.par_iter().map(|path| hash(path).map_err(|error| DataError::io(path, error)));
    let mut all = blake3::Hasher::new();
    for hash in hashes.collect::<Result<Vec<_>, _>>()? {
        all.update(hash.as_bytes());
    }
    Ok(all.finalize().to_hex().to_string())
}

fn hash(path: &Path) -> std::io::Result<blake3::Hash> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size.to_le_bytes());
    if size <= WHOLE {
        hasher.update_reader(&file)?;
    } else {
        let mut block = vec![0; BLOCK as usize];
        for i in 0..BLOCKS {
            file.read_exact_at(&mut block, (size - BLOCK) / (BLOCKS - 1) * i)?;
            hasher.update(&block);
        }
        file.read_exact_at(&mut block, size - BLOCK)?;
        hasher.update(&block);
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_order_count_and_place_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (a, b, copy, edited) =
            (write("a", "one\n"), write("b", "two\n"), write("c", "one\n"), write("d", "onf\n"));
        let name = |files: &[&PathBuf]| {
            fingerprint(&files.iter().map(|&f| f.clone()).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(name(&[&a, &b]), name(&[&copy, &b]));
        assert_ne!(name(&[&a, &b]), name(&[&b, &a]));
        assert_ne!(name(&[&a]), name(&[&edited]));
        assert_ne!(name(&[&a]), name(&[&a, &b]));
    }
}
