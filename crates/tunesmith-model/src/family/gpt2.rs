//! GPT-2: LayerNorm, learned positions, one fused projection for q, k and v, weights stored transposed.

use super::{Keys, Names};
use crate::{
    Config, ModelError,
    config::{Norm, Position},
};
use serde_json::Value;

pub(super) const NAMES: Names = Names {
    base: "transformer.",
    embed: "transformer.wte",
    position: "transformer.wpe",
    layer: "transformer.h.",
    input_norm: "ln_1",
    qkv: &["attn.c_attn"],
    qk_norm: ["", ""],
    o: "attn.c_proj",
    post_norm: "ln_2",
    gate: "",
    up: "mlp.c_fc",
    down: "mlp.c_proj",
    final_norm: "transformer.ln_f",
    head: "lm_head",
    transposed: true,
    ignored: &["attn.bias", "attn.masked_bias"],
};

pub(super) fn gpt2(keys: &Keys, config: &mut Config) -> Result<(), ModelError> {
    config.hidden_size = keys.int("n_embd")?;
    config.intermediate_size = keys.int_or("n_inner", 4 * config.hidden_size)?;
    config.n_layer = keys.int("n_layer")? as usize;
    config.n_head = keys.int("n_head")?;
    config.n_kv_head = config.n_head;
    if config.hidden_size % config.n_head != 0 {
        let expected = format!("a divisor of n_embd {}", config.hidden_size);
        return Err(keys.bad("n_head", &expected, Some(&Value::from(config.n_head))));
    }
    config.head_dim = config.hidden_size / config.n_head;
    config.max_position_embeddings = keys.int_or("n_positions", 1024)?;
    config.norm = Norm::Layer { eps: keys.float_or("layer_norm_epsilon", 1e-5)? };
    config.position = Position::Learned;
    config.activation = match keys.get("activation_function") {
        Some(_) => keys.activation("activation_function")?,
        None => crate::config::Activation::GeluTanh,
    };
    config.gated_mlp = false;
    config.qkv_bias = true;
    config.o_bias = true;
    config.mlp_bias = true;
    config.tie_word_embeddings = keys.bool_or("tie_word_embeddings", true)?;
    // GPT-2's configuration carries dropout 0.1; fine-tuning here runs without, as the field's trainers do by default.
    keys.must_be("scale_attn_weights", &Value::from(true))?;
    keys.must_be("scale_attn_by_inverse_layer_idx", &Value::from(false))?;
    keys.must_be("reorder_and_upcast_attn", &Value::from(false))?;
    keys.must_be("add_cross_attention", &Value::from(false))
}
