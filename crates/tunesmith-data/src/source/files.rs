//! From paths, folders and patterns to the data files they name, in sorted order.

use super::format::{Format, ending};
use crate::DataError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The data files that `paths` name: files as they are, folders and glob patterns expanded and sorted by name.
///
/// A folder gives its `.parquet`, `.arrow`, `.jsonl`, `.ndjson`, `.csv` and `.tsv` files, those of its subfolders too,
/// also where `.gz` or `.zst` follows; `.json` files only where it has none of these, because data sets keep
/// descriptions of themselves there; `.txt` files only where it has no other. Hidden files are passed over.
///
/// # Errors
/// A path, pattern or folder that gives no data file, and a folder whose files are of several formats.
pub fn expand<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for path in paths.iter().map(AsRef::as_ref) {
        if path.is_dir() {
            let found = folder(path)?;
            if found.is_empty() {
                return Err(DataError::NoDataFile { path: path.into() });
            }
            files.extend(found);
        } else if path.exists() {
            files.push(path.into());
        } else if path.to_string_lossy().contains(['*', '?', '[']) {
            files.extend(pattern(path)?);
        } else {
            return Err(DataError::NoSuchFile { path: path.into(), help: nearby(path) });
        }
    }
    Ok(files)
}

fn pattern(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let bad_pattern = |problem: glob::PatternError| DataError::Config {
        place: path.display().to_string(),
        problem: format!("not a pattern: {problem}"),
        help: None,
    };
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
    let mut files = Vec::new();
    for entry in glob::glob_with(&path.to_string_lossy(), options).map_err(bad_pattern)? {
        let entry = entry.map_err(|error| {
            let path = error.path().to_path_buf();
            DataError::io(&path, error.into())
        })?;
        if entry.is_file() {
            files.push(entry);
        }
    }
    files.sort();
    if files.is_empty() { Err(DataError::NoDataFile { path: path.into() }) } else { Ok(files) }
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut all = Vec::new();
    walk(path, &mut all)?;
    all.sort();
    // What is looked for first: files of rows, then JSON, then text.
    let rank = |file: &PathBuf| match (Format::of_name(file)?, ending(file).as_str()) {
        (Format::Json, "json") => Some((1, "json")),
        (Format::Json, _) => Some((0, "jsonl")),
        (Format::Parquet, _) => Some((0, "parquet")),
        (Format::Arrow, _) => Some((0, "arrow")),
        (Format::Csv, _) => Some((0, "csv")),
        (Format::Text, _) => Some((2, "txt")),
    };
    let Some(best) = all.iter().filter_map(rank).map(|(rank, _)| rank).min() else {
        return Ok(Vec::new());
    };
    all.retain(|file| rank(file).is_some_and(|(rank, _)| rank == best));
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, kind) in all.iter().filter_map(rank) {
        *kinds.entry(kind).or_default() += 1;
    }
    if kinds.len() > 1 {
        let found = kinds.iter().map(|(kind, n)| format!("{n} × .{kind}"));
        let (found, first) =
            (found.collect::<Vec<_>>().join(", "), kinds.keys().next().copied().unwrap_or("jsonl"));
        return Err(DataError::MixedFolder { path: path.into(), found, first: first.into() });
    }
    Ok(all)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    for entry in std::fs::read_dir(folder).map_err(|error| DataError::io(folder, error))? {
        let entry = entry.map_err(|error| DataError::io(folder, error))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        // a link to a folder is not followed: it may lead back up
        if entry.file_type().map_err(|error| DataError::io(&path, error))?.is_dir() {
            walk(&path, files)?;
        } else if path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// "did you mean", among the names in the same folder.
fn nearby(path: &Path) -> Option<String> {
    let folder =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Some(format!("the folder {} does not exist either", folder.display()));
    };
    let names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let wanted = path.file_name()?.to_string_lossy().into_owned();
    let near = crate::suggest::nearest(&wanted, names.iter().map(String::as_str))?;
    Some(format!("did you mean {}", folder.join(near).display()))
}
