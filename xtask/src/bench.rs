//! `cargo xtask bench <what>`: ours and the usual Python stack in turn on this machine, as a table and one JSON line.
//!
//! Every side is a program of its own whose last line is a JSON object of figures; `rounds` runs the sides by turns,
//! `peer` finds the Python that the other side needs, `report` prints. One file per benchmark. `gpu` has no other side:
//! it measures against the floors of the GPU.

mod data;
mod generate;
mod gpu;
mod growth;
mod peer;
mod report;
mod rounds;
mod startup;
mod train;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The benchmarks by name.
pub(crate) const NAMES: [&str; 6] = ["data", "generate", "gpu", "growth", "startup", "train"];

/// What the benchmarks take.
#[derive(Debug, PartialEq)]
struct Options {
    /// How often each side runs; figures are medians.
    rounds: usize,
    /// Whether the Python side runs, too.
    peer: bool,
    /// The one setting that is measured, of a benchmark that has several.
    only: Option<String>,
    /// The folder with the models and data that are measured.
    parts: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[OsString], parts: Option<OsString>) -> Result<Self> {
        let parts = parts.filter(|parts| !parts.is_empty()).map(PathBuf::from);
        let mut options = Options { rounds: 3, peer: true, only: None, parts };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value =
                || words.next().with_context(|| format!("{} wants a value", word.display()));
            match word.to_str() {
                Some("--rounds") => {
                    let text = value()?.to_string_lossy();
                    options.rounds =
                        text.parse().ok().filter(|&rounds| rounds > 0).with_context(|| {
                            format!("--rounds: expected a number from 1 on, found `{text}`")
                        })?;
                }
                Some("--ours-only") => options.peer = false,
                Some("--only") => options.only = Some(value()?.to_string_lossy().into_owned()),
                Some("--parts") => options.parts = Some(value()?.into()),
                _ => bail!(
                    "unexpected argument `{}`: expected --rounds N, --ours-only, --only SETTING, --parts DIR",
                    word.display()
                ),
            }
        }
        Ok(options)
    }

    /// A file or folder of the parts.
    ///
    /// # Errors
    /// No parts folder is known, or it does not hold `name`.
    fn part(&self, name: &str) -> Result<PathBuf> {
        let parts = self.parts.as_ref().context(
            "no folder of models and data\nhelp: give --parts DIR, or set TUNESMITH_PARTS",
        )?;
        let path = parts.join(name);
        if !path.exists() {
            bail!("{} holds no {name}\nhelp: give another folder by --parts DIR", parts.display());
        }
        Ok(path)
    }
}

/// Runs the benchmark named first in `arguments`.
///
/// # Errors
/// No such benchmark, something it needs is missing, or a side failed or produced something else than the other.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let expected = || format!("expected one of {}", NAMES.join(", "));
    let Some((name, rest)) = arguments.split_first() else {
        bail!("no benchmark is named: {}", expected());
    };
    if name == "gpu" {
        return gpu::run(rest);
    }
    let options = Options::parse(rest, std::env::var_os("TUNESMITH_PARTS"))?;
    match name.to_str() {
        Some("data") => data::run(&options),
        Some("generate") => generate::run(&options),
        Some("growth") => growth::run(&options),
        Some("startup") => startup::run(&options),
        Some("train") => train::run(&options),
        _ => bail!("no benchmark is named `{}`: {}", name.display(), expected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        Options::parse(&words, Some("/parts".into()))
    }

    #[test]
    fn options() {
        let parts = Some("/parts".into());
        let default = Options { rounds: 3, peer: true, only: None, parts };
        assert_eq!(parse("").unwrap(), default);
        let only = Some("fp32".into());
        let given = Options { rounds: 5, peer: false, only, parts: Some("/b".into()) };
        let line = "--ours-only --parts /b --rounds 5 --only fp32";
        assert_eq!(parse(line).unwrap(), given);
        for (line, message) in [
            ("--rounds", "--rounds wants a value"),
            ("--rounds 0", "--rounds: expected a number from 1 on, found `0`"),
            (
                "x",
                "unexpected argument `x`: expected --rounds N, --ours-only, --only SETTING, --parts DIR",
            ),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), message);
        }
        assert_eq!(
            parse("").unwrap().part("x").unwrap_err().to_string(),
            "/parts holds no x\nhelp: give another folder by --parts DIR"
        );
        assert_eq!(
            run(&["dta".into()]).unwrap_err().to_string(),
            "no benchmark is named `dta`: expected one of data, generate, gpu, growth, startup, train"
        );
    }
}
