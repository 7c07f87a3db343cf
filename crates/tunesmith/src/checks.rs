//! What is wrong in silence, found before step 0: each known bug of training has a check with evidence.
//!
//! The bugs are those of `docs/checks.md`, which says where each was met and which test brings it back. Token checks run
//! at every start; those of gradients in `check --deep` and before a batch job's first step.

mod beginning;
pub(crate) mod gradients;
pub(crate) mod rehearsal;
pub(crate) mod tokens;

use crate::exit::{Exit, Failure};
use anyhow::Result;
use std::io::Write;

/// What a check found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: &'static str,
    pub(crate) verdict: Verdict,
    /// The numbers behind the verdict.
    pub(crate) evidence: String,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Good,
    /// Worth a look; it may be meant.
    Doubtful,
    /// Nobody means this.
    Wrong,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, evidence: impl Into<String>) -> Self {
        Self { check, verdict, evidence: evidence.into() }
    }

    /// Wrong unless `good`.
    fn judged(check: &'static str, good: bool, evidence: impl Into<String>) -> Self {
        Self::new(check, if good { Verdict::Good } else { Verdict::Wrong }, evidence)
    }
}

/// The findings as lines of a page.
pub(crate) fn print(findings: &[Finding]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for Finding { check, verdict, evidence } in findings {
        let word = match verdict {
            Verdict::Good => "ok",
            Verdict::Doubtful => "look",
            Verdict::Wrong => "WRONG",
        };
        writeln!(out, "{word:<6} {check:<28} {evidence}")?;
    }
    Ok(())
}

/// Refuses to train on what is wrong; all of it in one message.
pub(crate) fn refuse(findings: &[Finding]) -> Result<()> {
    let wrong: Vec<String> = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Wrong)
        .map(|finding| format!("  {}: {}", finding.check, finding.evidence))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{} of {} checks failed\n{}\nhelp: `tunesmith check` shows the first batch; docs/checks.md says what each check means",
        wrong.len(),
        findings.len(),
        wrong.join("\n")
    );
    Err(Failure(Exit::BadData, text).into())
}
