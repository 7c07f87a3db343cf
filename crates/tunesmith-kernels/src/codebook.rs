//! Numbers as 4-bit codes of a table of 16 values, with one scale for each block: what NF4 is made of.
//!
//! ```text
//! x[i] ≈ table[code[i]] · scale[i / block]        scale = the block's largest |x|
//! ```
//! Written in tensor operations, either way needs some ten times the memory of the codes for tables of indices and for
//! values in fp32; here nothing is made but the result.

use crate::{
    element::{Element, by_kind, memory},
    parallel::{Shared, for_each},
};
use tch::{Device, Kind, Tensor};

/// Elements of one task, a multiple of every block that is used.
const CHUNK: usize = 1 << 16;

/// The blocks' scales, fp32 (⌈E/block⌉), of `x` (E), fp32 or bf16. Writes the codes of the nearest values into `codes`, u8
/// (⌈E/2⌉): two each, the first in the high half; a half that is left over holds `rest`.
///
/// # Panics
/// A tensor that is not contiguous on the CPU; a block that is odd or does not divide 65,536.
pub fn quantise_blocks(
    x: &Tensor,
    table: &[f32; 16],
    block: usize,
    rest: u8,
    codes: &Tensor,
) -> Tensor {
    assert!(block.is_multiple_of(2) && CHUNK.is_multiple_of(block), "a block of {block}");
    let n = x.numel();
    check_codes(codes, n);
    let scales = Tensor::empty([n.div_ceil(block) as i64], (Kind::Float, Device::Cpu));
    let middles: [f32; 15] = std::array::from_fn(|i| (table[i] + table[i + 1]) / 2.0);
    let to = Shared(codes.data_ptr().cast::<u8>());
    let scale_to = Shared(memory::<f32>(&scales));
    by_kind!(x.kind(), E => {
        let from = Shared(memory::<E>(x));
        for_each(n.div_ceil(CHUNK), |task| {
            let end = n.min((task + 1) * CHUNK);
            for start in (task * CHUNK..end).step_by(block) {
                let len = block.min(end - start);
                // SAFETY: elements start.. of a tensor of n, and the bytes and the scale that stand for them: each belongs
                // to one task, as a block begins on a whole byte.
                let (x, codes, scale) = unsafe {
                    let x = std::slice::from_raw_parts(from.get().add(start).cast_const(), len);
                    let codes = to.get().add(start / 2);
                    let codes = std::slice::from_raw_parts_mut(codes, len.div_ceil(2));
                    (x, codes, &mut *scale_to.get().add(start / block))
                };
                *scale = quantise_block(x, &middles, codes, rest);
            }
        });
    });
    scales
}

/// # Panics
/// If `codes` do not stand for `n` numbers, or are not here.
fn check_codes(codes: &Tensor, n: usize) {
    assert_eq!((codes.kind(), codes.device()), (Kind::Uint8, Device::Cpu), "codes");
    assert!(codes.is_contiguous() && codes.numel() == n.div_ceil(2), "a code for each of {n}");
}

fn quantise_block<E: Element>(x: &[E], middles: &[f32; 15], codes: &mut [u8], rest: u8) -> f32 {
    let larger = |m: f32, a: f32| if a > m || a.is_nan() { a } else { m };
    let scale = x.iter().map(|x| x.to_f32().abs()).fold(0.0, larger);
    let inverse = 1.0 / scale.max(1e-38);
    let code = |x: &E| {
        let x = (x.to_f32() * inverse).clamp(-1.0, 1.0);
        middles.iter().map(|&middle| u8::from(middle < x)).sum::<u8>()
    };
    for (to, pair) in codes.iter_mut().zip(x.chunks(2)) {
        *to = code(&pair[0]) * 16 + pair.get(1).map_or(rest, code);
    }
    scale
}

/// Writes what `codes` of [`quantise_blocks`] stand for into `out`, fp32 or bf16: each value the table's times the block's
/// scale, in fp32, then rounded.
///
/// # Panics
/// Tensors that are not contiguous on the CPU, or do not belong together.
pub fn dequantise_blocks(
    codes: &Tensor,
    scales: &Tensor,
    table: &[f32; 16],
    block: usize,
    out: &Tensor,
) {
    assert!(block.is_multiple_of(2) && CHUNK.is_multiple_of(block), "a block of {block}");
    let n = out.numel();
    check_codes(codes, n);
    assert_eq!(scales.numel(), n.div_ceil(block), "scales of {n}");
    let from = Shared(codes.data_ptr().cast::<u8>());
    let scales = Shared(memory::<f32>(scales));
    by_kind!(out.kind(), E => {
        let to = Shared(memory::<E>(out));
        for_each(n.div_ceil(CHUNK), |task| {
            let end = n.min((task + 1) * CHUNK);
            for start in (task * CHUNK..end).step_by(block) {
                let len = block.min(end - start);
                // SAFETY: elements start.. of a tensor of n, which belong to one task, and what stands for them.
                let (codes, scale, out) = unsafe {
                    let codes = from.get().add(start / 2).cast_const();
                    let out = std::slice::from_raw_parts_mut(to.get().add(start), len);
                    let scale = *scales.get().add(start / block);
                    (std::slice::from_raw_parts(codes, len.div_ceil(2)), scale, out)
                };
                let values: [E; 16] = std::array::from_fn(|code| E::from_f32(table[code] * scale));
                for (pair, byte) in out.chunks_mut(2).zip(codes) {
                    pair[0] = values[usize::from(byte >> 4)];
                    if let Some(second) = pair.get_mut(1) {
                        *second = values[usize::from(byte & 15)];
                    }
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [f32; 16] = [
        -1.0, -0.7, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72,
        1.0,
    ];

    /// The same in tensor operations: nearest values by bucket, look-up, product.
    #[test]
    fn codes_and_values_are_those_of_their_twin() {
        tch::manual_seed(7);
        let table = Tensor::from_slice(&TABLE);
        for (n, block) in [(64, 64), (65_536 + 192, 64), (3 * 43, 64), (1, 64), (200_001, 32)] {
            for kind in [Kind::Float, Kind::BFloat16] {
                let x = Tensor::randn([n], (kind, Device::Cpu));
                let codes = Tensor::empty([(n + 1) / 2], (Kind::Uint8, Device::Cpu));
                let scales = quantise_blocks(&x, &TABLE, block as usize, 7, &codes);

                let blocks = (n + block - 1) / block;
                let padded = x.to_kind(Kind::Float).constant_pad_nd([0, blocks * block - n]);
                let padded = padded.view([blocks, block]);
                let largest = padded.abs().amax([1i64].as_slice(), false);
                assert_eq!(scales, largest, "{n} {kind:?}");
                let scaled =
                    (&padded * largest.clamp_min(1e-38).reciprocal().unsqueeze(1)).clamp(-1.0, 1.0);
                let middles = (table.narrow(0, 0, 15) + table.narrow(0, 1, 15)) / 2.0;
                let expected = scaled.bucketize(&middles, true, false).view([-1]).narrow(0, 0, n);
                let pairs = codes.to_kind(Kind::Int);
                let high = pairs.divide_scalar_mode(16, "floor");
                let both = Tensor::stack(&[&high, &(&pairs - &high * 16)], 1).view([-1]);
                assert_eq!(both.narrow(0, 0, n), expected, "{n} {kind:?}");
                if n % 2 == 1 {
                    assert_eq!(both.int64_value(&[n]), 7);
                }

                let out = Tensor::empty([n], (kind, Device::Cpu));
                dequantise_blocks(&codes, &scales, &TABLE, block as usize, &out);
                let each = scales.repeat_interleave_self_int(block, 0, None::<i64>).narrow(0, 0, n);
                let expected = (table.index_select(0, &expected) * each).to_kind(kind);
                assert_eq!(out, expected, "{n} {kind:?}");
            }
        }
    }
}
