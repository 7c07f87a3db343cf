//! `cargo xtask setup`: a libtorch folder on this machine, once.
//!
//! `LIBTORCH`, where set, wins. Otherwise `<cache>/tunesmith/libtorch-<version>-<side>` is assembled from wheels:
//! in a sibling folder first, with the list of its libraries written last, then renamed. A folder whose list is
//! there and true is finished, and the next run does nothing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::fetch::{fetch, length};
use crate::wheels::{self, Side, TORCH_VERSION, Wheel};

/// The list of libraries with their lengths, written last: `<bytes> <path>` per line.
const MARKER: &str = "tunesmith-setup.txt";

/// Where a libtorch is, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Libtorch {
    /// The user's own: `LIBTORCH`.
    Given(PathBuf),
    /// The one that setup assembles.
    Ours(Side, PathBuf),
}

impl Libtorch {
    /// Decides which libtorch this machine uses; touches nothing.
    ///
    /// # Errors
    /// `LIBTORCH` does not hold a libtorch, or the cache folder cannot be named.
    pub(crate) fn choose(cuda: bool) -> Result<Self> {
        if let Some(folder) = std::env::var_os("LIBTORCH").filter(|value| !value.is_empty()) {
            let folder = std::path::absolute(folder)?; // the run path of the binary is made from it
            if !folder.join("lib/libtorch_cpu.so").is_file() {
                bail!(
                    "LIBTORCH={} holds no lib/libtorch_cpu.so\n\
                     help: point it to an unpacked libtorch {TORCH_VERSION}, or unset it to have one fetched",
                    folder.display()
                );
            }
            return Ok(Libtorch::Given(folder));
        }
        let cache = cache_dir()?;
        let side =
            |side| Libtorch::Ours(side, cache.join(format!("libtorch-{TORCH_VERSION}-{side}")));
        let with_cuda = side(Side::Cuda);
        Ok(if cuda || with_cuda.is_finished() || nvidia_gpu() {
            with_cuda
        } else {
            side(Side::Cpu)
        })
    }

    /// The folder with `lib/` and `include/`.
    pub(crate) fn folder(&self) -> &Path {
        match self {
            Libtorch::Given(folder) | Libtorch::Ours(_, folder) => folder,
        }
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_finished(&self) -> bool {
        match self {
            Libtorch::Given(_) => true,
            Libtorch::Ours(_, folder) => is_finished(folder),
        }
    }
}

/// `cargo xtask setup`.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn run(cuda: bool, dry_run: bool) -> Result<()> {
    let libtorch = if dry_run { Libtorch::choose(cuda)? } else { ensure(cuda)? };
    if let (Libtorch::Ours(side, _), false) = (&libtorch, libtorch.is_finished()) {
        for wheel in wheels::pinned(*side, std::env::consts::OS, std::env::consts::ARCH)? {
            println!("fetch  {}", wheel.file);
        }
        println!("unpack {}", libtorch.folder().display());
    } else {
        println!("LIBTORCH={}", libtorch.folder().display());
    }
    Ok(())
}

/// The libtorch of this machine, fetched and assembled if it is not there yet.
///
/// # Errors
/// It cannot be fetched, does not fit the disk, or cannot be written.
pub(crate) fn ensure(cuda: bool) -> Result<Libtorch> {
    let libtorch = Libtorch::choose(cuda)?;
    if let Libtorch::Ours(side, folder) = &libtorch {
        ensure_side(*side, folder)?;
    }
    Ok(libtorch)
}

/// Fetches the compiler of GPU kernels, NVRTC, if it is not there yet.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_nvrtc() -> Result<()> {
    ensure_side(Side::Nvrtc, &nvrtc_folder()?)
}

/// Where that compiler is, or would be.
///
/// # Errors
/// The cache folder cannot be named.
pub(crate) fn nvrtc_folder() -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("libtorch-{TORCH_VERSION}-{}", Side::Nvrtc)))
}

fn ensure_side(side: Side, folder: &Path) -> Result<()> {
    if !is_finished(folder) {
        let cache = folder.parent().context("the cache folder has no parent")?;
        fs::create_dir_all(cache).with_context(|| cannot_write(cache))?;
        let lock = File::create(cache.join("setup.lock")).with_context(|| cannot_write(cache))?;
        if lock.try_lock().is_err() {
            eprintln!("another setup is at work; waiting for it");
            lock.lock().with_context(|| format!("cannot lock {}/setup.lock", cache.display()))?;
        }
        if !is_finished(folder) {
            assemble(side, folder)?;
        }
    }
    Ok(())
}

fn cannot_write(folder: &Path) -> String {
    format!(
        "cannot write to {}\nhelp: set XDG_CACHE_HOME to a folder with room, or LIBTORCH to a libtorch {TORCH_VERSION}",
        folder.display()
    )
}

fn assemble(side: Side, folder: &Path) -> Result<()> {
    let began = Instant::now();
    let cache = folder.parent().context("the cache folder has no parent")?;
    let wheels = wheels::pinned(side, std::env::consts::OS, std::env::consts::ARCH)?;
    let downloads = cache.join("wheels");
    let missing: u64 = wheels
        .iter()
        .map(|wheel| {
            wheel.bytes - length(&downloads.join(&wheel.file)).unwrap_or(0).min(wheel.bytes)
        })
        .sum();
    let unpacked: u64 = wheels.iter().map(|wheel| 2 * wheel.bytes).sum(); // libraries deflate to about half
    eprintln!(
        "libtorch {TORCH_VERSION} ({side}) goes to {}; {:.0} MB to fetch",
        folder.display(),
        missing as f64 / 1e6
    );
    check_room(cache, missing + unpacked)?;
    fetch(&wheels, &downloads)?;

    let beside = cache.join(format!(".libtorch-{TORCH_VERSION}-{side}.assembling"));
    remove(&beside)?;
    eprintln!("unpacking");
    let mut list = String::new();
    for wheel in &wheels {
        unpack(wheel, &downloads, side, &beside, &mut list)
            .with_context(|| format!("cannot unpack {} into {}", wheel.file, beside.display()))?;
    }
    fs::write(beside.join("build-version"), TORCH_VERSION)?; // torch-sys compares it with the version it wants
    let draft = beside.join(format!("{MARKER}.draft"));
    fs::write(&draft, &list)?;
    File::open(&draft)?.sync_all()?;
    fs::rename(&draft, beside.join(MARKER))?;
    let replaced = cache.join(format!(".libtorch-{TORCH_VERSION}-{side}.replaced"));
    remove(&replaced)?;
    if folder.exists() {
        fs::rename(folder, &replaced)?; // what was there had no list or other lengths
    }
    fs::rename(&beside, folder).with_context(|| cannot_write(cache))?;
    remove(&replaced)?;
    remove(&downloads)?;
    eprintln!(
        "libtorch {TORCH_VERSION} ({side}) is ready after {:.0} s",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Extracts what `side` needs of a wheel; adds the libraries to `list`.
fn unpack(
    wheel: &Wheel,
    downloads: &Path,
    side: Side,
    folder: &Path,
    list: &mut String,
) -> Result<()> {
    let mut archive =
        zip::ZipArchive::new(io::BufReader::new(File::open(downloads.join(&wheel.file))?))?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let Some(name) =
            wheels::destination(wheel, &entry.name()?, side).filter(|_| entry.is_file())
        else {
            continue;
        };
        let path = folder.join(&name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file =
            File::create_new(&path).with_context(|| format!("{name} comes from two wheels"))?;
        let written = io::copy(&mut entry, &mut file)?;
        if written != entry.size() {
            bail!("{name}: expected {} bytes, found {written}", entry.size());
        }
        if name.starts_with("lib/") {
            file.sync_all()?;
            list.push_str(&format!("{written} {name}\n"));
        }
    }
    Ok(())
}

/// The list is there, names libraries, and each has its length.
fn is_finished(folder: &Path) -> bool {
    let Ok(list) = fs::read_to_string(folder.join(MARKER)) else { return false };
    let mut lines = list.lines().filter_map(|line| line.split_once(' ')).peekable();
    lines.peek().is_some()
        && lines.all(|(bytes, name)| bytes.parse().ok() == length(&folder.join(name)))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// `$XDG_CACHE_HOME/tunesmith` or `~/.cache/tunesmith`.
///
/// # Errors
/// Neither variable is set.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("tunesmith"))
        .context("there is no place for libtorch: neither XDG_CACHE_HOME nor HOME is set\nhelp: set one of them, or LIBTORCH")
}

/// Whether the NVIDIA driver is loaded here.
pub(crate) fn nvidia_gpu() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
        || Command::new("nvidia-smi")
            .arg("-L")
            .output()
            .is_ok_and(|output| output.stdout.starts_with(b"GPU "))
}

fn check_room(folder: &Path, needed: u64) -> Result<()> {
    let output = Command::new("df").args(["-Pk"]).arg(folder).output();
    let Some(free) =
        output.ok().and_then(|output| free_bytes(&String::from_utf8_lossy(&output.stdout)))
    else {
        return Ok(()); // no df, no forecast: a full disk still ends in an error that names the file
    };
    if free < needed {
        bail!(
            "libtorch needs {:.1} GB in {}, where {:.1} GB are free\n\
             help: make room, or set XDG_CACHE_HOME to a folder on a larger disk",
            needed as f64 / 1e9,
            folder.display(),
            free as f64 / 1e9
        );
    }
    Ok(())
}

/// The `Available` column of `df -Pk`, in bytes.
fn free_bytes(df: &str) -> Option<u64> {
    let fields: Vec<&str> = df.lines().nth(1)?.split_whitespace().collect();
    fields.get(3)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn free_space_is_read_from_df() {
        let text =
            "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda 263 20 72 22% /\n";
        assert_eq!(free_bytes(text), Some(72 * 1024));
        assert_eq!(free_bytes("df: no such file\n"), None);
        let message = check_room(&std::env::temp_dir(), u64::MAX).unwrap_err().to_string();
        assert!(message.contains("help: make room"), "{message}");
    }

    #[test]
    fn only_a_list_whose_libraries_are_whole_counts_as_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("lib")).unwrap();
        fs::write(path.join("lib/libtorch.so"), "12345").unwrap();
        assert!(!is_finished(path), "no list");
        fs::write(path.join(MARKER), "").unwrap();
        assert!(!is_finished(path), "an empty list");
        fs::write(path.join(MARKER), "5 lib/libtorch.so\n").unwrap();
        assert!(is_finished(path));
        fs::write(path.join("lib/libtorch.so"), "1234").unwrap();
        assert!(!is_finished(path), "a library cut short");
    }

    #[test]
    fn a_wheel_is_unpacked_without_what_is_not_needed() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = Wheel { file: "torch-1-x.whl".into(), sha256: String::new(), bytes: 0 };
        let mut zip = zip::ZipWriter::new(File::create(folder.path().join(&wheel.file)).unwrap());
        for name in [
            "torch/lib/libc10.so",
            "torch/lib/libtorch_cuda.so",
            "torch/include/a/b.h",
            "torch/x.py",
        ] {
            zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(name.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
        let (out, mut list) = (folder.path().join("out"), String::new());
        unpack(&wheel, folder.path(), Side::Cpu, &out, &mut list).unwrap();
        assert_eq!(list, "19 lib/libc10.so\n");
        assert_eq!(fs::read_to_string(out.join("include/a/b.h")).unwrap(), "torch/include/a/b.h");
        assert!(!out.join("lib/libtorch_cuda.so").exists() && !out.join("x.py").exists());
        let again = unpack(&wheel, folder.path(), Side::Cpu, &out, &mut list).unwrap_err();
        assert!(format!("{again:#}").contains("lib/libc10.so comes from two wheels"), "{again:#}");
    }
}
