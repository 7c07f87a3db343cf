//! Any bytes as a data file or as the description of a data set; `fuzz/` hands in its own.
#![allow(unreachable_pub, reason = "several crates include this file by its path")]

use tunesmith_data::{Card, Dataset, DatasetConfig, RowKnobs};

/// A data file, of which the first rows are read. Whether all of it was accepted.
pub fn rows(bytes: &[u8], ending: &str) -> bool {
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.expect("a temporary folder");
    let path = dir.path().join(format!("rows.{ending}"));
    std::fs::write(&path, bytes).expect("a file");
    let Ok(data) = Dataset::open(&[path], &RowKnobs::default()) else { return false };
    (0..data.len().min(64)).all(|row| data.sample(row).is_ok())
}

/// The description of a data set.
pub fn dataset(bytes: &[u8]) -> bool {
    DatasetConfig::parse(&String::from_utf8_lossy(bytes), "a.toml").is_ok()
}

/// The README.md of a data set.
pub fn card(bytes: &[u8]) -> bool {
    Card::parse(&String::from_utf8_lossy(bytes), "README.md").is_ok()
}
