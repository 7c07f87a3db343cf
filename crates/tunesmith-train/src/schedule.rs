//! The learning rate as a pure function of how far the run is.

use serde::{Deserialize, Serialize};

/// The shape of the decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// lr · (1 − progress).
    #[default]
    Linear,
    /// lr · ½(1 + cos(π · progress)), Loshchilov & Hutter 2017.
    Cosine,
    /// lr.
    Constant,
}

/// Knobs of the learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Peak learning rate.
    pub lr: f64,
    /// How it falls: `linear`, `cosine` or `constant`.
    pub decay: Decay,
    /// Steps of linear rise to the peak; step `s` (from 0) of them runs at lr · (s + 1) / warmup_steps.
    ///
    /// transformers has lr · s / warmup_steps there, and so a first step that changes nothing.
    pub warmup_steps: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { lr: 2e-5, decay: Decay::Linear, warmup_steps: 0 }
    }
}

impl Schedule {
    /// The rate of step `step` (from 0) of `n_steps`: the decay runs over the steps that the warm-up leaves, and reaches
    /// 0 behind the last one, as transformers' schedules with warm-up do.
    ///
    /// Five steps, linear, lr 1: 1, 0.8, 0.6, 0.4, 0.2. The first step gets the full rate.
    pub fn at_step(&self, step: u64, n_steps: u64) -> f64 {
        let done = step.saturating_sub(self.warmup_steps);
        let left = n_steps.saturating_sub(self.warmup_steps).max(1);
        self.at(step, done as f64 / left as f64)
    }

    /// The rate of step `step` (from 0) where nobody knows how many there will be: `progress` (0 to 1) of the data lies
    /// behind it, the warm-up's included.
    ///
    /// The decay follows `progress` as it is, so that the rate drops a little when a warm-up ends.
    pub fn at(&self, step: u64, progress: f64) -> f64 {
        if step < self.warmup_steps {
            return self.lr * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let progress = progress.clamp(0.0, 1.0);
        self.lr
            * match self.decay {
                Decay::Linear => 1.0 - progress,
                Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
                Decay::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_step_is_full_and_zero_lies_behind_the_last() {
        let check = |decay, warmup_steps, expected: [f64; 5]| {
            let schedule = Schedule { lr: 1.0, decay, warmup_steps };
            for (step, want) in (0u64..).zip(expected) {
                let got = schedule.at(step, step as f64 / 4.0);
                assert!(
                    (got - want).abs() < 1e-12,
                    "{decay:?} step {step}: {got}, expected {want}"
                );
            }
        };
        check(Decay::Linear, 0, [1.0, 0.75, 0.5, 0.25, 0.0]);
        check(Decay::Cosine, 0, [1.0, 0.5 + 0.125f64.sqrt(), 0.5, 0.5 - 0.125f64.sqrt(), 0.0]);
        check(Decay::Constant, 2, [0.5, 1.0, 1.0, 1.0, 1.0]);
        check(Decay::Linear, 1, [1.0, 0.75, 0.5, 0.25, 0.0]);
    }

    /// get_linear_schedule_with_warmup and get_cosine_schedule_with_warmup of transformers, from the end of the warm-up.
    #[test]
    fn decay_after_warmup_agrees_with_transformers() {
        for (warmup_steps, n_steps) in [(0u64, 5u64), (3, 10), (1, 2), (3, 4)] {
            let (w, n) = (warmup_steps as f64, n_steps as f64);
            for step in warmup_steps..n_steps {
                let s = step as f64;
                let linear = ((n - s) / (n - w).max(1.0)).max(0.0);
                let progress = (s - w) / (n - w).max(1.0);
                let cosine = (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0);
                for (decay, want) in [(Decay::Linear, linear), (Decay::Cosine, cosine)] {
                    let got = Schedule { lr: 2.0, decay, warmup_steps }.at_step(step, n_steps);
                    assert!(
                        (got - 2.0 * want).abs() < 1e-12,
                        "{decay:?}, step {step} of {n_steps} after {warmup_steps}: {got}, expected {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_jumps_where_the_warmup_ends() {
        let schedule = Schedule { lr: 1.0, decay: Decay::Linear, warmup_steps: 4 };
        let rates: Vec<f64> = (0..8).map(|step| schedule.at_step(step, 8)).collect();
        assert_eq!(rates, [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]);
    }
}
