"""Writes logits/<name>.safetensors: what transformers computes in fp32 for every model of models/, and for the real ones.

Small models: `ids.<k>` i64 [T], `logits.<k>` f32 [T, V] and, for T > 1, `nll.<k>` f64 [1] (mean over T − 1), for the
three sequences k. The bf16 model also has `logits_bf16.<k>` f32: its forward in bf16, to show how far that is off.

Real models (TUNESMITH_PARTS): `ids.<k>`, `nll.<k>`, `top_ids.<k>` i64 [20] and `top_logits.<k>` f32 [20] of the last
position, and `sample.<k>` f32 [⌈T/8⌉, ⌈V/499⌉] = logits[::8, ::499].
"""

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from common import HERE, MODELS, load, mean_nll, names, parts, random_ids

LENGTHS = [1, 7, 33]
REAL = {"smollm2-135m": "smollm2-135m-instruct", "stories15m": "stories15m"}
TEXTS = [
    "Once upon a time, a small smith lived at the edge of a village and made bells that rang in tune.",
    "The price of a loaf rose from 2.40 to 2.65 in March; by June, nobody remembered what it had been before. "
    "A baker keeps three numbers in his head: flour, water, and the hour at which he must get up.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n    return total / len(values)\n",
]  # fmt: skip


def logits_of(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def small(name: str) -> dict:
    model, eager = load(MODELS / name), load(MODELS / name, attn_implementation="eager")
    tensors = {}
    for k, length in enumerate(LENGTHS):
        ids = random_ids(f"{name} {length}", length, model.config.vocab_size)
        logits = logits_of(model, ids)
        # Two attention paths of transformers itself: were they further apart, 1e-4 would ask too much of a third.
        noise = (logits - logits_of(eager, ids)).abs().max().item()
        assert noise < 2e-5, f"{name}: two paths of transformers differ by {noise}"
        assert logits.std() > 0.5, f"{name}: the logits are flat"
        tensors |= {f"ids.{k}": torch.tensor(ids), f"logits.{k}": logits}
        if length > 1:
            tensors[f"nll.{k}"] = torch.tensor([mean_nll(logits, ids)], dtype=torch.float64)
        if name == "llama-bf16":
            tensors[f"logits_bf16.{k}"] = logits_of(load(MODELS / name, dtype=torch.bfloat16), ids)
    return tensors


def real(path) -> dict:
    model, tokenizer = load(path), AutoTokenizer.from_pretrained(path)
    tensors = {}
    for k, text in enumerate(TEXTS):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        logits = logits_of(model, ids)
        top = logits[-1].topk(20)
        tensors |= {f"ids.{k}": torch.tensor(ids), f"sample.{k}": logits[::8, ::499].contiguous()}
        tensors |= {f"top_ids.{k}": top.indices, f"top_logits.{k}": top.values}
        tensors[f"nll.{k}"] = torch.tensor([mean_nll(logits, ids)], dtype=torch.float64)
    return tensors


def main() -> None:
    folder = HERE / "logits"
    folder.mkdir(exist_ok=True)
    for name in names():
        save_file(small(name), folder / f"{name}.safetensors", metadata={"format": "pt"})
    if parts():
        for name, part in REAL.items():
            save_file(real(parts() / part), folder / f"{name}.safetensors", metadata={"format": "pt"})
    for path in sorted(folder.iterdir()):
        print(f"{path.name:30} {path.stat().st_size:7} bytes")


if __name__ == "__main__":
    main()
