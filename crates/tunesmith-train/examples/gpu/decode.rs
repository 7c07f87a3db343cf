//! Decoding of the 1B model, greedy: tokens/s and the share of the copy's bandwidth. A token reads every weight of a
//! product once, and the keys and values of its context; several sequences share the weights.
//!
//! Step by step every kernel is started on its own; `Transformer::decode` replays a graph. Both first read the same
//! tokens, and their logits must agree.

use crate::{
    Bench, Deadline,
    shapes::{self, LLAMA_1B, TINY},
};
use anyhow::ensure;
use serde_json::json;
use std::time::Instant;
use tch::{Device, Kind, Tensor};
use tunesmith_model::{KvCache, LoadOptions, Pass, Ragged, Transformer};

pub(crate) fn run(bench: &mut Bench, deadline: Deadline) -> anyhow::Result<()> {
    let _no_grad = tch::no_grad_guard();
    let (shape, prompt, n_new) = if bench.dry { (&TINY, 7, 4) } else { (&LLAMA_1B, 128, 256) };
    let config = shape.config()?;
    let (weights, kv) = (2.0 * shapes::n_matmul(&config), shapes::kv_bytes(&config));
    let device = bench.device;
    let model = Transformer::drawn(config, LoadOptions::frozen(Kind::BFloat16, device));
    let mut failed = compare(bench, &model).err();
    let bandwidth = bench.report.figure("floors", "copy", "GB/s");
    for (what, n_seq, graph) in [
        ("1B, 1 sequence, graph", 1, true),
        ("1B, 16 sequences, graph", 16, true),
        ("1B, 1 sequence, step by step", 1, false),
    ] {
        let capacity = prompt + n_new + 8;
        let mut cache = prefilled(&model, n_seq, prompt, capacity)?;
        let mut next = vec![1_u32; n_seq];
        let mut begun = Instant::now();
        let (warm_up, mut n) = (4, 0);
        while n < warm_up + n_new && !(deadline.over() && n > warm_up) {
            let logits = if graph {
                model.decode(&next, &mut cache, None)
            } else {
                step(&model, &next, &mut cache)
            };
            let logits = match logits {
                Ok(logits) => logits,
                Err(error) => {
                    failed = failed.or(Some(anyhow::anyhow!("{what}: {error}")));
                    break;
                }
            };
            let best = Vec::<i64>::try_from(logits.argmax(-1, false))?;
            next = best.into_iter().map(|id| id as u32).collect();
            n += 1;
            if n == warm_up {
                begun = Instant::now();
            }
        }
        if n <= warm_up {
            continue;
        }
        let passes = (n - warm_up) as f64 / begun.elapsed().as_secs_f64();
        let bytes = weights + kv * n_seq as f64 * (prompt + n / 2) as f64;
        bench.report.row(
            "decode",
            json!({"what": what, "tokens/s": passes * n_seq as f64,
                "of copy bandwidth %": bandwidth.map(|bandwidth| passes * bytes / bandwidth / 1e7),
                "floor tokens/s": bandwidth.map(|bandwidth| n_seq as f64 * bandwidth * 1e9 / bytes)}),
        );
    }
    failed.map_or(Ok(()), Err)
}

/// A cache that has read `n_seq` prompts of `n` tokens.
fn prefilled(
    model: &Transformer,
    n_seq: usize,
    n: usize,
    capacity: usize,
) -> anyhow::Result<KvCache> {
    let (kind, device) = (model.kind(), model.device());
    let mut cache = KvCache::new(&model.config, n_seq, capacity, kind, device);
    let vocab_size = model.config.vocab_size as u32;
    let ids: Vec<u32> = (0..n as u32).map(|i| (i * i * 31 + 7) % vocab_size).collect();
    let ragged = Ragged::new(&vec![&ids[..]; n_seq], device);
    let mut pass = Pass { cache: Some(&mut cache), adapter: None, ..Pass::default() };
    let _ = model.hidden(&ragged, &mut pass)?;
    Ok(cache)
}

/// One token of each sequence, kernel by kernel: logits (S, V).
fn step(
    model: &Transformer,
    ids: &[u32],
    cache: &mut KvCache,
) -> Result<Tensor, tunesmith_model::ModelError> {
    let docs: Vec<&[u32]> = ids.chunks(1).collect();
    let ragged = Ragged::from_positions(&docs, cache.lens(), model.device());
    let mut pass = Pass { cache: Some(cache), adapter: None, ..Pass::default() };
    let hidden = model.hidden(&ragged, &mut pass)?;
    Ok(model.head().logits(&hidden, &pass))
}

/// The same tokens both ways: before, while and after a graph is recorded, and with another view of the cache.
fn compare(bench: &mut Bench, model: &Transformer) -> anyhow::Result<()> {
    let mut farthest = 0.0f64;
    let [mut one, mut other] = [prefilled(model, 2, 253, 600)?, prefilled(model, 2, 253, 600)?];
    for i in 0..8_u32 {
        let ids = [i + 3, 2 * i + 1];
        let found = model.decode(&ids, &mut one, None)?;
        let expected = step(model, &ids, &mut other)?;
        let value = |x: Tensor| x.double_value(&[]);
        let far = value((&found - &expected).norm()) / value(expected.norm());
        ensure!(far <= 3e-2, "token {i}: logits of the graph are off by {far:e}");
        farthest = farthest.max(far);
    }
    let device = if model.device() == Device::Cpu { "cpu" } else { "graph" };
    bench
        .report
        .row("decode checks", json!({"what": format!("{device}, 8 tokens"), "relative": farthest}));
    Ok(())
}
