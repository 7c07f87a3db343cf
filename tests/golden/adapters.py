"""Writes adapters/<name>/: adapters as PEFT saves them, and logits with them on.

Each folder holds `adapter_config.json` and `adapter_model.safetensors` exactly as PEFT wrote them (but for the base's
path, which is made relative, and for the order of `target_modules`, which PEFT leaves to chance and which is sorted
here), and `logits.safetensors`: `ids`, `logits` with the adapter on, `base` without it, `merged` of the merged model.
Every matrix is random, so that no part of an adapter is zero.
"""

import json
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from common import HERE, MODELS, generator, load, random_ids

CASES = {
    "llama-lora": ("llama3", dict(target_modules=["q_proj", "v_proj"], lora_alpha=16)),
    "llama-all": ("llama3", dict(target_modules="all-linear", r=3, lora_alpha=5)),
    "llama-rslora": ("llama3", dict(target_modules=["k_proj", "o_proj", "up_proj"], use_rslora=True, lora_alpha=2.5)),
    "llama-dora": ("llama3", dict(target_modules=["q_proj", "down_proj"], use_dora=True)),
    "llama-save": ("llama3", dict(target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens", "norm"])),
    "llama-embed": ("llama3", dict(target_modules=["embed_tokens", "lm_head", "gate_proj"])),
    "llama-embed-dora": ("llama3", dict(target_modules=["embed_tokens", "v_proj"], use_dora=True)),
    "llama-regex": ("llama3", dict(target_modules=r".*layers\.1\..*(q|k)_proj", lora_alpha=3)),
    "llama-pattern": (
        "llama3",
        dict(
            target_modules=["q_proj", "k_proj", "v_proj"],
            rank_pattern={"0.self_attn.q_proj": 2, "k_proj": 1},
            alpha_pattern={"v_proj": 3},
        ),
    ),
    "llama-layers": ("llama3", dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[1], exclude_modules=["up_proj"])),
    "qwen2-lora": ("qwen2", dict(target_modules=["q_proj", "o_proj", "down_proj"])),
    "qwen2-dora-bias": ("qwen2", dict(target_modules=["q_proj", "v_proj"], use_dora=True, bias="lora_only")),
    "qwen2-bias": ("qwen2", dict(target_modules=["o_proj", "q_proj"], bias="all", use_rslora=True)),
    "qwen2-save": ("qwen2", dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    "qwen2-head": ("qwen2", dict(target_modules=["lm_head", "v_proj"])),
    "qwen3-all": ("qwen3", dict(target_modules="all-linear", r=2)),
    "gpt2-lora": ("gpt2", dict(target_modules=["c_attn", "c_proj"])),
    "gpt2-dora-bias": ("gpt2", dict(target_modules=["c_attn", "wte"], use_dora=True, bias="all")),
    "llama-tokens": ("llama3", dict(target_modules=["q_proj"], trainable_token_indices=[5, 90, 17])),
    "llama-tokens-both": (
        "llama3",
        dict(target_modules=["v_proj"], trainable_token_indices={"embed_tokens": [3, 8], "lm_head": [8, 50, 2]}, use_dora=True),
    ),
    "llama-tokens-save": ("llama3", dict(target_modules=["q_proj"], trainable_token_indices=[9], modules_to_save=["lm_head"])),
    "qwen2-tokens": ("qwen2", dict(target_modules=["q_proj"], trainable_token_indices=[7, 4], bias="all")),
    "qwen2-tokens-both": (
        "qwen2",
        dict(target_modules=["o_proj"], trainable_token_indices={"embed_tokens": [7, 4], "lm_head": [7, 4]}),
    ),
    "gpt2-tokens": ("gpt2", dict(target_modules=["c_attn"], trainable_token_indices=[30, 1])),
    "mistral-window": ("mistral-window", dict(target_modules="all-linear", r=1, lora_alpha=1)),
}  # fmt: skip


def settle(text: str) -> str:
    """The file as PEFT writes it, but for what chance and place put into it."""
    config = json.loads(text)
    config["base_model_name_or_path"] = Path(config["base_model_name_or_path"]).name
    for key in ["target_modules", "exclude_modules"]:
        if isinstance(config[key], list):
            config[key] = sorted(config[key])
    return json.dumps(config, indent=2, sort_keys=True)


def with_tokens(ids: list[int], settings: dict) -> list[int]:
    """`ids` with the trained tokens among them, so that their rows are read."""
    tokens = settings.get("trainable_token_indices", [])
    tokens = tokens["embed_tokens"] if isinstance(tokens, dict) else tokens
    return tokens + ids[len(tokens) :]


def main() -> None:
    for name, (base, settings) in CASES.items():
        model = load(MODELS / base)
        ids = with_tokens(random_ids(f"adapters {name}", 23, model.config.vocab_size), settings)
        tokens = torch.tensor([ids])
        with torch.no_grad():
            plain = model(tokens).logits[0].clone()
        peft = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"} | settings)).eval()
        for key, parameter in peft.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator(f"{name} {key}")) * 0.1
                parameter.data = parameter.data * (1 + noise) if "magnitude" in key else parameter.data + noise
        folder = HERE / "adapters" / name
        with tempfile.TemporaryDirectory() as scratch:
            peft.save_pretrained(scratch)
            again = PeftModel.from_pretrained(load(MODELS / base), scratch).eval()
            folder.mkdir(parents=True, exist_ok=True)
            weights = Path(scratch) / "adapter_model.safetensors"
            (folder / weights.name).write_bytes(weights.read_bytes())
            (folder / "adapter_config.json").write_text(settle((Path(scratch) / "adapter_config.json").read_text()))
        with torch.no_grad():
            logits = peft(tokens).logits[0].clone()
            assert (again(tokens).logits[0] - logits).abs().max() < 1e-6, name
            merged = again.merge_and_unload()(tokens).logits[0].clone()
        assert (logits - plain).abs().max() > 1e-2, f"{name} changes nothing"
        save_file(
            {"ids": torch.tensor(ids), "logits": logits, "base": plain, "merged": merged}, folder / "logits.safetensors"
        )
        n = len(load_file(folder / "adapter_model.safetensors"))
        print(f"{name}: {n} tensors, moved {(logits - plain).abs().max():.3f}, merged {(merged - logits).abs().max():.1e}")


if __name__ == "__main__":
    main()
