//! Sequence classification: cross-entropy of a document's label, its scores read off its last token.
//!
//! loss = −Σ w ln p(label) / Σ w over the labelled documents of the whole step; w is 1 unless a row says otherwise.

use super::{Metric, Objective, Term, Terms, Unit, documents::doc_scores};
use crate::{Reading, TrainError};
use tch::{Kind, Tensor};

/// The objective; the model has a head of n labels, and a document's label is the number of its class.
#[derive(Debug, Clone, Copy, Default)]
pub struct Classify;

impl Objective for Classify {
    fn units(&self) -> &[Unit] {
        &[Unit::Docs]
    }

    fn terms(&self, reading: &Reading<'_>) -> Result<Terms, TrainError> {
        let docs = (0i64..).zip(&reading.batch.docs).filter(|(_, doc)| doc.weight > 0.0);
        let scores = doc_scores(reading)?; // (D, labels)
        let n_labels = scores.size()[1];
        let class = |doc: &tunesmith_tokens::Doc, label: f32| match label {
            label if label >= 0.0 && label.fract() == 0.0 && (label as i64) < n_labels => {
                Ok(label as i64)
            }
            label => Err(TrainError::BadLabel { row: doc.row, label, n_labels }),
        };
        let labelled =
            docs.filter_map(|(i, doc)| Some(class(doc, doc.label?).map(|c| ((i, doc.weight), c))));
        let (at, classes): (Vec<(i64, f32)>, Vec<i64>) =
            labelled.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let (at, weights): (Vec<i64>, Vec<f32>) = at.into_iter().unzip();
        let scores = scores.index_select(0, &Tensor::from_slice(&at).to_device(scores.device()));
        let targets = Tensor::from_slice(&classes).to_device(scores.device());
        let logprobs = scores.log_softmax(-1, Kind::Float);
        let weights = Tensor::from_slice(&weights).to_device(scores.device());
        let picked = logprobs.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
        let nll = -(picked * &weights).sum(Kind::Float);
        let found = Vec::<i64>::try_from(scores.detach().argmax(-1, false))?;
        let pairs = classes.into_iter().zip(found);
        let predictions: Vec<(u32, u32)> = pairs.map(|(a, b)| (a as u32, b as u32)).collect();
        let right = scores.argmax(-1, false).eq_tensor(&targets);
        let accuracy = Metric::weighted("accuracy", &right, &weights);
        let terms = vec![Term { unit: Unit::Docs, weight: 1.0, sum: nll }];
        Ok(Terms { terms, metrics: vec![accuracy], predictions })
    }
}

/// How often class i (row) was taken for class j (column).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Confusion(pub Vec<Vec<u64>>);

impl Confusion {
    /// Counts (class, prediction).
    pub fn new(predictions: &[(u32, u32)]) -> Self {
        let n = predictions.iter().map(|&(a, b)| a.max(b) as usize + 1).max().unwrap_or(0);
        let mut counts = vec![vec![0; n]; n];
        predictions.iter().for_each(|&(a, b)| counts[a as usize][b as usize] += 1);
        Self(counts)
    }

    /// The mean of F1 = 2·tp / (2·tp + fp + fn) over the classes that occur or were predicted.
    pub fn macro_f1(&self) -> f64 {
        let n = self.0.len();
        let f1 = (0..n).filter_map(|k| {
            let row: u64 = self.0[k].iter().sum();
            let column: u64 = self.0.iter().map(|row| row[k]).sum();
            (row + column > 0).then(|| 2.0 * self.0[k][k] as f64 / (row + column) as f64)
        });
        let (sum, count) = f1.fold((0.0, 0.0), |(sum, count), f1| (sum + f1, count + 1.0));
        if count > 0.0 { sum / count } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confusion_and_f1() {
        // Class 0: tp 2, fn 1, fp 0; class 1: tp 1, fn 0, fp 1; class 2 never occurs.
        let confusion = Confusion::new(&[(0, 0), (0, 0), (0, 1), (1, 1)]);
        assert_eq!(confusion.0, [[2, 1], [0, 1]]);
        assert!((confusion.macro_f1() - (0.8 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(Confusion::default().macro_f1(), 0.0);
    }
}
