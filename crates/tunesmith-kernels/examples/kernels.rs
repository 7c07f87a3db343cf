//! Every kernel beside libtorch's own way, on the shapes of SmolLM2-135M with 2 documents of 512 tokens.
//!
//! Prints, per case, the fastest of some calls in milliseconds and the CPU time of all threads per call: on a busy
//! machine the second is the steadier.
#![allow(clippy::print_stdout, reason = "stdout is the result")]

use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};
use tunesmith_kernels::{self as kernels, AdamWParam, Blockwise, Moments, Weight};

fn main() -> Result<(), kernels::KernelError> {
    kernels::use_fast_fp32_matmul()?;
    let _no_grad = tch::no_grad_guard();
    for kind in [Kind::Float, Kind::BFloat16] {
        println!("{kind:?}{:>30}{:>10}{:>10}{:>10}", "libtorch", "cpu", "ours", "cpu");
        attention(kind);
        elementwise(kind);
        head(kind);
        decode(kind);
    }
    adamw();
    Ok(())
}

fn randn(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind)
}

fn attention(kind: Kind) {
    let shape = kernels::AttentionShape::new(vec![512, 512], 0.125);
    let [q, k, v] = [9, 3, 3].map(|heads| randn(&[1024, heads, 64], kind));
    let dout = randn(&[1024, 9, 64], kind);
    let [a, b, c] = [&q, &k, &v].map(|x| x.view([2, 512, -1, 64]).transpose(1, 2));
    let plain = || {
        Tensor::scaled_dot_product_attention(&a, &b, &c, None::<&Tensor>, 0.0, true, 0.125, true)
    };
    compare("attention forward", || _ = plain(), || _ = kernels::attention(&q, &k, &v, &shape));
    let (out, lse) = kernels::attention(&q, &k, &v, &shape);
    let both = || {
        tch::with_grad(|| {
            let leaves = [&a, &b, &c].map(|x| x.detach().set_requires_grad(true));
            let [a, b, c] = &leaves;
            let out = Tensor::scaled_dot_product_attention(
                a,
                b,
                c,
                None::<&Tensor>,
                0.0,
                true,
                0.125,
                true,
            );
            let loss = (out.transpose(1, 2).reshape([1024, 9, 64]) * &dout).sum(Kind::Float);
            Tensor::run_backward(&[loss], &leaves, false, false);
        });
    };
    compare("attention forward, backward", both, || {
        let _ = kernels::attention(&q, &k, &v, &shape);
        let _ = kernels::attention_backward(&dout, &q, &k, &v, &out, &lse, &shape);
    });
}

fn elementwise(kind: Kind) {
    let (x, w) = (randn(&[1024, 576], kind), randn(&[576], kind));
    let plain = || {
        let x32 = x.to_kind(Kind::Float);
        let rstd = (x32.square().mean_dim(-1, true, Kind::Float) + 1e-5).rsqrt();
        let _ = (x32 * rstd).to_kind(kind) * &w;
    };
    compare("RMSNorm", plain, || _ = kernels::rms_norm(&x, &w, 1e-5));
    let [g, u] = [(); 2].map(|()| randn(&[1024, 1536], kind));
    compare("SwiGLU", || _ = g.silu() * &u, || _ = kernels::swiglu(&g, &u));
    let q = randn(&[1024, 9, 64], kind);
    let [cos, sin] = [(); 2].map(|()| randn(&[1024, 1, 64], kind));
    let plain = || {
        let halves = q.chunk(2, -1);
        let _ = &q * &cos + Tensor::cat(&[&-&halves[1], &halves[0]], -1) * &sin;
    };
    compare("rotary", plain, || kernels::rotate_(&q, &cos, &sin, true));
}

fn head(kind: Kind) {
    let logits = randn(&[128, 49_152], kind);
    let labels = Tensor::randint(49_152, [128], (Kind::Int64, Device::Cpu));
    let plain = || {
        let wide = logits.to_kind(Kind::Float);
        let picked = wide.gather(-1, &labels.unsqueeze(-1), false).squeeze_dim(-1);
        let _ = (picked - wide.logsumexp(&[-1i64][..], false), wide.argmax(-1, false));
    };
    compare("label scores", plain, || _ = kernels::label_scores(&logits, &labels));
}

fn decode(kind: Kind) {
    for m in [1, 4, 16] {
        // 40 MB and more of weights in turn, so that they come from memory.
        let weights: Vec<Tensor> = (0..24).map(|_| randn(&[1536, 576], kind)).collect();
        let x = randn(&[m, 576], kind);
        compare(
            &format!("{m} × 24 matrices"),
            || weights.iter().for_each(|w| _ = x.linear(w, None::<&Tensor>)),
            || weights.iter().for_each(|w| _ = kernels::matvec(&x, w, None)),
        );
    }
}

fn adamw() {
    let mut w = randn(&[20_000_000], Kind::Float);
    let mut g = randn(&[20_000_000], Kind::Float);
    let [mut m, mut v] = [(); 2].map(|()| w.zeros_like());
    let step = kernels::AdamWStep {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        clip: 0.5,
        t: 3,
    };
    let (fast_w, fast_g) = (w.copy(), g.copy());
    let mut libtorch = || {
        let _ = g.g_mul_scalar_(0.9999);
        let _ = m.lerp_(&g, 0.1);
        let _ = v.g_mul_scalar_(0.999);
        v += g.square() * 0.001;
        w -= &m / (v.sqrt() + 1e-8) * 1e-3;
    };
    let fp32 = Moments::Fp32([(); 2].map(|()| fast_w.zeros_like()));
    let bits8 = Moments::Blockwise([(); 2].map(|()| Blockwise::zeros_like(&fast_w)));
    let narrow = fast_w.to_kind(Kind::BFloat16);
    let forms = [
        ("AdamW, 20 M", Weight::Fp32(&fast_w), &fp32),
        ("  with a bf16 copy", Weight::Master(&fast_w, &narrow), &fp32),
        ("  bf16 alone", Weight::Bf16(&narrow, 7), &fp32),
        ("  8-bit moments", Weight::Fp32(&fast_w), &bits8),
        ("  bf16 alone, 8-bit moments", Weight::Bf16(&narrow, 7), &bits8),
    ];
    for (what, weight, moments) in forms {
        let param = AdamWParam { weight, grad: &fast_g, moments, lr: 1e-3 };
        compare(what, &mut libtorch, || kernels::adamw_(&[param], &step));
    }
    compare(
        "Σ g², 20 M",
        || _ = fast_g.square().sum(Kind::Double),
        || _ = kernels::square_sum(&[&fast_g]),
    );
}

fn compare(what: &str, mut libtorch: impl FnMut(), mut ours: impl FnMut()) {
    let [(a, cpu_a), (b, cpu_b)] = [measure(&mut libtorch), measure(&mut ours)];
    println!("{what:<28}{a:>10.3}{cpu_a:>10.3}{b:>10.3}{cpu_b:>10.3}");
}

/// The fastest call, and CPU milliseconds per call.
fn measure(body: &mut dyn FnMut()) -> (f64, f64) {
    body();
    let (begun, cpu) = (Instant::now(), cpu_ms());
    let (mut best, mut n) = (f64::INFINITY, 0);
    while n < 3 || begun.elapsed() < Duration::from_millis(400) {
        let one = Instant::now();
        body();
        best = best.min(one.elapsed().as_secs_f64() * 1e3);
        n += 1;
    }
    (best, (cpu_ms() - cpu) / f64::from(n))
}

/// CPU time of all threads: fields 14 and 15 of `/proc/self/stat`, in hundredths of a second.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|x| x.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) * 10.0
}
