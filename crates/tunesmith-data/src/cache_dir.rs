//! Where files lie that can be made again: unpacked streams, prepared data sets, and what the binary keeps beside them.

use std::path::PathBuf;

/// The first of `TUNESMITH_CACHE`, `XDG_CACHE_HOME/tunesmith` and `~/.cache/tunesmith` that the environment names; else
/// a folder for temporary files.
pub fn cache_dir() -> PathBuf {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    path("TUNESMITH_CACHE")
        .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("tunesmith")))
        .or_else(|| path("HOME").map(|home| home.join(".cache/tunesmith")))
        .unwrap_or_else(|| std::env::temp_dir().join("tunesmith"))
}
