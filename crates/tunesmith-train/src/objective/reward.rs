//! A reward model: one score per document, read off its last token (Bradley & Terry 1952; Ouyang et al. 2022, eq. 1).
//!
//! ```text
//! loss = Σ −w ln σ(s_c − s_r − margin) / Σ w  +  λ · Σ w (s_c + s_r)² / Σ w      over pairs; w: of the row, 1 unless it says so
//! ```
//!
//! The second term, with λ > 0, keeps scores around zero (Eisenstein et al. 2023, section 2). The margin is the chosen
//! document's label (Touvron et al. 2023, eq. 2); 0 where it has none.

use super::{
    Metric, Objective, Term, Terms, Unit,
    documents::{PairIndex, doc_scores},
};
use crate::{Reading, TrainError};
use tch::{Kind, Tensor};

/// The objective; the model has a head of one label.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reward {
    /// λ; 0: none.
    pub center_coefficient: f64,
}

impl Objective for Reward {
    fn units(&self) -> &[Unit] {
        &[Unit::Pairs]
    }

    fn terms(&self, reading: &Reading<'_>) -> Result<Terms, TrainError> {
        let batch = reading.batch;
        let index = PairIndex::new(batch)?;
        let scores = doc_scores(reading)?.select(1, 0); // (D)
        let [chosen, rejected] = index.split(&scores);
        let margin = |&doc: &i64| batch.docs[doc as usize].label.unwrap_or(0.0);
        let margins: Vec<f32> = index.chosen.iter().map(margin).collect();
        let gap = &chosen - &rejected;
        let margins = Tensor::from_slice(&margins).to_device(gap.device());
        let weights = index.weights(gap.device());
        let ranking = -((&gap - margins).log_sigmoid() * &weights).sum(Kind::Float);
        let mut terms = vec![Term { unit: Unit::Pairs, weight: 1.0, sum: ranking }];
        if self.center_coefficient > 0.0 {
            let sum = ((&chosen + &rejected).square() * &weights).sum(Kind::Float);
            terms.push(Term { unit: Unit::Pairs, weight: self.center_coefficient, sum });
        }
        let metrics = tch::no_grad(|| {
            let scores = Tensor::cat(&[&chosen, &rejected], 0);
            let twice = Tensor::cat(&[&weights, &weights], 0);
            let one =
                |name, value: Tensor| Metric { name, sum: value.double_value(&[]), count: 1.0 };
            vec![
                one("min_reward", scores.min()),
                Metric::weighted("mean_reward", &scores, &twice),
                one("max_reward", scores.max()),
                Metric::weighted("accuracy", &gap.gt(0.0), &weights),
                Metric::weighted("margin", &gap, &weights),
            ]
        });
        Ok(Terms { terms, metrics, ..Terms::default() })
    }
}
