//! Rotary position embeddings (Su et al. 2021, "RoFormer"), in the half-split layout of Hugging Face checkpoints.
//!
//! Shapes: N tokens, D head size.
//!
//! Dimension `i` and `i + D/2` of a head form a pair that turns by `position · theta^(-2i/D)`.

use crate::config::{Position, RopeScaling};
use tch::{Device, Kind, Tensor};

/// Inverse frequencies of one model.
#[derive(Debug)]
pub(crate) struct Rope {
    inv_freq: Tensor, // (D/2), fp32
}

/// cos and sin of a batch's positions, computed once per forward and used by every layer.
#[derive(Debug)]
pub(crate) struct Rotation {
    cos: Tensor, // (N, 1, D)
    sin: Tensor, // (N, 1, D)
}

impl Rope {
    /// `None` where positions are learned.
    pub(crate) fn new(position: &Position, head_dim: i64, device: Device) -> Option<Self> {
        let Position::Rotary { theta, scaling } = position else { return None };
        let inv_freq: Vec<f32> =
            (0..head_dim / 2).map(|i| inv_freq(*theta, 2 * i, head_dim, scaling)).collect();
        Some(Self { inv_freq: Tensor::from_slice(&inv_freq).to_device(device) })
    }

    /// The rotation of `positions` (N), for heads of dtype `kind`.
    pub(crate) fn at(&self, positions: &Tensor, kind: Kind) -> Rotation {
        let angles = positions.to_kind(Kind::Float).outer(&self.inv_freq); // (N, D/2)
        let angles = Tensor::cat(&[&angles, &angles], -1).unsqueeze(1); // (N, 1, D)
        Rotation { cos: angles.cos().to_kind(kind), sin: angles.sin().to_kind(kind) }
    }
}

impl Rotation {
    /// A handle on the same numbers.
    pub(crate) fn shallow_clone(&self) -> Self {
        Self { cos: self.cos.shallow_clone(), sin: self.sin.shallow_clone() }
    }

    /// Turns `x` (N, heads, D) in place, by kernel; forward or back.
    pub(crate) fn rotate_(&self, x: &Tensor, forward: bool) {
        tunesmith_kernels::rotate_(x, &self.cos, &self.sin, forward);
    }

    /// Turns `x` (N, heads, D).
    pub(crate) fn apply(&self, x: &Tensor) -> Tensor {
        let halves = x.chunk(2, -1);
        let turned = Tensor::cat(&[&-&halves[1], &halves[0]], -1);
        x * &self.cos + turned * &self.sin
    }
}

/// By how much each frequency of a head is divided, (D/2).
pub(crate) fn factors(theta: f64, head_dim: i64, scaling: &RopeScaling) -> Vec<f32> {
    let at = |i, scaling: &RopeScaling| inv_freq(theta, 2 * i, head_dim, scaling);
    (0..head_dim / 2).map(|i| at(i, &RopeScaling::Default) / at(i, scaling)).collect()
}

/// fp32 arithmetic in the order of transformers, so that the frequencies agree to the last bit.
fn inv_freq(theta: f64, dim: i64, head_dim: i64, scaling: &RopeScaling) -> f32 {
    let base = 1.0 / (theta as f32).powf(dim as f32 / head_dim as f32);
    match *scaling {
        RopeScaling::Default => base,
        RopeScaling::Linear { factor } => base / factor as f32,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let (base, old) = (f64::from(base), original_max_position_embeddings);
            let wavelength = std::f64::consts::TAU / base;
            if wavelength > old / low_freq_factor {
                (base / factor) as f32
            } else if wavelength < old / high_freq_factor {
                base as f32
            } else {
                let smooth =
                    (old / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                ((1.0 - smooth) * base / factor + smooth * base) as f32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_high_and_divides_low_frequencies() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let at = |dim, scaling: &RopeScaling| inv_freq(500_000.0, dim, 128, scaling);
        assert_eq!(at(0, &scaling), at(0, &RopeScaling::Default));
        assert_eq!(at(126, &scaling), at(126, &RopeScaling::Default) / 8.0);
    }

    #[test]
    fn position_zero_turns_nothing() {
        let position = Position::Rotary { theta: 10_000.0, scaling: RopeScaling::Default };
        let rope = Rope::new(&position, 4, Device::Cpu).unwrap();
        let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0]).view([1, 1, 4]);
        let rotation = rope.at(&Tensor::from_slice(&[0i64]), Kind::Float);
        assert_eq!(rotation.apply(&x), x);
    }
}
