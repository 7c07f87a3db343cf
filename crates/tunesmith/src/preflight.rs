//! What `check --deep`, `--rehearse` and a batch job do before step 0, on a model of their own.

use crate::{
    checks::{self, gradients, rehearsal, tokens},
    load,
    prepare::Prepared,
};
use anyhow::Result;
use std::{io::Write, path::Path};
use tunesmith_model::{LoadOptions, Transformer};
use tunesmith_train::{AdamW, Objective, Sft};

/// Checks the step, then rehearses the longest batch; `place` is a folder that may be made and is removed again.
///
/// # Errors
/// Checks that fail, and whatever would stop the run later.
pub(crate) fn run(prepared: &Prepared, place: &Path) -> Result<()> {
    let recipe = &prepared.recipe;
    let options =
        LoadOptions::trained(recipe.model.dtype.kind(), load::device(recipe.model.device)?);
    let model = match recipe.model.from_scratch {
        true => Transformer::fresh(prepared.config.clone(), recipe.seed, options),
        false => Transformer::load(&prepared.model_dir, options)?,
    };
    let mut optimizer = AdamW::new(recipe.optimizer.clone(), model.params());
    let objective: &dyn Objective = &Sft;
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
