//! What `check --deep`, `--rehearse` and a batch job do before step 0, on a model of their own.

use crate::{
    checks::{self, gradients, rehearsal, tokens},
    job::Job,
    prepare::Prepared,
};
use anyhow::Result;
use std::{io::Write, path::Path};

/// Checks the step, then rehearses the longest batch; `place` is a folder that may be made and is removed again.
///
/// # Errors
/// Checks that fail, and whatever would stop the run later.
pub(crate) fn run(prepared: &Prepared, place: &Path) -> Result<()> {
    let recipe = &prepared.recipe;
    let Job { model, objective, mut optimizer, .. } = Job::open(prepared)?;
    let objective = objective.as_ref();
    let examples = tokens::probed(prepared);
    let findings =
        gradients::all(&model, &mut optimizer, objective, &examples, recipe.schedule.lr)?;
    checks::print(&findings)?;
    checks::refuse(&findings)?;
    if examples.is_empty() {
        return Ok(()); // said by the checks of tokens
    }
    for line in rehearsal::run(prepared, &model, &mut optimizer, objective, &examples, place)? {
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(())
}
