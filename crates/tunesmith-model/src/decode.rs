//! One more token of every sequence of a cache at once: the step of decoding, on a GPU as a CUDA graph.
//!
//! Shapes: S sequences, V vocabulary.
//!
//! # Why
//! A token of a 1B model is some 300 kernels of a few microseconds each; starting them one by one takes longer than
//! running them. A graph starts them all at once, but it is recorded for fixed places in memory: so tokens and positions
//! are tensors that each step fills, keys go where the positions say, and queries see the first so many places of the
//! cache under a mask made from the positions. That many are 256, 512 and so on; at each change the work is recorded
//! again.

use crate::{KvCache, ModelError, Pass, Ragged, Transformer};
use std::sync::atomic::{AtomicU64, Ordering};
use tch::{Device, Kind, Tensor};
use tunesmith_kernels::cuda::Graph;

/// The cache is seen in steps of so many tokens.
const VIEW: i64 = 256;

/// A step that was made on a device, and its graph once it has been recorded.
#[derive(Debug)]
pub(crate) struct Recorded {
    made_for: MadeFor,
    tokens: Tensor,    // (S)
    positions: Tensor, // (S)
    /// With the logits that it writes, (S, V).
    graph: Option<(Graph, Tensor)>,
}

/// What a recording holds for: the model as it is made up, the adapter, and how much of the cache is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MadeFor {
    makeup: Makeup,
    adapter: Option<usize>,
    visible: i64,
}

/// A number for which tensors a model computes with: no two models have the same, nor has one model before and after an
/// adapter came, went or was merged. New values in the same tensors are no change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Makeup(u64);

impl Makeup {
    /// One that was never there before in this process.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Transformer {
    /// Reads token `ids[i]` as the next of sequence `i` of `cache`, for all of its sequences, under the adapter of this
    /// number; the logits after it, (S, V), fp32. The next call may overwrite them.
    ///
    /// # Errors
    /// As [`hidden`](Self::hidden); a GPU that refuses to record.
    ///
    /// # Panics
    /// Another number of ids than sequences; a sequence that fills the cache.
    pub fn decode(
        &self,
        ids: &[u32],
        cache: &mut KvCache,
        adapter: Option<usize>,
    ) -> Result<Tensor, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let capacity = cache.capacity() as i64;
        assert_eq!(ids.len(), cache.lens().len(), "a token per sequence");
        assert!(cache.lens().iter().all(|&len| len < capacity), "room in the cache");
        let docs: Vec<&[u32]> = ids.chunks(1).collect();
        let ragged = Ragged::from_positions(&docs, cache.lens(), Device::Cpu);
        let device = self.device();
        if !device.is_cuda() || !self.steps_together() {
            let ragged = ragged.on(device);
            let mut pass = Pass { cache: Some(cache), adapter, ..Pass::default() };
            let hidden = self.hidden(&ragged, &mut pass)?;
            return Ok(self.head().logits(&hidden, &pass));
        }
        self.check(&ragged)?;
        let made_for = self.made_for(adapter, cache);
        match recorded(cache, made_for) {
            Some(recorded) => self.replay(recorded, &ragged, cache),
            None => {
                let on_device = ragged.on(device);
                let logits = self.step(&on_device, made_for, cache)?;
                let Ragged { tokens, positions, .. } = on_device;
                cache.recorded = Some(Recorded { made_for, tokens, positions, graph: None });
                Ok(logits)
            }
        }
    }

    fn made_for(&self, adapter: Option<usize>, cache: &KvCache) -> MadeFor {
        MadeFor { makeup: self.makeup, adapter, visible: visible(cache) }
    }

    /// Fills in the new tokens and starts the graph, which the first call records: by then every kernel has run once.
    fn replay(
        &self,
        mut recorded: Recorded,
        ragged: &Ragged,
        cache: &mut KvCache,
    ) -> Result<Tensor, ModelError> {
        let Recorded { made_for, tokens, positions, graph } = &mut recorded;
        tokens.copy_(&ragged.tokens);
        positions.copy_(&ragged.positions);
        let (graph, logits) = match graph {
            Some(graph) => {
                cache.advance(&ragged.lens);
                graph
            }
            none => {
                let Device::Cuda(index) = self.device() else {
                    return Err(ModelError::Kernel("a graph without a GPU".into()));
                };
                let (tokens, positions) = (tokens.shallow_clone(), positions.shallow_clone());
                let (lens, prefixes) = (ragged.lens.clone(), Vec::new());
                let ragged = Ragged { tokens, positions, lens, prefixes, ..*ragged };
                // Recording counts the token, and replaying reads it.
                let made = Graph::record(index, || self.step(&ragged, *made_for, cache));
                let (graph, logits) =
                    made.map_err(|error| ModelError::Kernel(error.to_string()))?;
                none.insert((graph, logits?))
            }
        };
        graph.replay().map_err(|error| ModelError::Kernel(error.to_string()))?;
        let logits = logits.shallow_clone();
        cache.recorded = Some(recorded);
        Ok(logits)
    }

    /// The pass itself: everything it does lies on the device, in the same places for the same `made_for`.
    fn step(
        &self,
        ragged: &Ragged,
        made_for: MadeFor,
        cache: &mut KvCache,
    ) -> Result<Tensor, ModelError> {
        let MadeFor { adapter, visible, .. } = made_for;
        let key = Tensor::arange(visible, (Kind::Int64, self.device()));
        let query = ragged.positions.unsqueeze(1); // (S, 1)
        let mut seen = key.le_tensor(&query); // (S, visible)
        if let Some(window) = self.config.sliding_window {
            seen = seen.logical_and(&key.gt_tensor(&(query - window)));
        }
        cache.seen = Some(seen.unsqueeze(1).unsqueeze(1));
        let mut pass = Pass { cache: Some(cache), adapter, ..Pass::default() };
        let hidden = self.hidden(ragged, &mut pass);
        let logits = hidden.map(|hidden| self.head().logits(&hidden, &pass));
        cache.seen = None;
        logits
    }
}

/// Takes the step that the cache remembers, where it can be made again.
fn recorded(cache: &mut KvCache, made_for: MadeFor) -> Option<Recorded> {
    cache.recorded.take().filter(|recorded| recorded.made_for == made_for)
}

/// How much of the cache a step sees: room for the longest sequence with its next token.
fn visible(cache: &KvCache) -> i64 {
    let longest = cache.lens().iter().copied().max().unwrap_or(0) + 1;
    ((longest + VIEW - 1) / VIEW * VIEW).min(cache.capacity() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, LoadOptions, LoraConfig};

    fn model(kind: Kind, window: Option<i64>) -> Transformer {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"model_type":"qwen3","hidden_act":"silu","vocab_size":97,"hidden_size":48,
            "intermediate_size":80,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
            "head_dim":16,"rms_norm_eps":1e-6,"tie_word_embeddings":true,"initializer_range":0.2}"#;
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let config = Config { sliding_window: window, ..Config::from_dir(dir.path()).unwrap() };
        Transformer::fresh(config, 5, LoadOptions::frozen(kind, Device::Cpu))
    }

    fn prefilled(model: &Transformer, capacity: usize) -> KvCache {
        let mut cache = KvCache::new(&model.config, 3, capacity, model.kind(), Device::Cpu);
        // What is seen in spite of the mask would show.
        (0..2)
            .flat_map(|layer| cache.layer(layer))
            .for_each(|x| _ = x.shallow_clone().fill_(100.0));
        let ragged = Ragged::new(&[&[3, 1, 4, 1, 5], &[9, 2], &[]], Device::Cpu);
        let _ = tch::no_grad(|| model.hidden(&ragged, &mut Pass::cached(&mut cache))).unwrap();
        cache
    }

    /// The way of a GPU, which knows no device, against the ordinary one: sequences of 5, 2 and 0 tokens, with and
    /// without a window, in a view that is smaller than the cache and one that is cut off by it.
    #[test]
    fn a_step_by_masks_is_an_ordinary_one() {
        for (window, capacity) in [(None, 300), (Some(3), 20)] {
            let model = model(Kind::Float, window);
            let [mut cache, mut ordinary] = [capacity; 2].map(|n| prefilled(&model, n));
            for ids in [[7, 8, 9], [10, 11, 12], [13, 14, 15]] {
                let expected = model.decode(&ids, &mut ordinary, None).unwrap();
                let docs: Vec<&[u32]> = ids.chunks(1).collect();
                let ragged = Ragged::from_positions(&docs, cache.lens(), Device::Cpu);
                let made_for = model.made_for(None, &cache);
                assert!(model.steps_together());
                let found = tch::no_grad(|| model.step(&ragged, made_for, &mut cache)).unwrap();
                let error =
                    ((&found - &expected).abs().max() / expected.abs().max()).double_value(&[]);
                assert!(error <= 1e-5, "window {window:?}: {error:e}");
                assert_eq!(cache.lens(), ordinary.lens());
            }
            assert_eq!(cache.lens(), [8, 5, 3]);
        }
    }

    /// A graph reads the tensors that were there when it was recorded: an adapter under the number of another is not it.
    #[test]
    fn a_recorded_step_is_not_repeated_for_another_adapter() {
        let mut model = model(Kind::Float, None);
        let mut cache = prefilled(&model, 300);
        let config = LoraConfig { r: 2, ..LoraConfig::default() };
        let record = |model: &Transformer, cache: &mut KvCache| {
            let made_for = model.made_for(Some(0), cache);
            let [tokens, positions] =
                [(); 2].map(|()| Tensor::zeros([3], (Kind::Int64, Device::Cpu)));
            cache.recorded = Some(Recorded { made_for, tokens, positions, graph: None });
        };
        let holds = |model: &Transformer, cache: &mut KvCache| {
            let made_for = model.made_for(Some(0), cache);
            recorded(cache, made_for).is_some()
        };
        model.add_adapter(&config, 1, false).unwrap();
        record(&model, &mut cache);
        // Values that change where they lie, as in training, are read anew by every start.
        let values = model.adapters()[0].params()[0].tensor.shallow_clone();
        let _ = tch::no_grad(|| values.set_requires_grad(false).fill_(1.0));
        assert!(holds(&model, &mut cache));
        let changes: [fn(&mut Transformer, &LoraConfig); 4] = [
            |model, config| {
                model.drop_adapter();
                model.add_adapter(config, 2, false).unwrap();
            },
            |model, config| _ = model.add_adapter(config, 3, false).unwrap(),
            |model, _| model.drop_adapter(),
            |model, _| model.merge_adapter(),
        ];
        for change in changes {
            record(&model, &mut cache);
            change(&mut model, &config);
            assert!(!holds(&model, &mut cache));
        }
        record(&model, &mut cache);
        let twin = self::model(Kind::Float, None);
        assert!(!holds(&twin, &mut cache), "another model");
    }

    #[test]
    fn the_view_grows_in_steps() {
        let model = model(Kind::BFloat16, None);
        for (capacity, expected) in [(20, 20), (1000, 256)] {
            assert_eq!(visible(&prefilled(&model, capacity)), expected);
        }
        let mut cache = prefilled(&model, 1000);
        cache.advance(&[250, 0, 0]);
        assert_eq!(visible(&cache), 256);
        cache.advance(&[1, 0, 0]);
        assert_eq!(visible(&cache), 512);
    }
}
