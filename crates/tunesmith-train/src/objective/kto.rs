//! KTO (Ethayarajh et al. 2024): answers that are wanted or not, each on its own.
//!
//! ```text
//! wanted:      w₊ · (1 − σ(β (c − z)))        c = ln π(y|x) − ln π_ref(y|x)
//! not wanted:  w₋ · (1 − σ(β (z − c)))        z = max(0, mean of ln π(y'|x) − ln π_ref(y'|x)), a constant (eq. 7)
//! ```
//!
//! The loss is the mean over rows, by their weights where they have some: Σ w · loss / Σ w, also in z, where a prompt's
//! row tells; a row of weight 0 is not there. y' is the answer of another row: the KL term z is a statistic of the
//! whole step, over prompts that are each followed by the answer of the row before. So the gradient of a KTO step
//! depends on which rows stand together in it.

use super::{
    Metric, Objective, Reference, Term, Terms, Unit,
    documents::{doc_logps, prompt_len},
};
use crate::{Reading, TrainError};
use tch::{Kind, Tensor};
use tunesmith_model::{Pass, Transformer};
use tunesmith_tokens::{Batch, Doc, Example};

/// The objective; a document's label says whether it is wanted (above 0.5).
pub struct Kto {
    /// β.
    pub beta: f64,
    /// w₊.
    pub desirable_weight: f64,
    /// w₋.
    pub undesirable_weight: f64,
    /// Whether the KL term is there; without it and with `σ(βc)` for what is not wanted, it is APO-zero on single
    /// answers (D'Oosterlinck et al. 2024).
    pub kl: bool,
    /// Where reference log-probabilities come from.
    pub reference: Reference,
}

impl Objective for Kto {
    fn units(&self) -> &[Unit] {
        &[Unit::Docs]
    }

    fn has_reference(&self) -> bool {
        true
    }

    fn statistic(&self, model: &Transformer, batches: &[Batch]) -> Result<f64, TrainError> {
        if !self.kl {
            return Ok(0.0);
        }
        let _no_grad = tch::no_grad_guard();
        let (mut sum, mut count) = (0.0, 0.0);
        for batch in mismatched(batches, model.config.max_position_embeddings as usize) {
            let policy = doc_logps(&Reading::new(model, &batch, &mut Pass::default())?);
            let reference = self.reference.logps(model, &batch)?;
            let weights: Vec<f32> = batch.docs.iter().map(|doc| doc.weight).collect();
            let weights = Tensor::from_slice(&weights).to_device(policy.device());
            let Metric { sum: of_batch, count: n, .. } =
                Metric::weighted("kl", &(policy - reference), &weights);
            (sum, count) = (sum + of_batch, count + n);
        }
        Ok(if count > 0.0 { (sum / count).max(0.0) } else { 0.0 })
    }

    fn terms(&self, reading: &Reading<'_>) -> Result<Terms, TrainError> {
        let (batch, kl) = (reading.batch, reading.statistic);
        let docs = (0..).zip(&batch.docs).filter(|(_, doc)| doc.weight > 0.0);
        let labels: Vec<(i64, f32, f32)> =
            docs.filter_map(|(i, doc)| Some((i, doc.label?, doc.weight))).collect();
        let logps = doc_logps(reading);
        let ratios = &logps - self.reference.logps(reading.model, batch)?;
        let mut metrics = Vec::new();
        if self.kl {
            metrics.push(Metric { name: "kl", sum: kl, count: 1.0 });
        }
        let mut sum = Tensor::zeros([], (Kind::Float, logps.device()));
        for wanted in [true, false] {
            let docs = labels.iter().filter(|(_, label, _)| (*label > 0.5) == wanted);
            let (docs, weights): (Vec<i64>, Vec<f32>) = docs.map(|(i, _, w)| (*i, *w)).unzip();
            if docs.is_empty() {
                continue;
            }
            let at = Tensor::from_slice(&docs).to_device(logps.device());
            let weights = Tensor::from_slice(&weights).to_device(logps.device());
            let (c, logps) = (ratios.index_select(0, &at), logps.index_select(0, &at));
            // 1 − σ(x) = σ(−x).
            let losses = match wanted {
                true => ((&c - kl) * -self.beta).sigmoid() * self.desirable_weight,
                false => ((&c - kl) * self.beta).sigmoid() * self.undesirable_weight,
            };
            sum += (losses * &weights).sum(Kind::Float);
            let mean = |name, values: &Tensor| Metric::weighted(name, values, &weights);
            let names = match wanted {
                true => ["rewards/chosen", "logps/chosen"],
                false => ["rewards/rejected", "logps/rejected"],
            };
            metrics.push(mean(names[0], &(c * self.beta)));
            metrics.push(mean(names[1], &logps));
        }
        let terms = vec![Term { unit: Unit::Docs, weight: 1.0, sum }];
        Ok(Terms { terms, metrics, ..Terms::default() })
    }
}

/// Each labelled document's prompt, if it counts, with the answer of the one before it, the first with the last's; the
/// batches keep their sizes.
fn mismatched(batches: &[Batch], max_len: usize) -> Vec<Batch> {
    let counts = |doc: &Doc| doc.label.is_some() && doc.weight > 0.0;
    let mut prompts = Vec::new();
    let mut answers = Vec::new();
    let mut sizes = Vec::new();
    for batch in batches {
        let before = prompts.len();
        for (index, doc) in batch.docs.iter().enumerate().filter(|(_, doc)| counts(doc)) {
            let mut prompt = batch.doc_tokens(index);
            answers.push(prompt.split_off(prompt_len(batch, index)));
            prompts.push((doc.row, doc.weight, prompt));
        }
        sizes.push(prompts.len() - before);
    }
    let n_moved = answers.len().min(1);
    answers.rotate_right(n_moved);
    let mut examples = prompts.into_iter().zip(answers).map(|((row, weight, prompt), answer)| {
        let mut ids = [&prompt[..], &answer[..]].concat();
        ids.truncate(max_len);
        let trained = (0..ids.len()).map(|i| i >= prompt.len()).collect();
        Example { ids, trained, row, weight: Some(weight), ..Example::default() }
    });
    let take = |size| Batch::new(&examples.by_ref().take(size).collect::<Vec<_>>());
    sizes.into_iter().filter(|&size| size > 0).map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_move_on_by_one_over_all_batches() {
        let example = |ids: &[u32], prompt: usize| Example {
            ids: ids.to_vec(),
            trained: (0..ids.len()).map(|i| i >= prompt).collect(),
            label: Some(1.0),
            ..Example::default()
        };
        let batches = [
            Batch::new(&[example(&[1, 2, 10], 2), example(&[3, 20, 21], 1)]),
            Batch::new(&[example(&[4, 5, 30], 2)]),
        ];
        let mixed = mismatched(&batches, 4);
        assert_eq!(mixed[0].tokens, [1, 2, 30, 3, 10]);
        assert_eq!(mixed[1].tokens, [4, 5, 20, 21]);
        assert_eq!(mixed[1].labels, [-100, 20, 21, -100]);
        assert_eq!(mismatched(&batches, 3)[1].tokens, [4, 5, 20], "cut at the model's positions");
    }
}
