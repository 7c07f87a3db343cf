//! The run directory: its files, its one owner, and which directory a command means.

use crate::exit::{Exit, Failure};
use anyhow::{Context, Result};
use std::{
    fs::{self, File, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

/// A run directory that this process owns until it ends.
pub(crate) struct RunDir {
    root: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Creates or takes over the directory of a run.
    ///
    /// Without `out` it is `runs/<name>`, or the first of `runs/<name>-2`, … that is free; with `resume` the newest of
    /// them that exists.
    pub(crate) fn open(out: Option<&Path>, name: &str, resume: bool) -> Result<Self> {
        let root = match out {
            Some(out) => out.to_path_buf(),
            None => choose(Path::new("runs"), name, resume),
        };
        let holds_a_run = root.join("recipe.toml").exists() || root.join("checkpoints").exists();
        let foreign = root.is_dir()
            && !holds_a_run
            && fs::read_dir(&root).is_ok_and(|mut d| d.next().is_some());
        if foreign || (holds_a_run && !resume) {
            let what = if foreign { "holds other files" } else { "holds a run" };
            let help = "continue it with --resume, or choose another place with --out";
            let text = format!("{}: the directory already {what}\nhelp: {help}", root.display());
            return Err(Failure(Exit::CannotCreate, text).into());
        }
        let cannot = |e: std::io::Error| {
            Failure(
                Exit::CannotCreate,
                format!("{}: {e}\nhelp: choose another place with --out", root.display()),
            )
        };
        fs::create_dir_all(&root).map_err(cannot)?;
        let lock = lock(&root)?;
        Ok(Self { root, _lock: lock })
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
        self.root.join("final")
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

/// `runs/<name>`, numbered from the second on.
fn choose(parent: &Path, name: &str, resume: bool) -> PathBuf {
    let numbered =
        |n: u32| parent.join(if n == 1 { name.to_owned() } else { format!("{name}-{n}") });
    let free = (1..).find(|&n| !numbered(n).exists()).unwrap_or(1);
    numbered(if resume && free > 1 { free - 1 } else { free })
}

/// Takes the lock of a run directory, or says who has it. The system drops it when the process ends, however it ends.
fn lock(root: &Path) -> Result<File, Failure> {
    let path = root.join(".lock");
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(
            |e| {
                let text =
                    format!("{}: {e}\nhelp: choose another place with --out", path.display());
                Failure(Exit::CannotCreate, text)
            },
        )?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = file.read_to_string(&mut owner); // an unreadable owner is still an owner
            let text = format!(
                "{}: another process runs here: {}\nhelp: wait for it, or choose another place with --out",
                root.display(),
                owner.trim()
            );
            return Err(Failure(Exit::CannotCreate, text));
        }
        Err(TryLockError::Error(e)) => {
            return Err(Failure(Exit::CannotCreate, format!("{}: cannot be locked: {e}", path.display())));
        }
    }
    let machine = tunesmith_report::Machine::read();
    let started = tunesmith_report::format::utc(std::time::SystemTime::now());
    let owner = format!("host {}, pid {}, since {started}\n", machine.hostname, std::process::id());
    let said = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(owner.as_bytes()));
    said.map_err(|e| Failure(Exit::CannotCreate, format!("{}: {e}", path.display())))?;
    Ok(file)
}
