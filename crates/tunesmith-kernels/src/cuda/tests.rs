//! Every kernel on the GPU against its twin on the CPU, which has been held against its definition. Without a GPU these
//! tests say that they are skipped.

use super::load;
use crate::{
    AdamWParam, AdamWStep, AttentionShape, Blockwise, Moments, Prefix, Weight, adamw_, attention,
    attention_backward, label_scores, label_scores_backward_, rms_norm, rms_norm_backward, rotate_,
    swiglu, swiglu_backward_,
    twin::{assert_close, assert_within, randn},
};
use tch::{Device, Kind, Tensor};

const KINDS: [Kind; 2] = [Kind::Float, Kind::BFloat16];

#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
fn gpu() -> Option<Device> {
    match load() {
        Ok(true) => Some(Device::Cuda(0)),
        Ok(false) => {
            eprintln!("skipped: no NVIDIA GPU answers");
            None
        }
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// Compares what `compute` gives on both devices.
fn both(what: &str, device: Device, inputs: &[Tensor], compute: impl Fn(&[Tensor]) -> Vec<Tensor>) {
    let there: Vec<Tensor> = inputs.iter().map(|x| x.to_device(device)).collect();
    let here: Vec<Tensor> = inputs.iter().map(Tensor::copy).collect();
    for (i, (found, expected)) in compute(&there).iter().zip(compute(&here)).enumerate() {
        assert_close(&format!("{what}, {i}"), &found.to_device(Device::Cpu), &expected);
    }
}

#[test]
fn norms() {
    let Some(device) = gpu() else { return };
    for kind in KINDS {
        for (n, c) in [(7, 64), (300, 576), (5, 2048), (3, 37)] {
            let inputs = [
                randn(&[n, c], kind),
                randn(&[c], kind),
                randn(&[n, c], kind),
                randn(&[n, c], kind),
            ];
            both(&format!("rms_norm {n}×{c}"), device, &inputs, |t| {
                let [x, w, dy, dx] = t else { return Vec::new() };
                let (y, rstd) = rms_norm(x, w, 1e-5);
                let dw = rms_norm_backward(dy, x, w, &rstd, dx, true);
                vec![y, rstd, dx.shallow_clone(), dw.unwrap_or_default()]
            });
        }
    }
}

#[test]
fn rotations_and_gates() {
    let Some(device) = gpu() else { return };
    for kind in KINDS {
        let turn = [randn(&[50, 3, 64], kind), randn(&[50, 64], kind), randn(&[50, 64], kind)];
        both("rotate", device, &turn, |t| {
            let there = t[0].copy();
            rotate_(&there, &t[1], &t[2], true);
            let back = t[0].copy();
            rotate_(&back, &t[1], &t[2], false);
            vec![there, back]
        });
        for n in [1, 1000, 100_003] {
            let gate = [randn(&[n], kind), randn(&[n], kind), randn(&[n], kind)];
            both(&format!("swiglu {n}"), device, &gate, |t| {
                let out = swiglu(&t[0], &t[1]);
                swiglu_backward_(&t[2], &t[0], &t[1]);
                vec![out, t[0].shallow_clone(), t[1].shallow_clone()]
            });
        }
    }
}

#[test]
fn scores() {
    let Some(device) = gpu() else { return };
    for kind in KINDS {
        for (n, v) in [(4, 96), (33, 49_152), (5, 1001)] {
            let labels = Tensor::arange(n, (Kind::Int64, Device::Cpu)) * (v / n);
            let inputs = [randn(&[n, v], kind) * 3.0, labels, randn(&[n], Kind::Float)];
            both(&format!("label_scores {n}×{v}"), device, &inputs, |t| {
                let found = label_scores(&t[0], &t[1]);
                label_scores_backward_(&t[0], &t[1], &found.lse, &t[2]);
                let correct = found.correct.to_kind(Kind::Float);
                vec![found.logprobs, found.lse, correct, t[0].shallow_clone()]
            });
        }
    }
}

/// Moments in 8 bits of the same numbers may differ by a code where an ulp decides; a weight rounded by chance, by a step.
#[test]
fn updates() {
    let Some(device) = gpu() else { return };
    let (eps, t) = (1e-8, 3);
    let step = AdamWStep { beta1: 0.9, beta2: 0.999, eps, weight_decay: 0.1, clip: 0.5, t };
    fn update(weight: Weight, grad: &Tensor, moments: &Moments, step: &AdamWStep) {
        adamw_(&[AdamWParam { weight, grad, moments, lr: 1e-3 }], step);
    }
    let n = 70_001;
    let (w, narrow) = (randn(&[n], Kind::Float), randn(&[n], Kind::BFloat16));
    let (g, m, v) =
        (randn(&[n], Kind::Float), randn(&[n], Kind::Float), randn(&[n], Kind::Float).square());
    let inputs = [w, narrow, g, m, v];
    both("adamw", device, &inputs, |t| {
        let moments = Moments::Fp32([t[3].shallow_clone(), t[4].shallow_clone()]);
        update(Weight::Master(&t[0], &t[1]), &t[2], &moments, &step);
        t.iter().map(Tensor::shallow_clone).collect()
    });
    both("adamw in bf16 alone", device, &inputs, |t| {
        let moments = Moments::Fp32([t[3].shallow_clone(), t[4].shallow_clone()]);
        update(Weight::Bf16(&t[1], 5), &t[2], &moments, &step);
        t.iter().map(Tensor::shallow_clone).collect()
    });
    both("adamw in 8 bits", device, &inputs, |t| {
        let blocks = [(); 2].map(|()| Blockwise::zeros_like(&t[0]));
        let scales = blocks.each_ref().map(|x| x.scales.shallow_clone());
        let codes = blocks.each_ref().map(|x| x.codes.shallow_clone());
        let moments = Moments::Blockwise(blocks);
        for _ in 0..3 {
            update(Weight::Fp32(&t[0]), &t[2], &moments, &step);
        }
        // Of 256 codes one more or less is 4e-3 of the largest: as bf16 is compared.
        let codes = codes.map(|x| x.to_kind(Kind::BFloat16));
        scales.into_iter().chain(codes).chain([t[0].to_kind(Kind::BFloat16)]).collect()
    });
}

/// bf16 both ways, each with its own order of sums.
#[test]
fn documents() {
    let Some(device) = gpu() else { return };
    let tied = vec![None, None, None, Some(Prefix { doc: 1, n: 50 })];
    let cases =
        [None, Some(16)].into_iter().flat_map(|window| [(window, vec![]), (window, tied.clone())]);
    for (window, prefixes) in cases {
        let queries = vec![1, 70, 0, 129];
        let shape = AttentionShape { queries, prefixes, scale: 0.125, window };
        let [q, dout] = [(); 2].map(|()| randn(&[200, 9, 64], Kind::BFloat16));
        let [k, v] = [(); 2].map(|()| randn(&[200, 3, 64], Kind::BFloat16));
        let compute = |device: Device| {
            let [q, k, v, dout] = [&q, &k, &v, &dout].map(|x| x.to_device(device));
            let (out, lse) = attention(&q, &k, &v, &shape);
            let [dq, dk, dv] = attention_backward(&dout, &q, &k, &v, &out, &lse, &shape);
            [out, dq, dk, dv].map(|x| x.to_device(Device::Cpu))
        };
        for (found, expected) in compute(device).iter().zip(compute(Device::Cpu)) {
            assert_within("attention", found, &expected, 2e-2);
        }
    }
}
