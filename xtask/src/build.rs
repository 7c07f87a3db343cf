//! `cargo xtask build`: the release binary, linked against this machine's libtorch.
//!
//! The run path to libtorch comes from the build script of the `tunesmith` package, so that no flag of the compiler
//! changes and nothing is compiled twice.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{Cmd, in_root};
use crate::setup;

/// Sets up libtorch and builds; with `dry_run` prints the commands. The path of the binary.
///
/// # Errors
/// Setup failed or the code does not compile.
pub(crate) fn build(cuda: bool, dry_run: bool) -> Result<PathBuf> {
    let libtorch = if dry_run { setup::Libtorch::choose(cuda)? } else { setup::ensure(cuda)? };
    let command = command(&libtorch);
    let binary = binary()?;
    if dry_run {
        if !libtorch.is_finished() {
            println!("cargo xtask setup{}", if cuda { " --cuda" } else { "" });
        }
        println!("{}", command.display());
    } else if !command.succeeds()? {
        bail!(
            "tunesmith does not build; the compiler's own message is above\n\
             help: `cargo xtask doctor` says whether a compiler is missing"
        );
    }
    Ok(binary)
}

fn command(libtorch: &setup::Libtorch) -> Cmd {
    Cmd::cargo("build --release --package tunesmith --manifest-path")
        .args([in_root("Cargo.toml")])
        .env("LIBTORCH", libtorch.folder())
}

/// Where the release binary is, or will be.
///
/// # Errors
/// cargo cannot read the workspace.
pub(crate) fn binary() -> Result<PathBuf> {
    let metadata = metadata(&["--no-deps"])?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target_directory")?;
    Ok(PathBuf::from(target).join("release").join("tunesmith"))
}

/// `cargo metadata` of this workspace.
///
/// # Errors
/// cargo cannot read the workspace.
pub(crate) fn metadata(arguments: &[&str]) -> Result<Value> {
    let command = Cmd::cargo("metadata --format-version 1 --manifest-path")
        .args([in_root("Cargo.toml")])
        .args(arguments);
    let output = command
        .to_std()
        .output()
        .with_context(|| format!("cannot start `{}`", command.display()))?;
    if !output.status.success() {
        bail!(
            "`{}` failed:\n{}",
            command.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    serde_json::from_slice(&output.stdout).context("the output of cargo metadata is not JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_lies_in_the_release_folder() {
        assert!(binary().unwrap().ends_with("release/tunesmith"));
    }

    #[test]
    fn the_build_is_one_command() {
        let text = command(&setup::Libtorch::Given("/opt/libtorch".into())).display();
        assert!(
            text.starts_with("LIBTORCH=/opt/libtorch cargo build --release --package tunesmith"),
            "{text}"
        );
    }
}
