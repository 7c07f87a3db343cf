//! The run directory: its files, its one owner, and which directory a command means.

use crate::{
    exit::{Exit, Failure},
    owner::{LOCK, Owner},
};
use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// What is there before the first file of a run is: the lock, and that file while it is written.
const BEGINNINGS: [&str; 3] = [LOCK, ".recipe.toml.tmp", REHEARSAL];
/// Where a rehearsal saves and reloads.
pub(crate) const REHEARSAL: &str = ".rehearsal";
/// What a run trained, as transformers and PEFT load it.
pub(crate) const FINAL: &str = "final";

/// A run directory that this process owns until it ends. Where nothing was written, nothing is left behind.
pub(crate) struct RunDir {
    root: PathBuf,
    /// Whether this process made the directory.
    made: bool,
    _owner: Owner,
}

impl RunDir {
    /// Creates or takes over the directory of a run.
    ///
    /// Without `out` it is `runs/<name>`, then `runs/<name>-2` and so on; with `resume` the newest that exists.
    pub(crate) fn open(out: Option<&Path>, name: &str, resume: bool) -> Result<Self> {
        let root = match out {
            Some(out) => out.to_path_buf(),
            None => choose(Path::new("runs"), name, resume),
        };
        let cannot = |e: std::io::Error| {
            Failure(
                Exit::CannotCreate,
                format!("{}: {e}\nhelp: choose another place with --out", root.display()),
            )
        };
        let made = !root.exists();
        fs::create_dir_all(&root).map_err(cannot)?;
        // Owned before it is judged: nobody changes it any more.
        let owner = Owner::take(&root)?;
        let holds_a_run = root.join("recipe.toml").exists() || root.join("checkpoints").exists();
        let foreign = !holds_a_run && !is_blank(&root);
        if foreign || (holds_a_run && !resume) {
            if foreign && owner.made {
                let _ = fs::remove_file(root.join(LOCK)); // theirs as we found it
            }
            let (what, help) = match foreign {
                true => ("holds other files", "choose another place with --out"),
                false => {
                    ("holds a run", "continue it with --resume, or choose another place with --out")
                }
            };
            let text = format!("{}: the directory already {what}\nhelp: {help}", root.display());
            return Err(Failure(Exit::CannotCreate, text).into());
        }
        remove_leftovers(&root).map_err(cannot)?;
        Ok(Self { root, made, _owner: owner })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    pub(crate) fn final_model(&self) -> PathBuf {
        self.root.join(FINAL)
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| path.display().to_string())
            }
            _ => Ok(()),
        }
    }

    /// Writes a small file whole or not at all.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let (target, staging) = (self.file(name), self.file(&format!(".{name}.tmp")));
        let write = || {
            let mut file = File::create(&staging)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&staging, &target)
        };
        write().with_context(|| target.display().to_string())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if is_blank(&self.root) {
            // Whoever failed before the first file has told a better error than these could.
            for name in BEGINNINGS {
                let path = self.file(name);
                let _ =
                    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            }
            if self.made {
                let _ = fs::remove_dir(&self.root);
            }
        }
    }
}

/// Whether a directory holds nothing that a run made or another program put there; one that is not there is blank too.
fn is_blank(root: &Path) -> bool {
    let mut entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.all(|entry| BEGINNINGS.iter().any(|name| entry.file_name() == *name))
}

/// Removes what a killed owner was writing: nothing reads it.
fn remove_leftovers(root: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("final.tmp-") || name == REHEARSAL {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// `runs/<name>`, numbered from the second on: the one after the newest, or the newest itself to resume it.
fn choose(parent: &Path, name: &str, resume: bool) -> PathBuf {
    let number = |dir: &str| match dir.strip_prefix(name)? {
        "" => Some(1),
        rest => rest.strip_prefix('-')?.parse::<u32>().ok().filter(|&n| n > 1),
    };
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let newest = entries.filter_map(|entry| number(&entry.file_name().to_string_lossy())).max();
    let chosen = match newest {
        Some(newest) if resume => newest,
        Some(newest) => newest + 1,
        None => 1,
    };
    parent.join(if chosen == 1 { name.to_owned() } else { format!("{name}-{chosen}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_numbered_after_the_newest() {
        let parent = tempfile::tempdir().unwrap();
        let check = |resume, expected: &str| {
            assert_eq!(choose(parent.path(), "chats", resume), parent.path().join(expected));
        };
        check(false, "chats");
        check(true, "chats");
        for dir in ["chats", "chats-3", "chats-old", "other-7"] {
            fs::create_dir(parent.path().join(dir)).unwrap();
        }
        check(false, "chats-4");
        check(true, "chats-3");
    }
}
