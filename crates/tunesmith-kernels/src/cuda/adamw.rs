//! AdamW on the GPU: one launch for all parameters whose moments are kept alike. A launch takes some 5 µs to start, which
//! the hundreds of small matrices of an adapter would each pay.

use super::{
    launch::{Arg, Grid, launch},
    ops::THREADS,
};
use crate::{AdamWParam, AdamWStep, Moments, Weight, adamw::Factors};
use std::ffi::CStr;
use tch::{Device, Kind, Tensor};

/// What a kernel works in where it is not fp32.
const NARROW: Kind = Kind::BFloat16;
/// Elements of a block of threads, as in `cuda/adamw.cu`.
const CHUNK: usize = 16_384;
/// 8-byte words of `Param` there.
const WORDS: usize = 11;

/// Each parameter on the device of its gradient.
pub(crate) fn adamw_(params: &[&AdamWParam], step: &AdamWStep) {
    for device in devices(params) {
        let here = params.iter().filter(|param| param.grad.device() == device);
        let (blockwise, fp32) =
            here.partition(|param| matches!(param.moments, Moments::Blockwise(_)));
        update(c"adamw", device, fp32, step);
        update(c"adamw_blockwise", device, blockwise, step);
    }
}

fn devices(params: &[&AdamWParam]) -> Vec<Device> {
    let mut devices = Vec::new();
    for device in params.iter().map(|param| param.grad.device()) {
        if !devices.contains(&device) {
            devices.push(device);
        }
    }
    devices
}

fn update(name: &'static CStr, device: Device, params: Vec<&AdamWParam>, step: &AdamWStep) {
    if params.is_empty() {
        return;
    }
    let (words, blocks) = table(&params, step, device);
    // Freed in the order of the stream, so after the kernel has read it.
    let table = Tensor::from_slice(&words).to_device(device);
    let f = Factors::of(step, 0.0);
    let shared = [f.clip, f.one_minus_beta1, f.beta2, f.one_minus_beta2, f.eps, f.inv_sqrt_bias2];
    let mut args = vec![Arg::Longs(&table), Arg::Int(params.len() as i32)];
    args.extend(shared.map(Arg::Float));
    launch(name, NARROW, device, Grid { blocks, threads: THREADS, shared: 0 }, &args);
}

/// The parameters as the kernel reads them, and how many blocks of threads they take.
///
/// # Panics
/// A tensor that is elsewhere, of another dtype, or not contiguous.
fn table(params: &[&AdamWParam], step: &AdamWStep, device: Device) -> (Vec<i64>, u32) {
    let mut words = Vec::with_capacity(params.len() * WORDS);
    let mut first = 0;
    for AdamWParam { weight, grad, moments, lr } in params {
        let n = grad.numel();
        let (w, copy, stream) = match *weight {
            Weight::Fp32(w) => (Some(w), None, 0),
            Weight::Master(w, copy) => (Some(w), Some(copy), 0),
            Weight::Bf16(w, stream) => (None, Some(w), stream),
        };
        let none = Arg::MaybeFloats(None);
        let moments = match moments {
            Moments::Fp32([m, v]) => [Arg::Floats(m), Arg::Floats(v), none, none],
            Moments::Blockwise([m, v]) => [
                Arg::Codes(&m.codes),
                Arg::Codes(&v.codes),
                Arg::Floats(&m.scales),
                Arg::Floats(&v.scales),
            ],
        };
        let begin = [
            Arg::Long(first),
            Arg::Long(n as i64),
            Arg::MaybeFloats(w),
            Arg::Maybe(copy),
            Arg::Long(stream as i64),
            Arg::Floats(grad),
        ];
        let words_of = |arg: &Arg| arg.word(NARROW, device) as i64;
        words.extend(begin.iter().chain(&moments).map(words_of));
        let factors = Factors::of(step, *lr);
        let [keep, rate] = [factors.keep, factors.rate].map(|x| u64::from(x.to_bits()));
        words.push((rate << 32 | keep) as i64);
        first += n.div_ceil(CHUNK) as i64;
    }
    (words, first as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Blockwise;

    const STEP: AdamWStep =
        AdamWStep { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, clip: 1.0, t: 1 };

    /// The table knows nothing of a device, so it is made of tensors on the CPU.
    #[test]
    fn parameters_lie_in_the_words_that_the_kernel_reads() {
        let zeros = |n: usize, kind| Tensor::zeros([n as i64], (kind, Device::Cpu));
        let (large, small) = (2 * CHUNK + 1, 3);
        let [w, grad, m, v] = [(); 4].map(|()| zeros(large, Kind::Float));
        let fp32 = Moments::Fp32([m.shallow_clone(), v.shallow_clone()]);
        let (alone, small_grad) = (zeros(small, Kind::BFloat16), zeros(small, Kind::Float));
        let blocks = Moments::Blockwise([(); 2].map(|()| Blockwise::zeros_like(&alone)));
        let weight = Weight::Bf16(&alone, 7);
        let params = [
            &AdamWParam { weight: Weight::Fp32(&w), grad: &grad, moments: &fp32, lr: 0.5 },
            &AdamWParam { weight, grad: &small_grad, moments: &blocks, lr: 0.25 },
        ];
        let (words, n_blocks) = table(&params, &STEP, Device::Cpu);
        assert_eq!(n_blocks, 4, "three for the large one");
        assert_eq!(words.len(), 2 * WORDS);
        let address = |x: &Tensor| x.data_ptr() as i64;
        let expected =
            [0, large as i64, address(&w), 0, 0, address(&grad), address(&m), address(&v)];
        assert_eq!(words[..8], expected);
        assert_eq!(words[8..10], [0, 0], "no scales");
        let Moments::Blockwise([m, v]) = &blocks else { panic!("8 bits") };
        let expected = [3, small as i64, 0, address(&alone), 7, address(&small_grad)];
        assert_eq!(words[WORDS..WORDS + 6], expected);
        let expected = [&m.codes, &v.codes, &m.scales, &v.scales].map(address);
        assert_eq!(words[WORDS + 6..WORDS + 10], expected);
        let floats = [0, 32].map(|shift| f32::from_bits((words[WORDS + 10] >> shift) as u32));
        assert_eq!(floats, [1.0 - 0.25 * 0.1, 0.25 / (1.0 - 0.9_f64) as f32], "keep and rate");
    }

    #[test]
    #[should_panic(expected = "dtype and device")]
    fn a_gradient_in_bf16_is_refused() {
        let narrow = Tensor::zeros([3], (Kind::BFloat16, Device::Cpu));
        let moments = Moments::Fp32([(); 2].map(|()| narrow.to_kind(Kind::Float)));
        let weight = Weight::Bf16(&narrow, 0);
        table(
            &[&AdamWParam { weight, grad: &narrow, moments: &moments, lr: 1.0 }],
            &STEP,
            Device::Cpu,
        );
    }
}
