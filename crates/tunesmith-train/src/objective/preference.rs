//! Learning from pairs: a weighted sum of pair losses and of the chosen answers' own likelihood.
//!
//! ```text
//! loss = Σₖ weightₖ · Σ w lossₖ(pair) / Σ w  +  weight · Σ w NLL(token) / Σ w      w: of the row; 1 unless it says so
//! ```

use super::{
    LossKnobs, Metric, Objective, PAIR_LOSSES, PairLoss, Pairs, Reference, Term, Terms, Unit,
    documents::{PairIndex, doc_logps, n_trained, sum_by_doc},
    losses::log_odds_ratio,
};
use crate::{Reading, TrainError};
use tch::{Kind, Tensor};

/// The NLL of the chosen answer's tokens, as a summand.
const SFT: &str = "sft";
/// The NLL of all tokens of prompt and chosen answer, as TRL's ORPO has it.
const SFT_TEXT: &str = "sft_text";

/// A summand of the objective.
#[derive(Clone, Copy)]
enum Summand {
    Pairs(PairLoss),
    /// NLL of the chosen answers, or of prompts and chosen answers.
    Sft {
        prompt: bool,
    },
}

/// DPO and its family.
pub struct Preference {
    summands: Vec<(Summand, f64)>,
    units: Vec<Unit>,
    knobs: LossKnobs,
    reference: Option<Reference>,
}

impl Preference {
    /// The sum of `losses` (names of [`PAIR_LOSSES`], `sft` or `sft_text`), each with its weight.
    ///
    /// # Errors
    /// A name that is none; a reference that is missing; a label smoothing that the loss cannot have.
    pub fn new(
        losses: &[(String, f64)],
        knobs: LossKnobs,
        reference: Option<Reference>,
    ) -> Result<Self, TrainError> {
        let summands = losses.iter().map(|(name, weight)| Ok((summand(name)?, *weight)));
        let summands = summands.collect::<Result<Vec<_>, TrainError>>()?;
        let bad = |reason: &str| Err(TrainError::BadObjective { reason: reason.into() });
        if summands.is_empty() {
            return bad("expected at least one loss, found none");
        }
        let compared = |(summand, _): &(Summand, f64)| matches!(summand, Summand::Pairs(loss) if loss.needs_reference);
        if summands.iter().any(compared) && reference.is_none() {
            return bad("the loss compares with a reference model, and there is none");
        }
        let named = |name| losses.iter().any(|(loss, _)| loss == name);
        let e = knobs.label_smoothing;
        if !(0.0..0.5).contains(&e) || named("exo_pair") && e == 0.0 {
            return bad(
                "`label_smoothing`: expected a share from 0 to below 0.5, and above 0 for exo_pair",
            );
        }
        let mut units = Vec::new();
        for unit in summands.iter().map(|(summand, _)| summand.unit()) {
            if !units.contains(&unit) {
                units.push(unit);
            }
        }
        let reference = reference.filter(|_| summands.iter().any(compared));
        Ok(Self { summands, units, knobs, reference })
    }

    /// Names that `new` knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PAIR_LOSSES.iter().map(|loss| loss.name).chain([SFT, SFT_TEXT])
    }

    /// Whether one of `losses` compares with a reference model.
    pub fn needs_reference(losses: &[String]) -> bool {
        let needs = |name: &String| PAIR_LOSSES.iter().any(|l| l.name == name && l.needs_reference);
        losses.iter().any(needs)
    }
}

fn summand(name: &str) -> Result<Summand, TrainError> {
    let found = match name {
        SFT => Some(Summand::Sft { prompt: false }),
        SFT_TEXT => Some(Summand::Sft { prompt: true }),
        name => PAIR_LOSSES.iter().find(|loss| loss.name == name).copied().map(Summand::Pairs),
    };
    found.ok_or_else(|| TrainError::BadObjective {
        reason: format!(
            "expected one of {}, found {name:?}",
            Preference::names().collect::<Vec<_>>().join(", ")
        ),
    })
}

impl Summand {
    fn unit(&self) -> Unit {
        match self {
            Self::Pairs(_) => Unit::Pairs,
            Self::Sft { prompt: false } => Unit::ChosenTokens,
            Self::Sft { prompt: true } => Unit::ChosenText,
        }
    }
}

impl Objective for Preference {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn has_reference(&self) -> bool {
        self.reference.is_some()
    }

    fn terms(&self, reading: &Reading<'_>) -> Result<Terms, TrainError> {
        let (batch, device) = (reading.batch, reading.hidden.device());
        let index = PairIndex::new(batch)?;
        let scores = reading.token_scores();
        let logps = sum_by_doc(&scores.logprobs, batch);
        let reference = match &self.reference {
            Some(reference) => reference.logps(reading.model, batch)?,
            None => logps.zeros_like(),
        };
        let counts = Tensor::from_slice(&n_trained(batch)).to_device(device);
        let [chosen, rejected] = index.split(&logps);
        let [ref_chosen, ref_rejected] = index.split(&reference);
        let [n_chosen, n_rejected] = index.split(&counts);
        let pairs = Pairs { chosen, rejected, ref_chosen, ref_rejected, n_chosen, n_rejected };
        let mut terms = Vec::new();
        let weights = index.weights(device);
        let mut metrics = self.metrics(&pairs, &weights);
        // TRL counts the chosen answers alone.
        let correct = sum_by_doc(&scores.correct.to_kind(Kind::Float), batch);
        metrics.push(Metric {
            name: "mean_token_accuracy",
            sum: (&index.split(&correct)[0] * &weights).sum(Kind::Float).double_value(&[]),
            count: Unit::ChosenTokens.count(batch),
        });
        for (summand, weight) in &self.summands {
            let sum = match summand {
                Summand::Pairs(loss) => (loss.of)(&pairs, &self.knobs) * &weights,
                Summand::Sft { prompt: false } => -&pairs.chosen * &weights,
                Summand::Sft { prompt: true } => {
                    let text = batch.all_trained();
                    let by_doc = doc_logps(&reading.with_batch(&text));
                    -&index.split(&by_doc)[0] * &weights
                }
            };
            let sum = sum.sum(Kind::Float);
            let unit = summand.unit();
            if let Summand::Sft { .. } = summand {
                metrics.push(Metric {
                    name: "nll_loss",
                    sum: sum.double_value(&[]),
                    count: unit.count(batch),
                });
            }
            terms.push(Term { unit, weight: *weight, sum });
        }
        Ok(Terms { terms, metrics, ..Terms::default() })
    }
}

impl Preference {
    /// Under TRL's names: rewards are β times the log-ratio, or the log-probability where there is no reference.
    fn metrics(&self, pairs: &Pairs, weights: &Tensor) -> Vec<Metric> {
        let _no_grad = tch::no_grad_guard();
        // SimPO and ORPO reward the mean over tokens.
        let by_mean = self.summands.iter().any(|(summand, _)| {
            matches!(summand, Summand::Pairs(loss) if ["simpo", "orpo"].contains(&loss.name))
        });
        let (c, r) = match by_mean {
            true => (&pairs.chosen / &pairs.n_chosen, &pairs.rejected / &pairs.n_rejected),
            false => (pairs.c(), pairs.r()),
        };
        let (c, r) = (c * self.knobs.beta, r * self.knobs.beta);
        let mean = |name, values: &Tensor| Metric::weighted(name, values, weights);
        let mut metrics = vec![
            mean("rewards/chosen", &c),
            mean("rewards/rejected", &r),
            mean("rewards/accuracies", &c.gt_tensor(&r)),
            mean("rewards/margins", &(&c - &r)),
        ];
        let (chosen, rejected) = match by_mean {
            true => (&pairs.chosen / &pairs.n_chosen, &pairs.rejected / &pairs.n_rejected),
            false => (pairs.chosen.shallow_clone(), pairs.rejected.shallow_clone()),
        };
        metrics.extend([mean("logps/chosen", &chosen), mean("logps/rejected", &rejected)]);
        let odds = |(summand, _): &(Summand, f64)| matches!(summand, Summand::Pairs(loss) if loss.name == "orpo");
        if self.summands.iter().any(odds) {
            let odds = log_odds_ratio(pairs);
            metrics.push(mean("log_odds_ratio", &odds.log_sigmoid()));
            metrics.push(mean("log_odds_chosen", &odds));
        }
        metrics
    }
}
