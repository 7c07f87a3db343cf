//! Random numbers as pure functions of what they are for: no generator has a state to store.

use tch::{Device, Kind, Tensor};
pub(crate) use tunesmith_kernels::random::{mix, stream};

/// A standard normal number (Box–Muller), a pure function of `(stream, index)`.
pub(crate) fn normal(stream: u64, index: u64) -> f64 {
    let uniform =
        |k: u64| ((mix(stream ^ mix(2 * index + k)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    (-2.0 * uniform(0).ln()).sqrt() * (std::f64::consts::TAU * uniform(1)).cos()
}

/// Numbers in [0, 1) of 24 bits each, fp32, computed where the tensor lies; each a pure function of
/// `(stream, index)`.
pub(crate) fn uniform(stream: u64, shape: &[i64], device: Device) -> Tensor {
    let n: i64 = shape.iter().product();
    let index = mix_tensor(&Tensor::arange(n, (Kind::Int64, device)));
    let bits = shift(&mix_tensor(&index.bitwise_xor(stream as i64)), 40);
    (bits.to_kind(Kind::Float) / (1 << 24) as f64).view(shape)
}

/// [`mix`] of each element: libtorch's i64 arithmetic wraps.
fn mix_tensor(x: &Tensor) -> Tensor {
    let x = x + 0x9e37_79b9_7f4a_7c15_u64 as i64;
    let x = x.bitwise_xor_tensor(&shift(&x, 30)) * 0xbf58_476d_1ce4_e5b9_u64 as i64;
    let x = x.bitwise_xor_tensor(&shift(&x, 27)) * 0x94d0_49bb_1331_11eb_u64 as i64;
    x.bitwise_xor_tensor(&shift(&x, 31))
}

/// A shift to the right that brings in zeros; libtorch's brings in the sign.
fn shift(x: &Tensor, bits: i64) -> Tensor {
    x.bitwise_right_shift_tensor_scalar(bits).bitwise_and((1_i64 << (64 - bits)) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number in [0, 1), a pure function of `(stream, index)`.
    fn unit(stream: u64, index: u64) -> f64 {
        (mix(stream ^ mix(index)) >> 11) as f64 / (1u64 << 53) as f64
    }

    #[test]
    fn tensors_hold_the_numbers_of_the_formula() {
        let stream = stream(7, "model.layers.0.mlp.up_proj");
        let found = Vec::<f32>::try_from(uniform(stream, &[600], Device::Cpu)).unwrap();
        for (index, found) in found.into_iter().enumerate() {
            let expected =
                (unit(stream, index as u64) * f64::from(1 << 24)).floor() / f64::from(1 << 24);
            assert_eq!(f64::from(found), expected, "{index}");
        }
    }

    #[test]
    fn they_are_uniform_and_normal() {
        let n = 100_000;
        let mean = (0..n).map(|i| unit(3, i)).sum::<f64>() / n as f64;
        let square = (0..n).map(|i| normal(3, i).powi(2)).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 5e-3 && (square - 1.0).abs() < 2e-2, "{mean}, {square}");
    }
}
