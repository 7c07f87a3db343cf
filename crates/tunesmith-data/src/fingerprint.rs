//! A short name for the content of data files, so that a checkpoint notices when they changed.

use crate::DataError;
use rayon::prelude::*;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Up to this size a file is hashed by one thread, of larger ones each 8 MiB, on all cores.
const SMALL: u64 = 256 << 20;
const PIECE: u64 = 8 << 20;
/// Above this size 4,096 blocks spread evenly are hashed, with both ends among them: reading all of a terabyte takes longer
/// than a run waits.
const WHOLE: u64 = 64 << 30;
const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 4096;

/// The BLAKE3 hash of the files' sizes and contents, in their order; where they lie does not matter. Of a file above 64 GiB
/// a part of its content counts.
///
/// # Errors
/// A file that cannot be read.
pub fn fingerprint(files: &[PathBuf]) -> Result<String, DataError> {
    let hashes =
        files.par_iter().map(|path| hash(path, WHOLE).map_err(|error| DataError::io(path, error)));
    let mut all = blake3::Hasher::new();
    for hash in hashes.collect::<Result<Vec<_>, _>>()? {
        all.update(hash.as_bytes());
    }
    Ok(all.finalize().to_hex().to_string())
}

/// When those files were changed that are too large to be hashed whole: what stands beside their fingerprint where a file
/// is named after data on the same machine.
pub(crate) fn times(files: &[PathBuf]) -> Result<String, DataError> {
    let mut times = String::new();
    for path in files {
        let data = path.metadata().map_err(|error| DataError::io(path, error))?;
        if data.len() > WHOLE {
            let changed = data.modified().map_err(|error| DataError::io(path, error))?;
            let since = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
            times += &format!("{} ", since.as_nanos());
        }
    }
    Ok(times)
}

fn hash(path: &Path, whole: u64) -> io::Result<blake3::Hash> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size.to_le_bytes());
    if size <= SMALL.min(whole) {
        hasher.update_reader(&file)?;
    } else if size <= whole {
        let hashes: Vec<blake3::Hash> = (0..size.div_ceil(PIECE))
            .into_par_iter()
            .map(|piece| hash_piece(&file, piece * PIECE, ((piece + 1) * PIECE).min(size)))
            .collect::<io::Result<_>>()?;
        hashes.iter().for_each(|hash| _ = hasher.update(hash.as_bytes()));
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

fn hash_piece(file: &File, start: u64, end: u64) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BLOCK as usize];
    let mut at = start;
    while at < end {
        let n = (end - at).min(BLOCK) as usize;
        file.read_exact_at(&mut buffer[..n], at)?;
        hasher.update(&buffer[..n]);
        at += n as u64;
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

    #[test]
    fn any_byte_of_a_large_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let size = SMALL + PIECE + 5;
        let file = File::create(&path).unwrap();
        file.set_len(size).unwrap(); // holes: no disk is used
        let mut seen = vec![hash(&path, WHOLE).unwrap()];
        for at in [0, PIECE, SMALL + 4321, size - 1] {
            file.write_all_at(b"x", at).unwrap();
            let now = hash(&path, WHOLE).unwrap();
            assert!(!seen.contains(&now), "byte {at}");
            seen.push(now);
        }
        // a sample sees the ends, and is another hash than that of the whole
        let sampled = hash(&path, SMALL).unwrap();
        assert!(!seen.contains(&sampled));
        file.write_all_at(b"y", size - 1).unwrap();
        assert_ne!(hash(&path, SMALL).unwrap(), sampled);
        assert_eq!(times(&[path]).unwrap(), "", "it is hashed whole");
    }
}
