//! One micro-batch through the model: to the device, hidden states, and scores of the tokens that are trained.

use tch::{Device, Tensor};
use tunesmith_model::{ModelError, Pass, Prefix, Ragged, TokenScores, Transformer};
use tunesmith_tokens::{Batch, Doc, IGNORE};

/// A micro-batch that the model has read: what an objective makes its terms of.
#[derive(Debug)]
pub struct Reading<'a> {
    /// The model.
    pub model: &'a Transformer,
    /// What it read.
    pub batch: &'a Batch,
    /// How it read it: the head follows the same choices.
    pub pass: &'a Pass<'a>,
    /// Hidden states of all tokens, (N, C).
    pub hidden: Tensor,
    /// What the objective's [`statistic`](crate::Objective::statistic) said of the step.
    pub statistic: f64,
    /// What the objective's [`known_gradients`](crate::Objective::known_gradients) said.
    pub known: Option<Vec<f32>>,
}

impl<'a> Reading<'a> {
    /// Lets `model` read `batch`.
    ///
    /// # Errors
    /// What the model says.
    pub fn new(
        model: &'a Transformer,
        batch: &'a Batch,
        pass: &'a mut Pass<'_>,
    ) -> Result<Self, ModelError> {
        let hidden = model.hidden(&ragged(batch, model.device()), pass)?;
        Ok(Self { model, batch, pass, hidden, statistic: 0.0, known: None })
    }

    /// The same hidden states with other labels: `batch` has the same tokens.
    pub(crate) fn with_batch(&self, batch: &'a Batch) -> Self {
        Self { batch, hidden: self.hidden.shallow_clone(), known: None, ..*self }
    }

    /// Scores of the trained labels, in order. Only rows whose label is trained meet the head.
    pub fn token_scores(&self) -> TokenScores {
        let (rows, labels): (Vec<i64>, Vec<i64>) =
            (0i64..).zip(&self.batch.labels).filter(|&(_, &label)| label != IGNORE).unzip();
        let device = self.hidden.device();
        let to_device = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        let (head, labels) = (self.model.head(), to_device(&labels)); // (R)
        let hidden = match rows.len() == self.batch.len() {
            true => self.hidden.shallow_clone(),
            false => self.hidden.index_select(0, &to_device(&rows)),
        };
        match &self.known {
            Some(known) => {
                let known = Tensor::from_slice(known).to_device(device);
                head.score_knowing(&hidden, &labels, &known, self.pass)
            }
            None => head.score(&hidden, &labels, self.pass),
        }
    }
}

/// A batch as the model's input.
pub fn ragged(batch: &Batch, device: Device) -> Ragged {
    let wide = |ids: &[u32]| ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>();
    let lens = batch.doc_ranges().map(|range| range.len() as i64).collect();
    let prefixes = (0..).zip(&batch.docs).map(|(doc, Doc { shared, .. })| match shared {
        0 => None,
        &n => Some(Prefix { doc: batch.group_start(doc), n: n as i64 }),
    });
    Ragged::flat(&wide(&batch.tokens), &wide(&batch.positions), lens, device)
        .continuing(prefixes.collect())
}
