//! Loss spikes: a step that is far outside what the steps before it were like.
//!
//! A step is a spike if its loss or its gradient norm lies more than six standard deviations above the mean of up to 128
//! steps before it, the rule of OLMo's `SkipStepOptimizer`. The loss of ordinary training wanders by less than three.

use serde::{Deserialize, Serialize};

/// Steps that are remembered.
const WINDOW: usize = 128;
/// Steps that must be remembered before any can be a spike.
const ENOUGH: usize = 64;
/// Standard deviations.
const SIGMAS: f64 = 6.0;
/// Spikes in a row after which the new level is believed.
const BELIEVED: u32 = 4;

/// What becomes of a step whose loss or gradient norm spikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnSpike {
    /// It is made like any other.
    #[default]
    Ignore,
    /// Its update is left out; the run goes on with the next rows. The fifth in a row is believed.
    Skip,
    /// The run ends before the update.
    Stop,
    /// The run goes back to the newest checkpoint and on with the rows behind the spike.
    RollBack,
}

/// A step that is far from those before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spike {
    /// `loss` or `grad_norm`.
    pub what: &'static str,
    /// Its value.
    pub value: f64,
    /// The mean of the steps before.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
}

/// What the last steps were like.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Recent {
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
    in_a_row: u32,
}

impl Recent {
    /// Whether a step with these values is a spike; if not, it is remembered.
    pub fn judge(&mut self, loss: f64, grad_norm: f64) -> Option<Spike> {
        let sides = [("loss", loss, &self.losses), ("grad_norm", grad_norm, &self.grad_norms)];
        let found = sides.into_iter().find_map(|(what, value, before)| {
            let (mean, deviation) = moments(before)?;
            (value > mean + SIGMAS * deviation).then_some(Spike { what, value, mean, deviation })
        });
        if found.is_some() && self.in_a_row < BELIEVED {
            self.in_a_row += 1;
            return found;
        }
        if found.is_some() {
            *self = Self::default();
        }
        self.in_a_row = 0;
        for (values, value) in [(&mut self.losses, loss), (&mut self.grad_norms, grad_norm)] {
            if values.len() == WINDOW {
                values.remove(0);
            }
            values.push(value);
        }
        None
    }
}

fn moments(values: &[f64]) -> Option<(f64, f64)> {
    if values.len() < ENOUGH {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Some((mean, variance.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loss that falls and wanders, as losses do.
    fn calm(step: usize) -> f64 {
        2.0 + 2.0 / (1.0 + step as f64 / 50.0) + 0.1 * (step as f64 * 1.7).sin()
    }

    #[test]
    fn a_calm_run_has_none_and_a_jump_is_one() {
        let mut recent = Recent::default();
        for step in 0..1000 {
            assert_eq!(recent.judge(calm(step), 1.0 + 0.3 * (step as f64).cos()), None, "{step}");
        }
        let spike = recent.judge(5.0, 1.0).unwrap();
        assert_eq!((spike.what, spike.value), ("loss", 5.0));
        assert_eq!(recent.judge(2.1, 40.0).unwrap().what, "grad_norm");
        assert_eq!(recent.judge(2.1, 1.0), None, "a spike is not remembered as ordinary");
    }

    #[test]
    fn a_young_run_has_none_and_a_new_level_is_believed() {
        let mut recent = Recent::default();
        for step in 0..ENOUGH {
            let wild = if step % 9 == 0 { 50.0 } else { 1.0 };
            assert_eq!(Recent { in_a_row: 0, ..recent.clone() }.judge(wild, 1.0), None);
            recent.judge(1.0 + 0.01 * (step % 7) as f64, 1.0);
        }
        let spikes = (0..6).filter(|_| recent.judge(9.0, 1.0).is_some()).count();
        assert_eq!(spikes, BELIEVED as usize);
    }
}
