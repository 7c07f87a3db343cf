//! `cargo xtask test`: everything, cheapest first, as stages that are each one command.
//!
//! What needs no libtorch is tested in the dev profile, as plain `cargo test` does. What needs it is checked and
//! tested in the release profile, so that torch-sys compiles once and the tests run the binary that ships.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::{Cmd, in_root};
use crate::layering::{torch_bound, torch_free};
use crate::setup;

/// Passed and failed tests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    /// Adds a line of the test harness: `test result: ok. 3 passed; 0 failed; …`.
    fn add(&mut self, line: &str) {
        let Some((_, numbers)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in numbers.split("; ") {
            match part.split_once(' ').and_then(|(n, what)| Some((n.parse::<u64>().ok()?, what))) {
                Some((n, "passed")) => self.passed += n,
                Some((n, "failed")) => self.failed += n,
                _ => {}
            }
        }
    }
}

/// One step of the whole: a name for the summary and what it runs.
struct Stage {
    name: &'static str,
    command: Cmd,
    /// Whether libtorch has to be here.
    torch: bool,
}

/// Runs the stages; the last line is `N passed, N failed`.
///
/// # Errors
/// A stage failed, or libtorch could not be set up.
pub(crate) fn run(quick: bool, keep_going: bool, dry_run: bool) -> Result<()> {
    let libtorch = setup::Libtorch::choose(false)?;
    let stages = stages(&libtorch, keep_going).into_iter().filter(|stage| !(quick && stage.torch));
    if dry_run {
        stages.for_each(|stage| println!("{}", stage.command.display()));
        return Ok(());
    }
    let mut asked_for_nvrtc = false;
    let (mut counts, mut summary, mut broken) = (Counts::default(), Vec::new(), Vec::new());
    for stage in stages {
        if stage.torch && !libtorch.is_finished() {
            setup::ensure(false)?;
        }
        if stage.torch && !asked_for_nvrtc {
            asked_for_nvrtc = true;
            // Its test says by itself that it is skipped.
            if let Err(error) = setup::ensure_nvrtc() {
                println!("GPU kernels will not be compiled: {error:#}");
            }
        }
        println!("\n── {}: {}", stage.name, stage.command.display());
        let (began, before) = (Instant::now(), counts);
        let passed = run_stage(&stage.command, &mut counts)?;
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "── {}: {} in {seconds:.1} s",
            stage.name,
            if passed { "passed" } else { "FAILED" }
        );
        summary.push((
            stage.name,
            passed,
            seconds,
            counts.passed - before.passed,
            counts.failed - before.failed,
        ));
        if !passed {
            counts.failed += u64::from(counts.failed == before.failed); // a stage without tests, or one that did not compile
            broken.push(stage.name);
            if !keep_going {
                break;
            }
        }
    }
    println!();
    for (name, passed, seconds, n_passed, n_failed) in &summary {
        let word = if *passed { "passed" } else { "FAILED" };
        println!(
            "{name:<32} {word:<7} {seconds:>7.1} s  {n_passed:>5} tests passed, {n_failed} failed"
        );
    }
    if !broken.is_empty() {
        let rest = if keep_going { "" } else { "; the stages after it did not run" };
        println!("stage failed: {}{rest}", broken.join(", "));
    }
    println!("{} passed, {} failed", counts.passed, counts.failed);
    if broken.is_empty() { Ok(()) } else { bail!("the tests do not pass") }
}

/// Runs one command, lets its output through and counts the tests in it.
fn run_stage(command: &Cmd, counts: &mut Counts) -> Result<bool> {
    std::io::stdout().flush()?;
    let mut child = command
        .to_std()
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", command.display()))?;
    let output = child.stdout.take().context("the stage has no stdout")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        counts.add(&line);
        println!("{line}");
    }
    Ok(child.wait()?.success())
}

/// Whether the licences, bans and sources of `deny.toml` can be checked here; its advisories need their database, and so
/// the network: `cargo deny check advisories`.
fn has_cargo_deny() -> bool {
    let version = Cmd::cargo("deny --version").to_std().output();
    let found = version.is_ok_and(|output| output.status.success());
    if !found {
        println!("cargo-deny is not installed: licences, bans and sources are not checked");
    }
    found
}

fn stages(libtorch: &setup::Libtorch, keep_going: bool) -> Vec<Stage> {
    let manifest =
        |command: Cmd, path: &str| command.args(["--manifest-path".into(), in_root(path)]);
    let packages = |words: &str, names: &mut dyn Iterator<Item = &'static str>| {
        manifest(Cmd::cargo(words), "Cargo.toml").args(names.flat_map(|name| ["--package", name]))
    };
    let on = |command: Cmd| {
        let lib = libtorch.folder().join("lib");
        let path = std::env::var_os("LD_LIBRARY_PATH").filter(|value| !value.is_empty());
        let nvrtc = setup::nvrtc_folder().map(|folder| folder.join("lib"));
        let paths = std::env::join_paths(
            [lib].into_iter().chain(nvrtc).chain(path.iter().flat_map(std::env::split_paths)),
        );
        let command = command.env("LIBTORCH", libtorch.folder());
        match paths {
            Ok(paths) => command.env("LD_LIBRARY_PATH", paths),
            Err(_) => command, // a colon in the path: the loader could not name it either
        }
    };
    let test = if keep_going { "test --no-fail-fast" } else { "test" };
    let deny = |command: Cmd| command.args(["--", "-D", "warnings"]);
    let free = |name, command| Stage { name, command, torch: false };
    let bound = |name, command| Stage { name, command: on(command), torch: true };
    let mut everything = torch_bound().chain(["tunesmith-tests"]);

    let mut stages = vec![
        free("format", manifest(Cmd::cargo("fmt --all --check"), "Cargo.toml")),
        free("layering and xtask", packages(test, &mut std::iter::once("xtask"))),
        free("clippy, without libtorch", deny(packages("clippy --all-targets", &mut torch_free()))),
        free(
            "tests, without libtorch",
            packages(test, &mut torch_free().filter(|name| *name != "xtask")),
        ),
        free(
            "documentation",
            packages("doc --no-deps", &mut torch_free()).env("RUSTDOCFLAGS", "-D warnings"),
        ),
    ];
    if has_cargo_deny() {
        let check = Cmd::cargo("deny --manifest-path").args([in_root("Cargo.toml")]);
        let check = check.args("check licenses bans sources".split(' '));
        stages.push(free("what is depended on", check.args(["--hide-inclusion-graph"])));
    }
    if in_root("tests/piecemeal/Cargo.toml").is_file() {
        let command = manifest(Cmd::cargo(test), "tests/piecemeal/Cargo.toml").args(["--locked"]);
        let folder = in_root("target"); // its profile is the workspace's, so most of what it needs is there
        stages.push(free("piecemeal use", command.args(["--target-dir".into(), folder])));
    }
    stages.extend([
        bound(
            "clippy, with libtorch",
            deny(packages("clippy --release --all-targets", &mut everything)),
        ),
        bound("build", packages("build --release", &mut std::iter::once("tunesmith"))),
        bound("tests, with libtorch", packages(test, &mut torch_bound()).args(["--release"])),
        bound(
            "end to end",
            packages(test, &mut std::iter::once("tunesmith-tests")).args(["--release"]),
        ),
    ]);
    stages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 5, failed: 4 });
    }

    #[test]
    fn the_stages_that_need_libtorch_come_last_and_name_it() {
        let stages = stages(&setup::Libtorch::Given("/opt/libtorch".into()), false);
        assert!(stages.is_sorted_by_key(|stage| stage.torch), "cheapest first");
        for stage in &stages {
            let text = stage.command.display();
            assert_eq!(text.contains("LIBTORCH=/opt/libtorch"), stage.torch, "{text}");
            assert_eq!(
                text.contains("--release"),
                stage.torch,
                "one profile on either side: {text}"
            );
        }
        let all: String = stages.iter().map(|stage| stage.command.display()).collect();
        for name in torch_free().chain(torch_bound()) {
            assert!(
                all.contains(&format!("--package {name} ")) || all.contains(name),
                "{name} is tested nowhere"
            );
        }
    }

    #[test]
    fn a_stage_reports_its_tests_and_its_end() {
        let mut counts = Counts::default();
        let shell = |script: &str| Cmd::new("sh").args(["-c", script]);
        assert!(
            run_stage(&shell("echo 'test result: ok. 2 passed; 0 failed; x'"), &mut counts)
                .unwrap()
        );
        assert!(!run_stage(&shell("exit 1"), &mut counts).unwrap());
        assert_eq!(counts, Counts { passed: 2, failed: 0 });
    }
}
