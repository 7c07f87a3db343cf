"""Writes grown/<name>/: adapters that bring tokens, as PEFT saves them after `resize_token_embeddings`, where both tables
are trained whole, and where three rows are.

Each folder holds `adapter_config.json` and `adapter_model.safetensors` exactly as PEFT wrote them (but for the base's
path), with the copies of embedding and head that it adds where a vocabulary has another size than the base's, and
`logits.safetensors`: `ids` with new tokens among them, `logits` with the adapter on, `spread`: how far transformers'
new rows are from the mean of the old ones, embedding and head.
"""

import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from adapters import settle
from common import HERE, MODELS, generator, load, random_ids

N_NEW = 5
WHOLE = dict(modules_to_save=["embed_tokens", "lm_head"])
ROWS = dict(trainable_token_indices=[97, 5, 99])  # of the five new ones two, and an old one
CASES = {
    "llama": ("llama3", WHOLE),  # a head of its own
    "qwen2": ("qwen2", WHOLE),  # a tied one
    "llama-rows": ("llama3", ROWS),
    "qwen2-rows": ("qwen2", ROWS),
}


def main() -> None:
    for name, (base, trained) in CASES.items():
        model = load(MODELS / base)
        n_old = model.config.vocab_size
        tables = [model.get_input_embeddings(), model.get_output_embeddings()]
        means = [table.weight.detach().mean(0) for table in tables]
        torch.manual_seed(0)
        model.resize_token_embeddings(n_old + N_NEW)
        tables = [model.get_input_embeddings(), model.get_output_embeddings()]
        spread = [(table.weight.detach()[n_old:] - mean).abs().max() for table, mean in zip(tables, means)]
        settings = dict(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=["q_proj"])
        peft = get_peft_model(model, LoraConfig(**settings, **trained)).eval()
        for key, parameter in peft.named_parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn(parameter.shape, generator=generator(f"{name} {key}")) * 0.1
        ids = random_ids(f"grown {name}", 23, n_old + N_NEW) + list(range(n_old, n_old + N_NEW))
        folder = HERE / "grown" / name
        with tempfile.TemporaryDirectory() as scratch:
            peft.save_pretrained(scratch)
            again = load(MODELS / base)
            again.resize_token_embeddings(n_old + N_NEW)
            again = PeftModel.from_pretrained(again, scratch).eval()
            folder.mkdir(parents=True, exist_ok=True)
            weights = Path(scratch) / "adapter_model.safetensors"
            (folder / weights.name).write_bytes(weights.read_bytes())
            (folder / "adapter_config.json").write_text(settle((Path(scratch) / "adapter_config.json").read_text()))
        with torch.no_grad():
            logits = peft(torch.tensor([ids])).logits[0].clone()
            assert (again(torch.tensor([ids])).logits[0] - logits).abs().max() < 1e-6, name
        save_file({"ids": torch.tensor(ids), "logits": logits, "spread": torch.stack(spread)}, folder / "logits.safetensors")
        print(f"{name}: {n_old} tokens and {N_NEW}, new rows within {max(spread):.1e} of the mean")


if __name__ == "__main__":
    main()
