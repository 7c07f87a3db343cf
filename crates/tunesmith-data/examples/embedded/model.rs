//! The tokenizer and the configuration of the tiny model: everything but its weights.

use serde_json::{Value, json};
use std::error::Error;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, PreTokenizerWrapper, TokenizerBuilder};
use tokenizers::{NormalizerWrapper, PostProcessorWrapper};

/// Ends a document; the base model's end-of-text.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";
const VOCAB_SIZE: usize = 2048;

/// The ChatML template, without a system message of its own.
pub(crate) const TEMPLATE: &str = "\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
";

/// A byte-level BPE tokenizer of `texts`, as `tokenizer.json`.
///
/// The turn markers are reserved although the corpus holds none: a chat needs them, and a vocabulary cannot grow later.
pub(crate) fn tokenizer(texts: &[String]) -> Result<String, Box<dyn Error + Send + Sync>> {
    let special =
        [END_OF_TEXT, "<|im_start|>", "<|im_end|>"].map(|token| AddedToken::from(token, true));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(VOCAB_SIZE)
        .show_progress(false)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >::default()
    .with_model(BPE::default())
    .with_pre_tokenizer(Some(byte_level.into()))
    .with_decoder(Some(byte_level.into()))
    .build()?;
    tokenizer.train(&mut trainer, texts.iter())?;
    tokenizer.to_string(true)
}

/// `tokenizer_config.json`, as transformers reads it.
pub(crate) fn tokenizer_config() -> Value {
    json!({
        "add_bos_token": false,
        "add_prefix_space": false,
        "bos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": false,
        "eos_token": END_OF_TEXT,
        "model_max_length": 512,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}

/// `config.json`: a Llama of 2.0 million weights.
pub(crate) fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dtype": "bfloat16",
        "eos_token_id": 0,
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": 192,
        "initializer_range": 0.02,
        "intermediate_size": 512,
        "max_position_embeddings": 512,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": 6,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": true,
        "use_cache": true,
        "vocab_size": VOCAB_SIZE,
    })
}

/// `generation_config.json`: greedy, and either end token ends an answer.
pub(crate) fn generation_config() -> Value {
    json!({"bos_token_id": 0, "do_sample": false, "eos_token_id": [0, 2], "pad_token_id": 0})
}
