//! The commit protocol: a folder appears whole or not at all, whatever breaks off.
//!
//! Write beside the target on the same file system → fsync every file → fsync the folder → rename without replacing →
//! fsync the parent. Only then may anything older be removed. After an error the half-written folder is thrown away.

use crate::TrainError;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Fills a new folder by `write` and commits it as `target`.
///
/// # Errors
/// Less than `needed` bytes (and a tenth) free; an existing `target`; what `write` or the operating system says.
pub fn commit_dir(
    target: &Path,
    needed: u64,
    write: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let parent = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(TrainError::io(parent))?;
    check_space(parent, needed)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let staging = parent.join(format!("{name}.tmp-{}", std::process::id()));
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(TrainError::io(&staging))?;
    }
    let result = fs::create_dir(&staging)
        .map_err(TrainError::io(&staging))
        .and_then(|()| write(&staging))
        .and_then(|()| sync_tree(&staging))
        .and_then(|()| {
            let renamed = renameat_with(CWD, &staging, CWD, target, RenameFlags::NOREPLACE);
            match renamed {
                // File systems without this flag, such as NFS.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    rename_checked(&staging, target)
                }
                renamed => renamed.map_err(io::Error::from),
            }
            .map_err(TrainError::io(target))
        })
        .and_then(|()| sync(parent));
    if result.is_err() {
        let _ = fs::remove_dir_all(&staging); // the first error is the one to tell
    }
    result
}

/// Renames unless `target` exists. Between check and rename nobody else writes there: a run has its directory locked.
fn rename_checked(staging: &Path, target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::rename(staging, target),
        Err(e) => Err(e),
    }
}

/// Committed checkpoints, oldest step first.
pub(super) fn committed(root: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let mut steps = Vec::new();
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(TrainError::io(root)(e)),
    };
    for entry in entries {
        let path = entry.map_err(TrainError::io(root))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()) {
            steps.push((step, path));
        }
    }
    steps.sort(); // by step: clocks lie
    Ok(steps.into_iter().map(|(_, path)| path).collect())
}

/// Removes all but the newest `keep`.
pub(super) fn prune(root: &Path, keep: usize) -> Result<(), TrainError> {
    let steps = committed(root)?;
    for dir in &steps[..steps.len().saturating_sub(keep)] {
        let trash = dir.with_file_name(format!(
            ".trash-{}",
            dir.file_name().unwrap_or_default().to_string_lossy()
        ));
        fs::rename(dir, &trash).map_err(TrainError::io(dir))?;
    }
    sync(root)?;
    sweep(root)
}

/// Removes what broken-off saves and removals left behind.
pub(super) fn sweep(root: &Path) -> Result<(), TrainError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(TrainError::io(root)(e)),
    };
    for entry in entries {
        let path = entry.map_err(TrainError::io(root))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(".trash-") || name.contains(".tmp-") {
            fs::remove_dir_all(&path).map_err(TrainError::io(path))?;
        }
    }
    Ok(())
}

/// Renames a damaged checkpoint so that no one takes it for a good one, and returns its new name.
pub(super) fn set_aside(dir: &Path) -> Result<PathBuf, TrainError> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let mut aside = dir.with_file_name(format!("corrupt-{name}"));
    let mut n = 1;
    while aside.exists() {
        n += 1;
        aside = dir.with_file_name(format!("corrupt-{n}-{name}"));
    }
    fs::rename(dir, &aside).map_err(TrainError::io(dir))?;
    Ok(aside)
}

/// How many checkpoints were set aside, now or earlier.
pub(super) fn n_aside(root: &Path) -> Result<usize, TrainError> {
    match fs::read_dir(root) {
        Ok(entries) => {
            let names = entries.flatten().map(|entry| entry.file_name());
            Ok(names.filter(|name| name.to_string_lossy().starts_with("corrupt-")).count())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(TrainError::io(root)(e)),
    }
}

/// Bytes that this user may still write on the file system of `dir`.
///
/// # Errors
/// What the operating system says.
pub fn free_bytes(dir: &Path) -> Result<u64, TrainError> {
    let stat = rustix::fs::statvfs(dir).map_err(|e| TrainError::io(dir)(e.into()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Whether this user may create files in `dir`.
pub fn is_writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

fn check_space(dir: &Path, needed: u64) -> Result<(), TrainError> {
    let free = free_bytes(dir)?;
    if needed + needed / 10 > free {
        return Err(TrainError::NoSpace { path: dir.into(), needed: needed + needed / 10, free });
    }
    Ok(())
}

/// Flushes the files of `dir`, then `dir` itself.
fn sync_tree(dir: &Path) -> Result<(), TrainError> {
    for entry in fs::read_dir(dir).map_err(TrainError::io(dir))? {
        sync(&entry.map_err(TrainError::io(dir))?.path())?;
    }
    sync(dir)
}

fn sync(path: &Path) -> Result<(), TrainError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(TrainError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_nothing_and_a_second_commit_refuses() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("step-000000001");
        let broken = commit_dir(&target, 0, |dir| {
            fs::write(dir.join("half"), "x").unwrap();
            Err(TrainError::BadCheckpoint { path: dir.into(), reason: "made up".into() })
        });
        assert!(broken.is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);

        let write = |dir: &Path| fs::write(dir.join("whole"), "x").map_err(TrainError::io(dir));
        commit_dir(&target, 0, write).unwrap();
        assert!(commit_dir(&target, 0, write).is_err(), "an existing target is never replaced");
        assert_eq!(committed(root.path()).unwrap(), [target]);
    }

    #[test]
    fn too_little_space_is_said_before_anything_is_written() {
        let root = tempfile::tempdir().unwrap();
        let error = commit_dir(&root.path().join("a"), u64::MAX / 4, |_| Ok(())).unwrap_err();
        assert!(matches!(error, TrainError::NoSpace { .. }), "{error}");
    }

    #[test]
    fn without_the_flag_an_existing_target_is_not_replaced_either() {
        let root = tempfile::tempdir().unwrap();
        let (staging, target) = (root.path().join("new"), root.path().join("target"));
        fs::create_dir(&staging).unwrap();
        rename_checked(&staging, &target).unwrap();
        fs::create_dir(&staging).unwrap();
        let error = rename_checked(&staging, &target).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(staging.exists());
    }

    #[test]
    fn leftovers_are_swept_and_checkpoints_are_not() {
        let root = tempfile::tempdir().unwrap();
        sweep(&root.path().join("not there yet")).unwrap();
        for name in ["step-000000003.tmp-7", ".trash-step-000000001", "step-000000002"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        sweep(root.path()).unwrap();
        let left: Vec<_> =
            fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["step-000000002"]);
    }

    #[test]
    fn prune_keeps_the_newest_by_step() {
        let root = tempfile::tempdir().unwrap();
        for name in ["step-000000009", "step-000000010", "step-000000100", "step-000000011.tmp-7"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        prune(root.path(), 2).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["step-000000010", "step-000000100"]);
    }
}
