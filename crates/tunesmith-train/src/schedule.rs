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
    /// Steps of linear rise from 0 to the peak; step `s` of them runs at lr · (s + 1) / warmup_steps.
    pub warmup_steps: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { lr: 2e-5, decay: Decay::Linear, warmup_steps: 0 }
    }
}

impl Schedule {
    /// The rate of step `step` (from 0), when `progress` (0 to 1) of the run lies behind it.
    ///
    /// Five steps, linear, lr 1: 1, 0.8, 0.6, 0.4, 0.2. The first step gets the full rate.
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
}
