//! The commit protocol: a folder appears whole or not at all, whatever breaks off.
//!
//! Write beside the target on the same file system → fsync every file → fsync the folder → rename without replacing →
//! fsync the parent. Only then may anything older be removed. After an error the half-written folder is thrown away, and
//! with it every file whose fsync failed: a second fsync of the same file may report success for lost pages.

use super::disk::{Disk, parent};
use crate::TrainError;
use std::{
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
    let disk = Disk::default();
    commit(&disk, target, needed, |dir| {
        write(dir)?;
        disk.sync_tree(dir)
    })
}

/// The same, where `write` itself waits until each of its files is on the disk.
pub(super) fn commit(
    disk: &Disk,
    target: &Path,
    needed: u64,
    write: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let parent = parent(target);
    disk.make_dirs(parent)?;
    check_space(parent, needed)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let staging = parent.join(format!("{name}.tmp-{}", std::process::id()));
    if staging.exists() {
        disk.remove_tree(&staging)?;
    }
    let result = disk
        .make_dir(&staging)
        .and_then(|()| write(&staging))
        .and_then(|()| disk.sync(&staging))
        .and_then(|()| disk.rename_new(&staging, target))
        .and_then(|()| disk.sync(parent));
    result.map_err(|error| {
        let free = free_bytes(parent).unwrap_or_default();
        let _ = disk.remove_tree(&staging); // the first error is the one to tell
        error.while_writing(target, needed, free)
    })
}

/// Committed checkpoints with their steps, oldest step first.
pub(super) fn committed(disk: &Disk, root: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let step = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("step-")?.parse::<u64>().ok()
    };
    let mut steps: Vec<_> =
        disk.list(root)?.into_iter().filter_map(|path| Some((step(&path)?, path))).collect();
    steps.sort(); // by step: clocks lie
    Ok(steps)
}

/// Checkpoints that were set aside because a run went on from an earlier step, with their steps.
pub(super) fn later(disk: &Disk, root: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let step = |path: &Path| {
        let name = path.file_name()?.to_str()?.strip_prefix("later-")?;
        name.rsplit_once("step-")?.1.parse::<u64>().ok()
    };
    Ok(disk.list(root)?.into_iter().filter_map(|path| Some((step(&path)?, path))).collect())
}

/// Removes a committed folder so that no moment shows half of it.
pub(super) fn discard(disk: &Disk, dir: &Path) -> Result<(), TrainError> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let trash = dir.with_file_name(format!(".trash-{name}"));
    if trash.exists() {
        disk.remove_tree(&trash)?;
    }
    disk.rename(dir, &trash)?;
    disk.sync(parent(dir))?;
    disk.remove_tree(&trash)
}

/// Removes what broken-off saves and removals left behind.
pub(super) fn sweep(disk: &Disk, root: &Path) -> Result<(), TrainError> {
    for path in disk.list(root)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(".trash-") || name.contains(".tmp-") {
            disk.remove_tree(&path)?;
        }
    }
    Ok(())
}

/// Renames a checkpoint so that no one takes it for one to go on from, and returns its new name.
pub(super) fn set_aside(disk: &Disk, dir: &Path, why: &str) -> Result<PathBuf, TrainError> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let mut aside = dir.with_file_name(format!("{why}-{name}"));
    let mut n = 1;
    while aside.exists() {
        n += 1;
        aside = dir.with_file_name(format!("{why}-{n}-{name}"));
    }
    disk.rename(dir, &aside)?;
    Ok(aside)
}

/// How many checkpoints were set aside as damaged, now or earlier.
pub(super) fn n_corrupt(disk: &Disk, root: &Path) -> Result<usize, TrainError> {
    let is_corrupt = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("corrupt-"))
    };
    Ok(disk.list(root)?.iter().filter(|path| is_corrupt(path)).count())
}

/// Bytes that this user may still write on the file system of `dir`.
///
/// # Errors
/// What the operating system says.
pub fn free_bytes(dir: &Path) -> Result<u64, TrainError> {
    let stat = rustix::fs::statvfs(dir).map_err(|e| TrainError::io(dir)(io::Error::from(e)))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Whether this user may create files in `dir`.
pub fn is_writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

/// A tenth more than `needed` bytes are free where `dir` lies.
///
/// # Errors
/// They are not.
pub fn check_space(dir: &Path, needed: u64) -> Result<(), TrainError> {
    let free = free_bytes(dir)?;
    let needed = needed.saturating_add(needed / 10);
    match needed > free {
        true => Err(TrainError::NoSpace { path: dir.into(), needed, free }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(root: &Path) -> Vec<String> {
        let names = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_nothing_and_a_second_commit_refuses() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("step-000000001");
        let broken = commit_dir(&target, 0, |dir| {
            fs::write(dir.join("half"), "x").unwrap();
            Err(TrainError::BadCheckpoint { path: dir.into(), reason: "made up".into() })
        });
        assert!(broken.is_err());
        assert!(names(root.path()).is_empty());

        let write = |dir: &Path| fs::write(dir.join("whole"), "x").map_err(TrainError::io(dir));
        commit_dir(&target, 0, write).unwrap();
        assert!(commit_dir(&target, 0, write).is_err(), "an existing target is never replaced");
        assert_eq!(committed(&Disk::default(), root.path()).unwrap(), [(1, target)]);
    }

    #[test]
    fn too_little_space_is_said_before_anything_is_written() {
        let root = tempfile::tempdir().unwrap();
        let error = commit_dir(&root.path().join("a"), u64::MAX / 4, |_| Ok(())).unwrap_err();
        assert!(matches!(error, TrainError::NoSpace { .. }), "{error}");
    }

    #[test]
    fn leftovers_are_swept_and_checkpoints_are_not() {
        let (root, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        sweep(&disk, &root.path().join("not there yet")).unwrap();
        for name in ["step-000000003.tmp-7", ".trash-step-000000001", "step-000000002"] {
            fs::create_dir_all(root.path().join(name).join("folder")).unwrap();
            fs::write(root.path().join(name).join("file"), "x").unwrap();
        }
        sweep(&disk, root.path()).unwrap();
        assert_eq!(names(root.path()), ["step-000000002"]);
        discard(&disk, &root.path().join("step-000000002")).unwrap();
        assert!(names(root.path()).is_empty());
    }
}
