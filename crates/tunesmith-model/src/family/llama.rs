//! Llama and the families that differ from it in a few switches: Mistral, Qwen2, Qwen3 (TinyLlama and SmolLM2 are Llama).

use super::{Keys, Names};
use crate::{Config, ModelError, config::Norm};
use serde_json::Value;

pub(super) const NAMES: Names = Names {
    base: "model.",
    embed: "model.embed_tokens",
    position: "",
    layer: "model.layers.",
    input_norm: "input_layernorm",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    qk_norm: ["self_attn.q_norm", "self_attn.k_norm"],
    o: "self_attn.o_proj",
    post_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    final_norm: "model.norm",
    head: "lm_head",
    transposed: false,
    ignored: &["rotary_emb.inv_freq"],
};

/// What the four share.
fn base(keys: &Keys, config: &mut Config) -> Result<(), ModelError> {
    config.hidden_size = keys.int("hidden_size")?;
    config.intermediate_size = keys.int("intermediate_size")?;
    config.n_layer = keys.int("num_hidden_layers")? as usize;
    config.n_head = keys.int("num_attention_heads")?;
    config.n_kv_head = keys.int_or("num_key_value_heads", config.n_head)?;
    config.head_dim = match keys.get("head_dim") {
        Some(_) => keys.int("head_dim")?,
        None if config.hidden_size % config.n_head == 0 => config.hidden_size / config.n_head,
        None => {
            let expected = format!("a divisor of hidden_size {}", config.hidden_size);
            return Err(keys.bad(
                "num_attention_heads",
                &expected,
                Some(&Value::from(config.n_head)),
            ));
        }
    };
    config.max_position_embeddings = keys.int_or("max_position_embeddings", 2048)?;
    config.norm = Norm::Rms { eps: keys.float_or("rms_norm_eps", 1e-6)? };
    config.position = keys.rotary(10_000.0)?;
    config.activation = keys.activation("hidden_act")?;
    config.gated_mlp = true;
    config.tie_word_embeddings = keys.bool_or("tie_word_embeddings", false)?;
    keys.must_be("attention_dropout", &Value::from(0.0))
}

pub(super) fn llama(keys: &Keys, config: &mut Config) -> Result<(), ModelError> {
    base(keys, config)?;
    let attention_bias = keys.bool_or("attention_bias", false)?;
    config.qkv_bias = attention_bias;
    config.o_bias = attention_bias;
    config.mlp_bias = keys.bool_or("mlp_bias", false)?;
    Ok(())
}

pub(super) fn mistral(keys: &Keys, config: &mut Config) -> Result<(), ModelError> {
    base(keys, config)?;
    // transformers: 4096 where the key is absent, no window where it is null.
    if keys.get("sliding_window").is_some() || !keys.has("sliding_window") {
        config.sliding_window = Some(keys.int_or("sliding_window", 4096)?);
    }
    Ok(())
}

pub(super) fn qwen2(keys: &Keys, config: &mut Config) -> Result<(), ModelError> {
    base(keys, config)?;
    config.qkv_bias = true;
    no_sliding_window(keys)
}

pub(super) fn qwen3(keys: &Keys, config: &mut Config) -> Result<(), ModelError> {
    base(keys, config)?;
    // Qwen3's configuration class has its own default, not hidden_size / heads.
    config.head_dim = keys.int_or("head_dim", 128)?;
    let attention_bias = keys.bool_or("attention_bias", false)?;
    config.qkv_bias = attention_bias;
    config.o_bias = attention_bias;
    config.qk_norm = true;
    no_sliding_window(keys)
}

/// Qwen writes `sliding_window` even where `use_sliding_window` is off; where it is on, only some layers slide.
fn no_sliding_window(keys: &Keys) -> Result<(), ModelError> {
    keys.must_be("use_sliding_window", &Value::from(false))
}
