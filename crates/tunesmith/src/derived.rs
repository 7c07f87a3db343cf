//! Model directories in the cache that are made of something else: a GGUF file, or a model with further tokens.

use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A directory with this file is whole.
pub(crate) const CONFIG: &str = "config.json";

/// The model directory in `cache` that is made of what `key` tells. `make` fills an empty directory where there is none yet:
/// it appears whole or not at all, and another run may make the same at the same time.
///
/// # Errors
/// Those of `make`, and of the disk.
pub(crate) fn directory(
    cache: &Path,
    key: &[u8],
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let name = blake3::hash(key).to_hex();
    let target = cache.join(&name.as_str()[..16]);
    let is_whole = || target.join(CONFIG).is_file();
    if is_whole() {
        return Ok(target);
    }
    let staging = fs::create_dir_all(cache)
        .and_then(|()| tempfile::Builder::new().prefix("tmp-").tempdir_in(cache))
        .with_context(|| cache.display().to_string())?;
    // A folder inside, since the temporary one is closed to other users.
    let whole = staging.path().join("model");
    fs::create_dir(&whole).with_context(|| whole.display().to_string())?;
    make(&whole)?;
    if target.exists() && !is_whole() {
        // Who cleans a cache file by file leaves such.
        fs::remove_dir_all(&target).with_context(|| target.display().to_string())?;
    }
    match fs::rename(&whole, &target) {
        Err(error) if !is_whole() => Err(error).with_context(|| target.display().to_string()),
        _ => Ok(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_leaves_nothing_and_what_is_there_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        directory(&cache, b"a", |_| anyhow::bail!("no")).unwrap_err();
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);
        let make = |text: &'static str| move |dir: &Path| Ok(fs::write(dir.join(CONFIG), text)?);
        let first = directory(&cache, b"a", make("1")).unwrap();
        assert_eq!(directory(&cache, b"a", make("2")).unwrap(), first);
        assert_eq!(fs::read_to_string(first.join(CONFIG)).unwrap(), "1");
        assert_ne!(directory(&cache, b"b", make("2")).unwrap(), first);
        fs::rename(first.join(CONFIG), first.join("other")).unwrap();
        assert_eq!(directory(&cache, b"a", make("3")).unwrap(), first);
        assert_eq!(fs::read_to_string(first.join(CONFIG)).unwrap(), "3");
    }

    /// Another run was faster: its directory stays.
    #[test]
    fn two_that_make_the_same_agree() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |dir: &Path, text: &str| -> Result<()> { Ok(fs::write(dir.join(CONFIG), text)?) };
        let made = directory(folder.path(), b"a", |slow| {
            directory(folder.path(), b"a", |fast| write(fast, "fast"))?;
            write(slow, "slow")
        });
        assert_eq!(fs::read_to_string(made.unwrap().join(CONFIG)).unwrap(), "fast");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing temporary stays");
    }
}
