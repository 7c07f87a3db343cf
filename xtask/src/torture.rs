//! `cargo xtask torture`: the long form of the tests that kill, stop and start runs at random moments.
//!
//! The tests are those of `tests/tests/torture.rs`; only their numbers are larger here.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;

use crate::command::{Cmd, in_root};
use crate::setup;

/// A flag, the variable that the tests read, and its value here.
const NUMBERS: [(&str, &str, &str); 3] = [
    ("--kills", "TUNESMITH_KILLS", "1000"),
    ("--signals", "TUNESMITH_SIGNALS", "1000"),
    ("--rounds", "TUNESMITH_OWNERS", "50"),
];

/// Builds the binary and runs the tests.
///
/// # Errors
/// An argument that is no number, a build or a test that fails.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let (numbers, dry_run) = parse(arguments)?;
    let libtorch = if dry_run { setup::Libtorch::choose(false)? } else { setup::ensure(false)? };
    for command in commands(libtorch.folder().into(), &numbers) {
        println!("{}", command.display());
        if !dry_run && !command.succeeds()? {
            bail!(
                "a run did not end as if nothing had happened; TUNESMITH_SEED, above, repeats it"
            );
        }
    }
    Ok(())
}

fn parse(arguments: &[OsString]) -> Result<(Vec<(&'static str, String)>, bool)> {
    let mut numbers: Vec<_> =
        NUMBERS.iter().map(|(_, variable, value)| (*variable, (*value).to_owned())).collect();
    let (mut words, mut dry_run) = (arguments.iter().map(|word| word.to_string_lossy()), false);
    while let Some(word) = words.next() {
        if word == "--dry-run" {
            dry_run = true;
            continue;
        }
        let Some(at) = NUMBERS.iter().position(|(flag, ..)| *flag == word) else {
            bail!(
                "unexpected argument `{word}`: expected --kills N, --signals N, --rounds N or --dry-run"
            );
        };
        let value = words.next().with_context(|| format!("{word}: expected a number after it"))?;
        value
            .parse::<u32>()
            .with_context(|| format!("{word}: expected a number, found `{value}`"))?;
        numbers[at].1 = value.into_owned();
    }
    Ok((numbers, dry_run))
}

fn commands(libtorch: OsString, numbers: &[(&str, String)]) -> [Cmd; 2] {
    let on = |command: Cmd| {
        let lib = std::path::Path::new(&libtorch).join("lib");
        command.env("LIBTORCH", &libtorch).env("LD_LIBRARY_PATH", lib)
    };
    let manifest = in_root("Cargo.toml");
    let build = Cmd::cargo("build --release --package tunesmith --manifest-path");
    let test =
        Cmd::cargo("test --release --package tunesmith-tests --test torture --manifest-path");
    let test = test.args([&manifest]).args(["--", "--nocapture"]);
    let test = numbers.iter().fold(test, |test, (name, value)| test.env(name, value));
    [on(build.args([&manifest])), on(test)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_reach_the_tests() {
        let words = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let (numbers, dry_run) = parse(&words("--kills 7 --dry-run")).unwrap();
        assert!(dry_run);
        let [build, test] = commands("/opt/libtorch".into(), &numbers).map(|c| c.display());
        assert!(build.contains("LIBTORCH=/opt/libtorch"), "{build}");
        for said in ["TUNESMITH_KILLS=7 ", "TUNESMITH_SIGNALS=1000 ", "--test torture"] {
            assert!(test.contains(said), "{said:?} is missing in: {test}");
        }
        let error = parse(&words("--kills many")).unwrap_err().to_string();
        assert_eq!(error, "--kills: expected a number, found `many`");
    }
}
