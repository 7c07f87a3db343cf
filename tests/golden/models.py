"""Writes models/<name>/: one small random model of every family and form, saved by transformers itself.

Every weight is random, also the norms' and the biases' (a norm of ones or a bias of zeros would hide that it
was never read), and large enough that the logits are not flat. Three models have an ε of 1e-3, large enough to be missed.
"""

import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers import AutoModelForCausalLM

from common import MODELS, generator

SMALL = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=None,
)  # fmt: skip
GPT2 = dict(vocab_size=96, n_layer=2, bos_token_id=2, eos_token_id=2)


def rope(theta: float, **scaling) -> dict:
    return {"rope_theta": theta, "rope_type": "default"} | scaling


# Wavelengths of the four pairs: 6.3, 63, 628, 6283 tokens. The first stays, the second is blended, the others slow down.
LLAMA3 = rope(
    10000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)

CONFIGS = {
    "llama1": LlamaConfig(**SMALL, num_key_value_heads=4, rms_norm_eps=1e-6, rope_parameters=rope(10000.0)),
    "llama2": LlamaConfig(**SMALL, num_key_value_heads=2, rms_norm_eps=1e-3, rope_parameters=rope(10000.0)),
    "llama3": LlamaConfig(**SMALL, num_key_value_heads=2, rms_norm_eps=1e-5, rope_parameters=LLAMA3),
    "llama-linear": LlamaConfig(
        **SMALL, num_key_value_heads=4, rope_parameters=rope(10000.0, rope_type="linear", factor=4.0)
    ),
    "llama-bias": LlamaConfig(
        **SMALL, num_key_value_heads=2, head_dim=12, attention_bias=True, mlp_bias=True, rope_parameters=rope(500000.0)
    ),
    "llama-bf16": LlamaConfig(**SMALL, num_key_value_heads=2, rope_parameters=rope(10000.0)),
    "llama-sharded": LlamaConfig(**SMALL, num_key_value_heads=2, rope_parameters=rope(10000.0)),
    "tinyllama": LlamaConfig(**SMALL, num_key_value_heads=1, rms_norm_eps=1e-5, rope_parameters=rope(10000.0)),
    "smollm2": LlamaConfig(
        **SMALL | dict(hidden_size=36, num_attention_heads=9),
        num_key_value_heads=3, tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters=rope(100000.0),
    ),  # fmt: skip
    "mistral": MistralConfig(
        **SMALL, num_key_value_heads=2, sliding_window=None, rms_norm_eps=1e-5, rope_parameters=rope(1000000.0)
    ),
    "mistral-window": MistralConfig(
        **SMALL, num_key_value_heads=2, sliding_window=8, rms_norm_eps=1e-5, rope_parameters=rope(10000.0)
    ),
    "qwen2": Qwen2Config(
        **SMALL, num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-6, rope_parameters=rope(1000000.0)
    ),
    "qwen3": Qwen3Config(
        **SMALL, num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-3, rope_parameters=rope(1000000.0)
    ),
    "gpt2": GPT2Config(**GPT2, n_embd=32, n_head=4, n_inner=64, n_positions=64, layer_norm_epsilon=1e-3),
    "gpt2-hub": GPT2Config(**GPT2, n_embd=24, n_head=3, n_positions=48),
}


def randomise(model: torch.nn.Module, name: str) -> None:
    random = generator(name)
    for parameter_name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=random)
        if "norm" in parameter_name or "ln_" in parameter_name:
            value = 0.3 * noise + (1.0 if parameter_name.endswith("weight") else 0.0)
        elif parameter_name.endswith("bias"):
            value = 0.3 * noise
        elif "embed" in parameter_name or "wte" in parameter_name or "wpe" in parameter_name:
            value = 0.5 * noise
        else:
            value = 0.25 * noise
        parameter.data.copy_(value)


def rewrite(name: str, change) -> None:
    """Changes the tensors of a saved model to the form in which the field's older files carry them."""
    path = MODELS / name / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def with_rope_buffers(tensors: dict) -> dict:
    """Llama 2's published files hold each layer's rotary frequencies, which no reader needs."""
    inv_freq = 1.0 / 10000.0 ** (torch.arange(0, 8, 2) / 8)
    return tensors | {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": inv_freq.clone() for i in range(2)}


def without_prefix(tensors: dict) -> dict:
    """GPT-2's published file says `h.0…` where later ones say `transformer.h.0…`, and holds the causal masks."""
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    mask = torch.tril(torch.ones(48, 48)).view(1, 1, 48, 48)
    return bare | {f"h.{i}.attn.bias": mask.clone() for i in range(2)}


def main() -> None:
    shutil.rmtree(MODELS, ignore_errors=True)
    for name, config in CONFIGS.items():
        model = AutoModelForCausalLM.from_config(config)
        randomise(model, name)
        if name == "llama-bf16":
            model = model.to(torch.bfloat16)
        shards = {"max_shard_size": "30KB"} if name == "llama-sharded" else {}
        model.save_pretrained(MODELS / name, **shards)
    rewrite("llama2", with_rope_buffers)
    rewrite("gpt2-hub", without_prefix)
    for name in CONFIGS:
        print(f"{name:16} {sum(file.stat().st_size for file in (MODELS / name).iterdir()):7} bytes")


if __name__ == "__main__":
    main()
