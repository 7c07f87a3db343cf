//! Programs that are measured by turns, so that whatever else the machine does meanwhile falls on all of them alike.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::Cmd;

/// One program of a comparison. The last line on its stdout is a JSON object of figures.
#[derive(Debug)]
pub(crate) struct Side {
    /// What the table calls it.
    pub(crate) name: &'static str,
    /// How it is run.
    pub(crate) command: Cmd,
}

/// The figures of all rounds of one side.
#[derive(Debug, PartialEq)]
pub(crate) struct Runs {
    /// As the side is called.
    pub(crate) name: &'static str,
    /// One object per round.
    pub(crate) figures: Vec<Value>,
}

/// Runs every side `rounds` times: in order in the first round, in reverse in the second, and so on.
///
/// # Errors
/// A program fails, or its last line is no JSON object.
pub(crate) fn alternate(sides: &[Side], rounds: usize) -> Result<Vec<Runs>> {
    alternate_by(sides, rounds, &|side| measure(&side.command))
}

/// The same with another way to run a side and get its figures.
///
/// # Errors
/// Those of `measure`.
pub(crate) fn alternate_by(
    sides: &[Side],
    rounds: usize,
    measure: &dyn Fn(&Side) -> Result<Value>,
) -> Result<Vec<Runs>> {
    let mut runs: Vec<Runs> =
        sides.iter().map(|side| Runs { name: side.name, figures: Vec::new() }).collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..sides.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let side = &sides[index];
            eprintln!("round {} of {rounds}: {}", round + 1, side.name);
            runs[index].figures.push(measure(side).with_context(|| side.name.to_owned())?);
        }
    }
    Ok(runs)
}

/// Runs a program; what its last line says. Its stderr is shown where it fails.
///
/// # Errors
/// It cannot be started, fails, or its last line is no JSON object.
pub(crate) fn measure(command: &Cmd) -> Result<Value> {
    let output = command
        .to_std()
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", command.display()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed with {}:\n{}", command.display(), output.status, stderr.trim());
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    let last = stdout.trim_end().lines().last().unwrap_or_default();
    serde_json::from_str(last).ok().filter(Value::is_object).with_context(|| {
        format!("`{}`: expected a JSON object as its last line, found `{last}`", command.display())
    })
}

impl Runs {
    /// The median of a figure over all rounds; of an even number of them, the mean of the middle two.
    ///
    /// # Errors
    /// A round without this number.
    pub(crate) fn median(&self, key: &str) -> Result<f64> {
        let missing = || format!("{} gives no number `{key}`", self.name);
        let mut numbers = self
            .figures
            .iter()
            .map(|figures| figures[key].as_f64().with_context(missing))
            .collect::<Result<Vec<f64>>>()?;
        numbers.sort_by(f64::total_cmp);
        let n = numbers.len();
        if n == 0 {
            bail!(missing());
        }
        Ok((numbers[(n - 1) / 2] + numbers[n / 2]) / 2.0)
    }

    /// A figure that is the same in every round.
    ///
    /// # Errors
    /// It differs between rounds, or is missing.
    pub(crate) fn fixed(&self, key: &str) -> Result<&Value> {
        let mut all = self.figures.iter().map(|figures| &figures[key]);
        match all.next() {
            Some(first) if !first.is_null() && all.all(|other| other == first) => Ok(first),
            _ => bail!("{}: `{key}` is missing, or differs between rounds", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sides_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let side = |name: &'static str, seconds: &str| Side {
            name,
            command: Cmd::new("sh").args([
                "-c",
                "echo $0 >> $1; echo words; echo \"{\\\"seconds\\\": $2, \\\"tokens\\\": 7}\"",
                name,
                &log.to_string_lossy(),
                seconds,
            ]),
        };
        let runs = alternate(&[side("a", "1.5"), side("b", "3")], 3).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "a\nb\nb\na\na\nb\n");
        assert_eq!(runs[0].figures, vec![json!({"seconds": 1.5, "tokens": 7}); 3]);
        assert_eq!(
            (runs[0].median("seconds").unwrap(), runs[1].median("seconds").unwrap()),
            (1.5, 3.0)
        );
        assert_eq!(runs[1].fixed("tokens").unwrap(), 7);
    }

    #[test]
    fn medians_and_fixed_figures() {
        let runs = |seconds: &[f64]| Runs {
            name: "x",
            figures: seconds.iter().map(|seconds| json!({"s": seconds})).collect(),
        };
        for (seconds, expected) in
            [(&[3.0, 1.0, 9.0][..], 3.0), (&[4.0, 1.0, 2.0, 9.0], 3.0), (&[5.0], 5.0)]
        {
            assert_eq!(runs(seconds).median("s").unwrap(), expected);
        }
        let error = runs(&[1.0]).median("t").unwrap_err().to_string();
        assert_eq!(error, "x gives no number `t`");
        assert!(runs(&[1.0, 2.0]).fixed("s").is_err() && runs(&[1.0]).fixed("t").is_err());
    }

    #[test]
    fn a_program_that_fails_shows_why() {
        let error = measure(&Cmd::new("sh").args(["-c", "echo because >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with("failed with exit status: 3:\nbecause"), "{error}");
        let error = measure(&Cmd::new("echo").args(["7"])).unwrap_err().to_string();
        assert_eq!(error, "`echo 7`: expected a JSON object as its last line, found `7`");
    }
}
