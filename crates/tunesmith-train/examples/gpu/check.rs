//! Every kernel on this device against its twin: the definition in tensor operations in fp64, gradients by autograd.
//!
//! Two distances: ‖found − expected‖ / ‖expected‖ at most 1e-5 in fp32 and 1e-2 in bf16, and the largest difference over
//! the largest value at most three times that, which a single element that nobody wrote would break. Where nothing but
//! zeros is expected, distances are to 1.

use crate::{Bench, Deadline};
use anyhow::bail;
use serde_json::json;
use tch::{Device, Kind, Tensor};
use tunesmith_kernels::{
    self as kernels, AdamWParam, AdamWStep, AttentionShape, Moments, Prefix, Weight,
};

const KINDS: [Kind; 2] = [Kind::Float, Kind::BFloat16];

pub(crate) fn run(bench: &mut Bench, deadline: Deadline) -> anyhow::Result<()> {
    let mut check = Check { device: bench.device, rows: Vec::new(), far: Vec::new() };
    let parts: [fn(&mut Check, bool); 6] = [norms, rotations, gates, scores, updates, attention];
    for part in parts {
        if deadline.over() {
            bail!("the time was over after {} checks", check.rows.len());
        }
        part(&mut check, bench.dry);
    }
    let Check { rows, far, .. } = check;
    let n = rows.len();
    rows.into_iter().for_each(|row| bench.report.row("kernels", row));
    if !far.is_empty() {
        bail!("{} of {n} are too far from their twins: {}", far.len(), far.join(", "));
    }
    Ok(())
}

/// What has been compared.
pub(crate) struct Check {
    pub(crate) device: Device,
    pub(crate) rows: Vec<serde_json::Value>,
    pub(crate) far: Vec<String>,
}

impl Check {
    /// N(0, 1), detached.
    fn randn(&self, shape: &[i64], kind: Kind) -> Tensor {
        Tensor::randn(shape, (Kind::Float, self.device)).to_kind(kind)
    }

    /// Notes the distances of what a kernel gave, each under its name, to what the twin gave.
    pub(crate) fn close(
        &mut self,
        what: &str,
        kind: Kind,
        bound: f64,
        pairs: &[(&str, &Tensor, &Tensor)],
    ) {
        for (name, found, expected) in pairs {
            let [found, expected] = [found, expected].map(|x| x.to_kind(Kind::Double));
            let value = |x: Tensor| x.double_value(&[]);
            let difference = &found - &expected;
            let scales = match value(expected.abs().max()) {
                0.0 => [(expected.numel() as f64).sqrt(), 1.0],
                largest => [value(expected.norm()), largest],
            };
            let rms = value(difference.norm()) / scales[0];
            let most = value(difference.abs().max()) / scales[1];
            let close = found.size() == expected.size() && rms <= bound && most <= 3.0 * bound; // no NaN is
            let what = format!("{what} {name}");
            if !close {
                self.far.push(format!("{what} {kind:?}"));
            }
            self.rows.push(
                json!({"what": what, "dtype": format!("{kind:?}"), "relative": rms, "largest": most,
                "bound": bound, "close": close}),
            );
        }
    }
}

pub(crate) fn bound(kind: Kind) -> f64 {
    if kind == Kind::Float { 1e-5 } else { 1e-2 }
}

/// The same values in fp64, as a leaf.
fn leaf(x: &Tensor) -> Tensor {
    x.detach().to_kind(Kind::Double).set_requires_grad(true)
}

/// The gradients of `leaves` for `grad` at `y`.
fn gradients(y: &Tensor, grad: &Tensor, leaves: &[&Tensor]) -> Vec<Tensor> {
    Tensor::run_backward(
        &[(y * grad.to_kind(Kind::Double)).sum(Kind::Double)],
        leaves,
        false,
        false,
    )
}

fn norms(check: &mut Check, dry: bool) {
    let large = if dry { (9, 64) } else { (4096, 4096) };
    for kind in KINDS {
        for (n, c) in [(1, 64), (300, 576), (5, 2048), (3, 37), (1000, 128), large] {
            let (x, w, dy) =
                (check.randn(&[n, c], kind), check.randn(&[c], kind), check.randn(&[n, c], kind));
            let (x64, w64) = (leaf(&x), leaf(&w));
            let rstd64 = (x64.square().mean_dim(-1, true, Kind::Double) + 1e-5).rsqrt();
            let y64 = &x64 * &rstd64 * &w64;
            let (y, rstd) = kernels::rms_norm(&x, &w, 1e-5);
            let expected = gradients(&y64, &dy, &[&x64, &w64]);
            let dx = dy.copy(); // stands for the gradient that flows past the norm
            let dw = kernels::rms_norm_backward(&dy, &x, &w, &rstd, &dx, true).unwrap_or_default();
            let dx64 = &expected[0] + dy.to_kind(Kind::Double);
            let pairs = [
                ("y", &y, &y64),
                ("1/rms", &rstd, &rstd64.view([n])),
                ("dx", &dx, &dx64),
                ("dw", &dw, &expected[1]),
            ];
            check.close(&format!("rms_norm {n}×{c}"), kind, bound(kind), &pairs);
            let alone = dy.copy();
            let none = kernels::rms_norm_backward(&dy, &x, &w, &rstd, &alone, false);
            assert!(none.is_none(), "a weight's gradient that nobody wants");
            check.close(
                &format!("rms_norm {n}×{c}, frozen"),
                kind,
                bound(kind),
                &[("dx", &alone, &dx64)],
            );
        }
    }
}

fn rotations(check: &mut Check, _dry: bool) {
    for kind in KINDS {
        for (n, heads, d) in [(50, 3, 64), (7, 1, 20), (300, 32, 128)] {
            let x = check.randn(&[n, heads, d], kind);
            let angles = check.randn(&[n, 1, d / 2], Kind::Float);
            let angles = Tensor::cat(&[&angles, &angles], -1);
            let [cos, sin] = [angles.cos(), angles.sin()].map(|t| t.to_kind(kind));
            let twin = |x: &Tensor, sign: f64| {
                let [x, cos, sin] = [x, &cos, &sin].map(|t| t.to_kind(Kind::Double));
                let halves = x.chunk(2, -1);
                &x * cos + Tensor::cat(&[&-&halves[1], &halves[0]], -1) * sin * sign
            };
            let (there, back) = (x.copy(), x.copy());
            kernels::rotate_(&there, &cos, &sin, true);
            kernels::rotate_(&back, &cos, &sin, false);
            let pairs = [("forward", &there, &twin(&x, 1.0)), ("back", &back, &twin(&x, -1.0))];
            check.close(&format!("rotate {n}×{heads}×{d}"), kind, bound(kind), &pairs);
        }
    }
}

fn gates(check: &mut Check, dry: bool) {
    for kind in KINDS {
        for n in [1, 1000, 100_003, if dry { 77 } else { 16_384 * 8192 / 4 }] {
            let [gate, up, da] = [(); 3].map(|()| check.randn(&[n], kind));
            let (gate64, up64) = (leaf(&gate), leaf(&up));
            let product = gate64.silu() * &up64;
            let found = kernels::swiglu(&gate, &up);
            let expected = gradients(&product, &da, &[&gate64, &up64]);
            kernels::swiglu_backward_(&da, &gate, &up);
            let pairs = [
                ("out", &found, &product),
                ("dgate", &gate, &expected[0]),
                ("dup", &up, &expected[1]),
            ];
            check.close(&format!("swiglu {n}"), kind, bound(kind), &pairs);
        }
    }
}

fn scores(check: &mut Check, dry: bool) {
    for kind in KINDS {
        for (n, v) in [(4, 96), (5, 1001), (33, if dry { 3000 } else { 128_256 })] {
            let logits = check.randn(&[n, v], kind) * 3.0;
            let labels = Tensor::randint(v, [n], (Kind::Int64, check.device));
            labels.narrow(0, 0, 1).copy_(&logits.narrow(0, 0, 1).argmax(-1, false)); // one is right
            let grad = check.randn(&[n], Kind::Float);
            let z = leaf(&logits);
            let lse = z.logsumexp(&[1i64][..], false);
            let logprobs = z.gather(1, &labels.unsqueeze(1), false).squeeze_dim(1) - &lse;
            let found = kernels::label_scores(&logits, &labels);
            let correct = logits.argmax(-1, false).eq_tensor(&labels);
            let expected = gradients(&logprobs, &grad, &[&z]);
            kernels::label_scores_backward_(&logits, &labels, &found.lse, &grad);
            let pairs = [
                ("logprobs", &found.logprobs, &logprobs),
                ("lse", &found.lse, &lse),
                ("correct", &found.correct, &correct),
                ("dlogits", &logits, &expected[0]),
            ];
            check.close(&format!("label_scores {n}×{v}"), kind, bound(kind), &pairs);
        }
    }
}

/// Parameters of many sizes in one call.
fn updates(check: &mut Check, dry: bool) {
    let lr = 1e-2;
    let (beta1, beta2, eps, weight_decay) = (0.9, 0.999, 1e-8, 0.1);
    let step = AdamWStep { beta1, beta2, eps, weight_decay, clip: 0.5, t: 3 };
    let sizes = [1, 10_001, 16_384, if dry { 77 } else { 50_000_000 }];
    let inputs: Vec<([Tensor; 3], Moments)> = sizes
        .iter()
        .map(|&n| {
            let [w, g, m] = [(); 3].map(|()| check.randn(&[n], Kind::Float));
            let v = check.randn(&[n], Kind::Float).square();
            let rounded = w.to_kind(Kind::BFloat16);
            ([w, rounded, g], Moments::Fp32([m, v]))
        })
        .collect();
    let expected: Vec<[Tensor; 3]> = inputs
        .iter()
        .map(|([w, _, g], moments)| {
            let Moments::Fp32([m, v]) = moments else { panic!("fp32") };
            let [w, g, m, v] = [w, g, m, v].map(|x| x.to_kind(Kind::Double));
            let g = g * step.clip;
            let m = m * beta1 + &g * (1.0 - beta1);
            let v = v * beta2 + g.square() * (1.0 - beta2);
            let root = (&v / (1.0 - beta2.powi(step.t))).sqrt() + eps;
            let update = &m / root * (lr / (1.0 - beta1.powi(step.t)));
            [w * (1.0 - lr * weight_decay) - update, m, v]
        })
        .collect();
    let params: Vec<AdamWParam> = inputs
        .iter()
        .map(|([w, rounded, grad], moments)| AdamWParam {
            weight: Weight::Master(w, rounded),
            grad,
            moments,
            lr,
        })
        .collect();
    kernels::adamw_(&params, &step);
    for (([w, rounded, g], moments), [w64, m64, v64]) in inputs.iter().zip(&expected) {
        let Moments::Fp32([m, v]) = moments else { panic!("fp32") };
        let what = format!("adamw {}", w.numel());
        check.close(&what, Kind::Float, 1e-5, &[("w", w, w64), ("m", m, m64), ("v", v, v64)]);
        check.close(&what, Kind::BFloat16, 1e-2, &[("copy", rounded, w64)]);
        let exact = rounded.eq_tensor(&w.to_kind(Kind::BFloat16)).all().int64_value(&[]);
        assert_eq!(exact, 1, "the copy is w, rounded to nearest");
        let squares = Tensor::from(kernels::square_sum(&[g, m]));
        let sum = |x: &Tensor| x.to_kind(Kind::Double).square().sum(Kind::Double);
        let expected = (sum(g) + sum(m)).to_device(Device::Cpu);
        let what = format!("square_sum {}", w.numel());
        check.close(&what, Kind::Float, 1e-5, &[("Σ", &squares, &expected)]);
    }
}

/// The definition, one document after the other.
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> Tensor {
    let group = q.size()[1] / k.size()[1];
    let docs = [q, k, v].map(|x| x.split_with_sizes(&shape.queries[..], 0));
    let outs: Vec<Tensor> = (0..shape.queries.len())
        .map(|doc| {
            let keys = |i: usize| match shape.prefixes.get(doc).copied().flatten() {
                Some(prefix) => {
                    Tensor::cat(&[&docs[i][prefix.doc].narrow(0, 0, prefix.n), &docs[i][doc]], 0)
                }
                None => docs[i][doc].shallow_clone(),
            };
            let (k, v) = (keys(1), keys(2));
            let [q, k, v] = [&docs[0][doc], &k, &v].map(|x| x.transpose(0, 1)); // (heads, T or S, D)
            let [k, v] = [k, v].map(|x| x.repeat_interleave_self_int(group, Some(0), None));
            let (t, s) = (q.size()[1], k.size()[1]);
            let at = Tensor::arange(s, (Kind::Int64, q.device()));
            let (query, key) = (at.narrow(0, s - t, t).unsqueeze(1), at.unsqueeze(0));
            let mut hidden = key.gt_tensor(&query);
            if let Some(window) = shape.window {
                hidden = hidden.logical_or(&key.le_tensor(&(query - window)));
            }
            let scores = q.matmul(&k.transpose(1, 2)) * shape.scale;
            let p = scores.masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1, Kind::Double);
            p.matmul(&v).transpose(0, 1)
        })
        .collect();
    Tensor::cat(&outs, 0)
}

fn attention(check: &mut Check, dry: bool) {
    let cases = [
        // Lengths, then how many tokens of the document before it the last one continues.
        (&[1i64, 130, 0, 67][..], 0, 6, 2, 64, None),
        (&[300, 5][..], 0, 4, 1, 24, None),
        (&[1, 1, 1][..], 0, 4, 2, 64, None),
        (&[517][..], 0, 3, 3, 16, Some(33)),
        (&[9, 260][..], 0, 2, 1, 128, Some(2)),
        (&[100][..], 0, 2, 2, 256, None),
        (if dry { &[33] } else { &[2048, 1000][..] }, 0, 32, 8, 128, None),
        (&[4, 130, 67][..], 100, 6, 2, 64, None),
        (&[300, 1][..], 300, 4, 2, 64, None),
        (&[300, 150][..], 200, 4, 2, 128, Some(33)),
    ];
    for kind in KINDS {
        for (lens, shared, h, n_kv, d, window) in cases {
            let n: i64 = lens.iter().sum();
            let [q, dout] = [(); 2].map(|()| check.randn(&[n, h, d], kind));
            if !kernels::attends(&q, d) {
                continue; // the twin is used
            }
            let [k, v] = [(); 2].map(|()| check.randn(&[n, n_kv, d], kind));
            let scale = 1.0 / (d as f64).sqrt();
            let mut shape = AttentionShape { window, ..AttentionShape::new(lens.to_vec(), scale) };
            if shared > 0 {
                shape.prefixes = vec![None; lens.len()];
                let prefix = Prefix { doc: lens.len() - 2, n: shared };
                shape.prefixes[lens.len() - 1] = Some(prefix);
            }
            let leaves = [&q, &k, &v].map(leaf);
            let expected = attend(&leaves[0], &leaves[1], &leaves[2], &shape);
            let (out, lse) = kernels::attention(&q, &k, &v, &shape);
            let [dq, dk, dv] = kernels::attention_backward(&dout, &q, &k, &v, &out, &lse, &shape);
            let grads = gradients(&expected, &dout, &[&leaves[0], &leaves[1], &leaves[2]]);
            let pairs = [
                ("out", &out, &expected),
                ("dq", &dq, &grads[0]),
                ("dk", &dk, &grads[1]),
                ("dv", &dv, &grads[2]),
            ];
            check.close(
                &format!("attention {lens:?} {shared} {h}/{n_kv}×{d} {window:?}"),
                kind,
                bound(kind),
                &pairs,
            );
        }
    }
}
