"""Checks that transformers loads what tunesmith saved: `saved.py DIR`, DIR holding one model directory per name.

The tests save_load, objectives and adapters leave such a DIR under the target directory: tmp/saved. Every model must
load without a missing or an unexpected tensor and give the logits of logits/<name>.safetensors to 1e-5; every
classifier, under its class, those of objectives/<name>.json to 1e-3 (ten steps of training lie between); every adapter
in adapters/, loaded by PEFT, those of adapters/<name>/logits.safetensors to 1e-5 of the largest; those in grown/, on a base
whose vocabulary was resized, those of grown/<name>/logits.safetensors; and every model in grown-whole/, which has new
tokens and was not trained, the logits of its base for old ones.
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from common import HERE, MODELS, load, names
from logits import LENGTHS, logits_of


def main() -> None:
    folder = Path(sys.argv[1])
    for name in names():
        expected = load_file(HERE / "logits" / f"{name}.safetensors")
        model, info = load(folder / name, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], f"{name}: {info}"
        for k in range(len(LENGTHS)):
            diff = (logits_of(model, expected[f"ids.{k}"].tolist()) - expected[f"logits.{k}"]).abs().max().item()
            assert diff <= 1e-5, f"{name}: logits differ by {diff}"
        print(f"{name}: equal")
    for path in sorted((HERE / "objectives").glob("classify-*.json")):
        after = json.loads(path.read_text())["after"]
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder / path.stem, dtype=torch.float32, output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"], f"{path.stem}: {info}"
        with torch.no_grad():
            logits = model.eval()(torch.tensor([after["ids"]])).logits[0]
        diff = (logits - torch.tensor(after["logits"])).abs().max().item()
        assert diff <= 1e-3, f"{path.stem}: logits differ by {diff}"
        print(f"{path.stem}: {type(model).__name__}, {len(model.config.id2label)} labels, within {diff:.1e}")
    for path in sorted((HERE / "adapters").iterdir()):
        expected = load_file(path / "logits.safetensors")
        base = json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"]
        model = PeftModel.from_pretrained(load(MODELS / base), folder / "adapters" / path.name).eval()
        with torch.no_grad():
            logits = model(expected["ids"][None]).logits[0]
        diff = ((logits - expected["logits"]).abs().max() / expected["logits"].abs().max()).item()
        assert diff <= 1e-5, f"{path.name}: logits differ by {diff}"
        print(f"{path.name}: PEFT loads it, within {diff:.1e}")
    for path in sorted((HERE / "grown").iterdir()):
        expected = load_file(path / "logits.safetensors")
        base = json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"]
        plain = load(MODELS / base)
        n_old, n_new = plain.config.vocab_size, expected["logits"].shape[1]
        whole, info = load(folder / "grown-whole" / path.name, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], f"{path.name}: {info}"
        assert whole.config.vocab_size == n_new, f"{path.name}: {whole.config.vocab_size} tokens"
        ids = (expected["ids"] % n_old).tolist()
        diff = (logits_of(whole, ids)[:, :n_old] - logits_of(plain, ids)).abs().max().item()
        assert diff <= 1e-5, f"{path.name}: logits of the grown model differ by {diff}"
        plain.resize_token_embeddings(n_new)
        model = PeftModel.from_pretrained(plain, folder / "grown" / path.name).eval()
        with torch.no_grad():
            logits = model(expected["ids"][None]).logits[0]
        diff = ((logits - expected["logits"]).abs().max() / expected["logits"].abs().max()).item()
        assert diff <= 1e-5, f"{path.name}: logits differ by {diff}"
        print(f"{path.name}: {n_new - n_old} tokens more, within {diff:.1e}")


if __name__ == "__main__":
    main()
