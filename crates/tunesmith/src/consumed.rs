//! `rows.jsonl`: which rows each step was made of, in order: `{"step":3,"rows":[[12,7],[5]]}`, one list per micro-batch.
//!
//! A run that was interrupted has the same file as one that never was; what a killed run wrote beyond its checkpoint is
//! cut off when it goes on.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// A line.
#[derive(Serialize)]
struct Step<'a> {
    step: u64,
    rows: &'a [Vec<u64>],
}

/// What is read of one.
#[derive(Deserialize)]
struct Head {
    step: u64,
}

/// The open file.
pub(crate) struct RowLog {
    path: PathBuf,
    file: File,
}

impl RowLog {
    /// Goes on after `step`; makes the file where there is none.
    pub(crate) fn resume(path: &Path, step: u64) -> Result<Self> {
        let open = || -> io::Result<File> {
            let mut file = File::options().create(true).append(true).read(true).open(path)?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            let kept = text.split_inclusive(|&byte| byte == b'\n').take_while(|line| {
                line.ends_with(b"\n")
                    && serde_json::from_slice::<Head>(line).is_ok_and(|head| head.step <= step)
            });
            file.set_len(kept.map(<[u8]>::len).sum::<usize>() as u64)?;
            Ok(file)
        };
        let file = open().with_context(|| path.display().to_string())?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Adds a step: one call, so that a killed process leaves a whole line or a torn last one.
    pub(crate) fn write(&mut self, step: u64, rows: &[Vec<u64>]) -> Result<()> {
        let line = serde_json::to_string(&Step { step, rows })? + "\n";
        self.file.write_all(line.as_bytes()).with_context(|| self.path.display().to_string())
    }

    /// Waits until it is on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().with_context(|| self.path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beyond_the_checkpoint_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let write =
            |log: &mut RowLog, step: u64| log.write(step, &[vec![step, 7], vec![5]]).unwrap();
        let mut log = RowLog::resume(&path, 0).unwrap();
        (1..=4).for_each(|step| write(&mut log, step));
        let whole = std::fs::read(&path).unwrap();
        assert!(whole.starts_with(b"{\"step\":1,\"rows\":[[1,7],[5]]}\n"));
        for torn in [3, 40, 70, whole.len() - 1] {
            std::fs::write(&path, &whole[..torn]).unwrap();
            let whole_lines = whole[..torn].iter().filter(|&&byte| byte == b'\n').count() as u64;
            let step = whole_lines.min(2);
            let mut log = RowLog::resume(&path, step).unwrap();
            (step + 1..=4).for_each(|step| write(&mut log, step));
            assert_eq!(std::fs::read(&path).unwrap(), whole, "torn at {torn}");
        }
    }
}
