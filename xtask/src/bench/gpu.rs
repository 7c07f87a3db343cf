//! `cargo xtask bench gpu`: what is to be known of one NVIDIA GPU, by a package that runs wherever PyTorch 2.11 is.
//!
//! The package holds the program, which links libtorch and finds CUDA at run time, and a script that finds libtorch in
//! the machine's PyTorch. Where a GPU is here it is run at once, otherwise carried to one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::command::{Cmd, in_root};
use crate::{build, setup};

const SCRIPT: &str = include_str!("gpu.sh");
/// What a package may weigh, so that it can be carried by anything.
const MOST_BYTES: u64 = 64 << 20;

/// Builds, packs, and runs where there is a GPU; `--pack` leaves it at the package.
///
/// # Errors
/// The program does not build, the package is too large, or a part of the benchmark failed.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let (pack, rest) = match arguments.split_first() {
        Some((first, rest)) if first == "--pack" => (true, rest),
        _ => (false, arguments),
    };
    let libtorch = setup::ensure(false)?;
    let package = package(&built(&libtorch)?)?;
    let archive = archive(&package)?;
    let gpu = setup::nvidia_gpu();
    let dry = rest.iter().any(|word| word == "--cpu-dry-run");
    if pack || !(gpu || dry) {
        println!(
            "{}{} ({:.1} MB) is to be unpacked on a machine with a GPU and PyTorch 2.11, and run there by \
             `tunesmith-gpu/run.sh`",
            if gpu { "" } else { "no NVIDIA driver answers here: " },
            archive.display(),
            std::fs::metadata(&archive)?.len() as f64 / 1e6
        );
        return Ok(());
    }
    let command =
        Cmd::new(package.join("run.sh")).args(rest).env("TORCH_LIB", libtorch.folder().join("lib"));
    if !command.succeeds()? {
        bail!("`{}` failed; what failed is said above", command.display());
    }
    Ok(())
}

/// The program, compiled.
fn built(libtorch: &setup::Libtorch) -> Result<PathBuf> {
    let command =
        Cmd::cargo("build --release --package tunesmith-train --example gpu --manifest-path")
            .args([in_root("Cargo.toml")])
            .env("LIBTORCH", libtorch.folder());
    if !command.succeeds()? {
        bail!("`{}` failed; the compiler's own message is above", command.display());
    }
    let binary = build::binary()?;
    let folder = binary.parent().context("the release binary has no folder")?;
    Ok(folder.join("examples/gpu"))
}

/// Lays the program, without its symbols, and the script into a folder beside it.
fn package(program: &Path) -> Result<PathBuf> {
    let target = program.ancestors().nth(3).context("the program has no target folder")?;
    let package = target.join("package/tunesmith-gpu");
    std::fs::create_dir_all(&package).with_context(|| cannot_write(&package))?;
    let copy = package.join("gpu");
    std::fs::copy(program, &copy).with_context(|| cannot_write(&copy))?;
    let strip = Cmd::new("strip").args([&copy]);
    if !strip.to_std().stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("`{}` failed: the symbols travel, too", strip.display());
    }
    let script = package.join("run.sh");
    std::fs::write(&script, SCRIPT).with_context(|| cannot_write(&script))?;
    make_executable(&script)?;
    Ok(package)
}

#[cfg(unix)]
fn make_executable(script: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(script, mode).with_context(|| cannot_write(script))
}

#[cfg(not(unix))]
fn make_executable(_script: &Path) -> Result<()> {
    bail!("the package is made for Linux, on Linux")
}

/// The package as one file.
fn archive(package: &Path) -> Result<PathBuf> {
    let (parent, name) =
        package.parent().zip(package.file_name()).context("a package has a folder")?;
    let archive = parent.join("tunesmith-gpu.tar.gz");
    let command = Cmd::new("tar").args(["-C".into(), parent.as_os_str().to_owned(), "-czf".into()]);
    let command = command.args([archive.as_os_str(), name]);
    if !command.succeeds()? {
        bail!("`{}` failed", command.display());
    }
    let bytes = std::fs::metadata(&archive)?.len();
    if bytes > MOST_BYTES {
        bail!("{}: expected at most {MOST_BYTES} bytes, found {bytes}", archive.display());
    }
    Ok(archive)
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the script does with a program that shows what it was given, beside a PyTorch of this version.
    fn run_script(folder: &Path, version: &str) -> (Option<i32>, String) {
        let torch = folder.join("site/torch");
        std::fs::create_dir_all(torch.join("lib")).unwrap();
        std::fs::create_dir_all(folder.join("site/nvidia/cu13/lib")).unwrap();
        std::fs::write(torch.join("version.py"), format!("__version__ = '{version}'\n")).unwrap();
        let program = folder.join("program");
        std::fs::write(&program, "#!/bin/sh\necho \"$LD_LIBRARY_PATH $*\"\nexit 3\n").unwrap();
        make_executable(&program).unwrap();
        let output = std::process::Command::new(package_of(folder, &program).join("run.sh"))
            .args(["--seconds", "9"])
            .env("LD_LIBRARY_PATH", "/given")
            .env("TORCH_LIB", torch.join("lib"))
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    fn package_of(folder: &Path, program: &Path) -> PathBuf {
        let place = folder.join("target/release/examples/gpu");
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::copy(program, &place).unwrap();
        package(&place).unwrap()
    }

    #[test]
    fn the_script_finds_libtorch_and_hands_on_how_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (code, text) = run_script(folder.path(), "2.11.0+cu130");
        let lib = folder.path().join("site/torch/lib");
        assert_eq!(code, Some(3), "{text}");
        let nvidia = lib.join("../../nvidia/cu13/lib");
        assert!(text.starts_with(&format!("{}:{}", lib.display(), nvidia.display())), "{text}");
        assert!(text.contains(":/given --seconds 9"), "{text}");
    }

    #[test]
    fn another_pytorch_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (code, text) = run_script(folder.path(), "2.10.1");
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("expected PyTorch 2.11, found 2.10.1"), "{text}");
    }

    #[test]
    fn a_package_is_one_small_file() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        let archive = archive(&package_of(folder.path(), &program)).unwrap();
        assert!(archive.ends_with("target/package/tunesmith-gpu.tar.gz"));
        let list = std::process::Command::new("tar").arg("-tzf").arg(&archive).output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        let mut names: Vec<&str> = list.lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["tunesmith-gpu/", "tunesmith-gpu/gpu", "tunesmith-gpu/run.sh"]);
    }
}
