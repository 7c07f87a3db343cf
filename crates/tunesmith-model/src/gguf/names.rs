//! What GGUF calls each tensor, and how it lies there.

use crate::{Config, ModelError};
use std::collections::BTreeMap;
use tch::Tensor;

/// Architectures of GGUF and the Hugging Face class that each stands for first.
const ARCHITECTURES: [(&str, &str); 5] = [
    ("llama", "LlamaForCausalLM"),
    ("llama", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("gpt2", "GPT2LMHeadModel"),
];

/// The Hugging Face class of a GGUF architecture.
pub(super) fn class_of(architecture: &str) -> Option<&'static str> {
    ARCHITECTURES.iter().find(|(name, _)| *name == architecture).map(|(_, class)| *class)
}

/// The GGUF architecture of a model.
pub(super) fn architecture(config: &Config) -> Result<&'static str, ModelError> {
    let found = ARCHITECTURES.iter().find(|(_, class)| *class == config.architecture);
    found.map(|(name, _)| *name).ok_or_else(|| ModelError::Unsupported {
        path: "GGUF".into(),
        what: format!("a {}", config.architecture),
        supported: ARCHITECTURES.map(|(_, class)| class).join(", "),
    })
}

/// The architectures that are read.
pub(super) fn supported() -> String {
    let mut names = ARCHITECTURES.map(|(name, _)| name).to_vec();
    names.dedup();
    names.join(", ")
}

/// Where a tensor stands in a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) layout: Layout,
}

/// How it lies there, seen from the Hugging Face checkpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Layout {
    /// The same.
    Same,
    /// `[in, out]` there is `[out, in]` here (GPT-2's Conv1D).
    Transposed,
    /// The rows of each of `n` heads in pairs: llama.cpp turns neighbours where Hugging Face turns halves.
    Paired(i64),
}

impl Layout {
    /// As GGUF has it.
    pub(super) fn apply(self, tensor: &Tensor) -> Tensor {
        match self {
            Self::Same => tensor.shallow_clone(),
            Self::Transposed => tensor.tr().contiguous(),
            Self::Paired(n_head) => regroup(tensor, n_head, false),
        }
    }

    /// As Hugging Face has it.
    pub(super) fn undo(self, tensor: Tensor) -> Tensor {
        match self {
            Self::Same => tensor,
            Self::Transposed => tensor.tr().contiguous(),
            Self::Paired(n_head) => regroup(&tensor, n_head, true),
        }
    }

    /// The shape here of what has `shape` there, and the other way round.
    pub(super) fn shape(self, shape: &[i64]) -> Vec<i64> {
        match self {
            Self::Transposed => shape.iter().rev().copied().collect(),
            _ => shape.to_vec(),
        }
    }
}

/// (heads · D, …) with the halves of each head interleaved, or taken apart again.
fn regroup(tensor: &Tensor, n_head: i64, apart: bool) -> Tensor {
    let size = tensor.size();
    let half = size[0] / n_head / 2;
    let split = if apart { [n_head, half, 2, -1] } else { [n_head, 2, half, -1] };
    tensor.reshape(split).transpose(1, 2).reshape(&size[..])
}

/// Every tensor that a model of this configuration may have, by its Hugging Face name.
pub(super) fn places(config: &Config) -> BTreeMap<String, Place> {
    let names = config.names;
    let mut places = BTreeMap::new();
    let mut put = |hf: String, gguf: String, layout: Layout| {
        for ending in ["weight", "bias"] {
            // A bias has nothing to transpose.
            let layout = if ending == "bias" && layout == Layout::Transposed {
                Layout::Same
            } else {
                layout
            };
            let place = Place { name: format!("{gguf}.{ending}"), layout };
            places.insert(format!("{hf}.{ending}"), place);
        }
    };
    let linear = if names.transposed { Layout::Transposed } else { Layout::Same };
    let paired = |n_head| match config.architecture.as_str() {
        "LlamaForCausalLM" | "MistralForCausalLM" => Layout::Paired(n_head),
        _ => linear,
    };
    put(names.embed.into(), "token_embd".into(), Layout::Same);
    put(names.position.into(), "position_embd".into(), Layout::Same);
    put(names.final_norm.into(), "output_norm".into(), Layout::Same);
    put(names.head.into(), "output".into(), Layout::Same);
    for layer in 0..config.n_layer {
        let (hf, gguf) = (format!("{}{layer}.", names.layer), format!("blk.{layer}."));
        let mut block = |name: &str, gguf_name: &str, layout: Layout| {
            put(format!("{hf}{name}"), format!("{gguf}{gguf_name}"), layout);
        };
        match names.qkv {
            [q, k, v] => {
                block(q, "attn_q", paired(config.n_head));
                block(k, "attn_k", paired(config.n_kv_head));
                block(v, "attn_v", linear);
            }
            fused => fused.iter().for_each(|name| block(name, "attn_qkv", linear)),
        }
        let [q_norm, k_norm] = names.qk_norm;
        for (name, gguf_name, layout) in [
            (names.input_norm, "attn_norm", Layout::Same),
            (q_norm, "attn_q_norm", Layout::Same),
            (k_norm, "attn_k_norm", Layout::Same),
            (names.o, "attn_output", linear),
            (names.post_norm, "ffn_norm", Layout::Same),
            (names.gate, "ffn_gate", linear),
            (names.up, "ffn_up", linear),
            (names.down, "ffn_down", linear),
        ] {
            if !name.is_empty() {
                block(name, gguf_name, layout);
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairing_is_undone() {
        // Two heads of size 4: halves 0 1 | 2 3 become pairs 0 2 | 1 3.
        let rows = Tensor::arange(8, (tch::Kind::Float, tch::Device::Cpu)).view([8, 1]);
        let layout = Layout::Paired(2);
        let there = layout.apply(&rows);
        let order = Vec::<f32>::try_from(there.view(-1)).unwrap();
        assert_eq!(order, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(layout.undo(there), rows);
        let bias = Tensor::arange(8, (tch::Kind::Float, tch::Device::Cpu));
        assert_eq!(layout.undo(layout.apply(&bias)), bias);
    }
}
