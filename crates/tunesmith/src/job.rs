//! What a run trains with, as it is before step 0: training, rehearsal and replay begin with the same.

use crate::{load, memory, objective, prepare::Prepared};
use anyhow::Result;
use tunesmith_model::Transformer;
use tunesmith_train::{AdamW, Objective};

/// The model, what it minimises, and what moves it.
pub(crate) struct Job {
    pub(crate) model: Transformer,
    pub(crate) objective: Box<dyn Objective>,
    pub(crate) optimizer: AdamW,
    /// What a step will take of memory; the model follows it.
    pub(crate) memory: memory::Plan,
}

impl Job {
    /// Loads the model with its adapter, and the reference where the objective has one.
    pub(crate) fn open(prepared: &Prepared) -> Result<Self> {
        let recipe = &prepared.recipe;
        let device = load::device(recipe.model.device)?;
        let mut model = load::for_training(recipe, &prepared.config, &prepared.model_dir, device)?;
        let objective = objective::build(prepared, &mut model, device)?;
        let optimizer = AdamW::new(recipe.optimizer.clone(), model.params()).seeded(recipe.seed);
        let memory = memory::Plan::new(recipe, &model, &optimizer);
        model.recompute = memory.recompute;
        Ok(Self { model, objective, optimizer, memory })
    }
}
