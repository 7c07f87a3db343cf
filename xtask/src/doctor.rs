//! `cargo xtask doctor`: what this machine has of what a build needs; then the binary's own doctor.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::command::Cmd;
use crate::setup::{Libtorch, nvidia_gpu};
use crate::{build, fetch};

/// One line of the report: the thing, and what was found or what is wrong.
struct Finding {
    thing: &'static str,
    found: Result<String>,
}

/// Prints the findings, then runs `tunesmith doctor` where it is built.
///
/// # Errors
/// Something that the build needs is missing.
pub(crate) fn doctor(arguments: Vec<OsString>) -> Result<()> {
    let findings = [
        Finding {
            thing: "rustc",
            found: version("rustc", "--version", "install Rust from https://rustup.rs"),
        },
        Finding { thing: "C++ compiler", found: compiler() },
        Finding { thing: "python3 with pip", found: pip() },
        Finding {
            thing: "NVIDIA driver",
            found: Ok(if nvidia_gpu() { "loaded" } else { "none, using the CPU" }.into()),
        },
        Finding { thing: "libtorch", found: libtorch() },
    ];
    let mut missing = 0;
    for Finding { thing, found } in &findings {
        match found {
            Ok(text) => println!("{thing:<18} {text} ✓"),
            Err(error) => {
                missing += 1;
                let text = crate::message(error);
                let (head, rest) = text.split_once('\n').unwrap_or((&text, ""));
                println!("{thing:<18} {head} ✗");
                rest.lines().for_each(|line| println!("{:<18} {line}", ""));
            }
        }
    }
    let binary = build::binary()?;
    if binary.is_file() {
        let mut command = Cmd::new(&binary).args(arguments).to_std();
        if missing == 0 {
            return Err(command.exec())
                .with_context(|| format!("cannot start {}", binary.display()));
        }
        command.status().with_context(|| format!("cannot start {}", binary.display()))?;
    } else {
        println!("{:<18} not built yet; `cargo xtask build` builds it", "tunesmith");
    }
    if missing > 0 {
        bail!("{missing} of {} things are missing", findings.len());
    }
    Ok(())
}

fn version(program: &str, flag: &str, help: &str) -> Result<String> {
    let output = Command::new(program).arg(flag).output();
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()),
        Ok(_) => Err(anyhow!("`{program} {flag}` fails\nhelp: {help}")),
        Err(error) => Err(anyhow!("{program}: {error}\nhelp: {help}")),
    }
}

/// The compiler that the `cc` crate takes: `CXX`, else `c++`.
fn compiler() -> Result<String> {
    let program = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    version(&program, "--version", "apt-get install g++ (or your system's equivalent)")
}

fn pip() -> Result<String> {
    let (major, minor) = fetch::pip_version()?;
    let python = version("python3", "--version", "apt-get install python3")?;
    Ok(format!("{python}, pip {major}.{minor}"))
}

fn libtorch() -> Result<String> {
    let libtorch = Libtorch::choose(false)?;
    let folder = libtorch.folder().display();
    if !libtorch.is_finished() {
        bail!("not there yet ({folder})\nhelp: cargo xtask setup");
    }
    let version = fs::read_to_string(libtorch.folder().join("build-version"))
        .unwrap_or_else(|_| "of unknown version".into());
    Ok(format!("{} ({folder})", version.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_a_way_out() {
        let message =
            version("no-such-compiler", "--version", "apt-get install it").unwrap_err().to_string();
        assert!(
            message.starts_with("no-such-compiler: ")
                && message.ends_with("\nhelp: apt-get install it"),
            "{message}"
        );
        assert!(version("rustc", "--version", "").unwrap().starts_with("rustc "));
    }
}
