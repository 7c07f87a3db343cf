//! The Python that tunesmith is compared with: `xtask/peer/requirements.txt` in a virtual environment of its own.
//!
//! It lies beside libtorch in the cache folder, under a name that follows the requirements; `TUNESMITH_PEER_PYTHON`
//! names another interpreter that has them. Only benchmarks use it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::command::{Cmd, in_root};
use crate::setup;

const REQUIREMENTS: &str = include_str!("../../peer/requirements.txt");

/// A script of `xtask/peer`, ready for its arguments; the environment is made first where there is none.
///
/// # Errors
/// There is no Python, or the requirements cannot be installed.
pub(crate) fn script(name: &str) -> Result<Cmd> {
    let given = std::env::var_os("TUNESMITH_PEER_PYTHON").filter(|python| !python.is_empty());
    let python = match given {
        Some(python) => PathBuf::from(python),
        None => ensure(&setup::cache_dir()?)?,
    };
    Ok(Cmd::new(python).args([in_root("xtask/peer").join(name)]))
}

/// The interpreter of the environment in `cache`. What is not whole is made anew.
fn ensure(cache: &Path) -> Result<PathBuf> {
    let hash = Sha256::digest(REQUIREMENTS);
    let name: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let folder = cache.join(format!("peer-{name}"));
    let (python, finished) = (folder.join("bin/python"), folder.join("requirements.txt"));
    if fs::read_to_string(&finished).is_ok_and(|text| text == REQUIREMENTS) {
        return Ok(python);
    }
    eprintln!("the Python side goes to {}, once; it takes minutes", folder.display());
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let made = Cmd::new("python3").args(["-m", "venv", "--clear"]).args([&folder]);
    let install = Cmd::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--requirement"])
        .args([in_root("xtask/peer/requirements.txt")]);
    for command in [made, install] {
        if !command.succeeds()? {
            bail!(
                "`{}` failed\nhelp: set TUNESMITH_PEER_PYTHON to a Python with what \
                 xtask/peer/requirements.txt lists, or measure with --ours-only",
                command.display()
            );
        }
    }
    fs::write(&finished, REQUIREMENTS)
        .with_context(|| format!("cannot write {}", finished.display()))?;
    Ok(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_environment_is_used_as_it_stands() {
        let cache = tempfile::tempdir().unwrap();
        let hash = Sha256::digest(REQUIREMENTS);
        let name = format!("peer-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]);
        let folder = cache.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("requirements.txt"), REQUIREMENTS).unwrap();
        assert_eq!(ensure(cache.path()).unwrap(), folder.join("bin/python"));
    }

    #[test]
    fn every_requirement_is_pinned() {
        let lines = REQUIREMENTS.lines().filter(|line| !line.starts_with('#'));
        let pinned = lines.clone().filter(|line| line.contains("==")).count();
        assert_eq!((pinned, lines.count()), (5, 5));
    }
}
