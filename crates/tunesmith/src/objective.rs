//! The `[objective]` of a recipe: which loss a run minimises, what head the model needs for it, and where the reference
//! of a preference loss comes from.

use crate::{exit::ConfigError, load, locate, prepare::Prepared, recipe::AdapterKnobs, reference};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::path::Path;
use tch::Device;
use tunesmith_model::{Config, LoadOptions, Transformer};
use tunesmith_train::{Classify, Kto, LossKnobs, Objective, Preference, Reference, Reward, Sft};

/// What a run minimises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ObjectiveKnobs {
    pub(crate) kind: ObjectiveKind,
    /// Of preferences: the losses that are summed (`sigmoid`, `ipo`, `simpo`, `orpo`, `sft` …).
    pub(crate) losses: Vec<String>,
    /// The weight of each; empty: 1 each.
    pub(crate) weights: Vec<f64>,
    /// β of preferences and KTO.
    pub(crate) beta: f64,
    /// The share of pairs that may be the wrong way round: cDPO, robust, SimPO, CPO.
    pub(crate) label_smoothing: f64,
    /// SimPO's margin γ.
    pub(crate) gamma: f64,
    /// What a preference or KTO loss compares with.
    pub(crate) reference: ReferenceChoice,
    /// KTO's weight of wanted answers.
    pub(crate) desirable_weight: f64,
    /// KTO's weight of unwanted ones.
    pub(crate) undesirable_weight: f64,
    /// Whether KTO has its KL term; without it, it is APO-zero on single answers.
    pub(crate) kl: bool,
    /// Of reward models: how strongly scores are kept around zero.
    pub(crate) center_coefficient: f64,
    /// Names of the classes, in order; empty: those of the data set or of the model, or `LABEL_0` and so on.
    pub(crate) labels: Vec<String>,
}

/// Kinds of objectives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ObjectiveKind {
    /// The likelihood of trained tokens.
    #[default]
    Sft,
    /// Pairs of a chosen and a rejected answer.
    Preference,
    /// Single answers, wanted or not.
    Kto,
    /// A score for each answer, learned from pairs.
    Reward,
    /// A class for each text.
    Classify,
}

impl ObjectiveKind {
    /// Whether two answers are judged together.
    pub(crate) fn is_of_pairs(self) -> bool {
        matches!(self, Self::Preference | Self::Reward)
    }
}

/// Where reference log-probabilities come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ReferenceChoice {
    /// The base under the adapter; under full fine-tuning a frozen copy.
    #[default]
    Auto,
    /// A second model in memory.
    Copy,
    /// Computed once before the first step, and kept on disk for runs of the same model and data.
    Cached,
}

impl Default for ObjectiveKnobs {
    fn default() -> Self {
        Self {
            kind: ObjectiveKind::default(),
            losses: vec!["sigmoid".into()],
            weights: Vec::new(),
            beta: 0.1,
            label_smoothing: 0.0,
            gamma: 0.5,
            reference: ReferenceChoice::default(),
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            kl: true,
            center_coefficient: 0.0,
            labels: Vec::new(),
        }
    }
}

impl ObjectiveKnobs {
    /// Values that no run can work with: (key, expected, found).
    pub(crate) fn problems(&self) -> Vec<(&'static str, &'static str, String)> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let unknown =
            self.losses.iter().find(|name| !Preference::names().any(|known| known == **name));
        let checks = [
            (positive(self.beta), "objective.beta", "a number above 0", self.beta.to_string()),
            (
                (0.0..0.5).contains(&self.label_smoothing),
                "objective.label_smoothing",
                "a share from 0 to below 0.5",
                self.label_smoothing.to_string(),
            ),
            (
                !self.losses.is_empty() && unknown.is_none(),
                "objective.losses",
                "names of losses, such as sigmoid, ipo, hinge, robust, simpo, orpo, cpo, sft",
                unknown.cloned().unwrap_or_else(|| "none".into()),
            ),
            (
                self.weights.is_empty() || self.weights.len() == self.losses.len(),
                "objective.weights",
                "one weight for each loss, or none",
                format!("{} for {}", self.weights.len(), self.losses.len()),
            ),
            (
                positive(self.desirable_weight) && positive(self.undesirable_weight),
                "objective.desirable_weight",
                "weights above 0",
                format!("{} and {}", self.desirable_weight, self.undesirable_weight),
            ),
            (
                self.center_coefficient >= 0.0,
                "objective.center_coefficient",
                "a number of at least 0",
                self.center_coefficient.to_string(),
            ),
        ];
        let wrong = checks.into_iter().filter(|(good, ..)| !good);
        wrong.map(|(_, key, expected, found)| (key, expected, found)).collect()
    }

    /// The model that this objective trains: with a head over labels where it needs one. `seen`: classes of the data, by
    /// number.
    pub(crate) fn model(&self, config: Config, of_data: &[String], seen: usize) -> Config {
        match self.kind {
            ObjectiveKind::Reward => config.into_classifier(&["LABEL_0".to_owned()]),
            ObjectiveKind::Classify => {
                let own = config.labels();
                let labels = match (&self.labels[..], of_data) {
                    ([], []) if own.len() >= seen.max(1) => own,
                    ([], []) => (0..seen.max(2)).map(|i| format!("LABEL_{i}")).collect(),
                    ([], of_data) => of_data.to_vec(),
                    (named, _) => named.to_vec(),
                };
                config.into_classifier(&labels)
            }
            _ => config,
        }
    }

    /// What the report calls it.
    pub(crate) fn title(&self, adapter: &AdapterKnobs) -> String {
        let what = match self.kind {
            ObjectiveKind::Sft => "supervised fine-tuning".to_owned(),
            ObjectiveKind::Preference => format!("preferences ({})", self.losses.join(" + ")),
            ObjectiveKind::Kto => "preferences (KTO)".to_owned(),
            ObjectiveKind::Reward => "a reward model".to_owned(),
            ObjectiveKind::Classify => "classification".to_owned(),
        };
        let how = match (adapter.is_used(), adapter.lora.use_dora) {
            (false, _) => "of all weights".to_owned(),
            (true, false) => format!("with LoRA of rank {}", adapter.lora.r),
            (true, true) => format!("with DoRA of rank {}", adapter.lora.r),
        };
        format!("{what} {how}")
    }
}

/// The objective of a run, with its reference.
pub(crate) fn build(
    prepared: &Prepared,
    model: &mut Transformer,
    device: Device,
) -> Result<Box<dyn Objective>> {
    let knobs = &prepared.recipe.objective;
    Ok(match knobs.kind {
        ObjectiveKind::Sft => Box::new(Sft),
        ObjectiveKind::Classify => Box::new(Classify),
        ObjectiveKind::Reward => Box::new(Reward { center_coefficient: knobs.center_coefficient }),
        ObjectiveKind::Kto => {
            if knobs.reference == ReferenceChoice::Cached {
                let problem =
                    "KTO pairs each prompt with another row's answer, which no cache holds";
                return Err(
                    ConfigError::new("objective.reference", problem, "auto, or copy").into()
                );
            }
            Box::new(Kto {
                beta: knobs.beta,
                desirable_weight: knobs.desirable_weight,
                undesirable_weight: knobs.undesirable_weight,
                kl: knobs.kl,
                reference: reference_of(prepared, model, device)?,
            })
        }
        ObjectiveKind::Preference => {
            let weights = knobs.weights.iter().copied().chain(std::iter::repeat(1.0));
            let losses: Vec<(String, f64)> = knobs.losses.iter().cloned().zip(weights).collect();
            let numbers = LossKnobs {
                beta: knobs.beta,
                label_smoothing: knobs.label_smoothing,
                gamma: knobs.gamma,
            };
            let reference = match Preference::needs_reference(&knobs.losses) {
                true => Some(reference_of(prepared, model, device)?),
                false => None,
            };
            Box::new(Preference::new(&losses, numbers, reference)?)
        }
    })
}

/// The reference: what the run began with.
fn reference_of(prepared: &Prepared, model: &mut Transformer, device: Device) -> Result<Reference> {
    let recipe = &prepared.recipe;
    let kind = recipe.model.dtype.kind();
    let adapter = &recipe.adapter;
    match recipe.objective.reference {
        ReferenceChoice::Auto if adapter.is_used() && adapter.from.is_empty() => {
            Ok(Reference::AdapterOff)
        }
        // What the run began with is the adapter that it goes on with: a second one beside it, frozen.
        ReferenceChoice::Auto if adapter.is_used() => {
            let number = model.load_adapter(&locate::adapter(Path::new(&adapter.from)), false)?;
            Ok(Reference::Adapter(number))
        }
        ReferenceChoice::Auto | ReferenceChoice::Copy => {
            let options = LoadOptions::frozen(kind, device);
            let mut copy = Transformer::load_as(
                prepared.config.clone(),
                &prepared.model_dir,
                options,
                recipe.seed,
            )?;
            if !adapter.from.is_empty() {
                copy.load_adapter(&locate::adapter(Path::new(&adapter.from)), false)?;
            }
            Ok(Reference::Copy(Box::new(copy)))
        }
        ReferenceChoice::Cached if prepared.held_out.is_some() => {
            let problem = "the cache holds the training rows, and train.eval_every reads others";
            Err(ConfigError::new("objective.reference", problem, "auto, or no evaluation").into())
        }
        ReferenceChoice::Cached => {
            let begin =
                || load::for_training(recipe, &prepared.config, &prepared.model_dir, device);
            Ok(Reference::Table(reference::table(prepared, &begin)?))
        }
    }
}
