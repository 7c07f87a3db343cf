"""Checks exported GGUF files: `exported.py DIR`, DIR holding <name>-f32.gguf per model and lora/<name>.gguf per adapter.

Tensors are read by the `gguf` package under its own table of names and put into transformers' model of the original
configuration; the logits must be those of logits/<name>.safetensors to 1e-5. (transformers' own GGUF loader ignores
biases, rope scaling and n_inner.) Adapters are added to the weights as llama.cpp does, α / r · B A; the logits must be
those of adapters/<name>/logits.safetensors. Needs `pip install gguf`.
"""

import json
import sys
from pathlib import Path

import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFReader, get_tensor_name_map
from gguf.quants import dequantize
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from common import HERE, MODELS, load, names
from logits import LENGTHS, logits_of

ARCHS = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}


def halves(tensor: torch.Tensor, n_head: int) -> torch.Tensor:
    """Undoes llama.cpp's interleaving of the two halves of each head."""
    rows = tensor.shape[0] // n_head // 2
    return tensor.reshape(n_head, rows, 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def state_dict(reader: GGUFReader, config, model) -> dict[str, torch.Tensor]:
    arch = ARCHS[reader.fields["general.architecture"].contents()]
    table = get_tensor_name_map(arch, config.num_hidden_layers)
    stored = {t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).copy()) for t in reader.tensors}
    state, used = {}, set()
    for name, parameter in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        theirs = table.get_name(name, try_suffixes=(".weight", ".bias"))
        tensor = stored[theirs]
        used.add(theirs)
        if arch == MODEL_ARCH.LLAMA and ".attn_q." in theirs:
            tensor = halves(tensor, config.num_attention_heads)
        if arch == MODEL_ARCH.LLAMA and ".attn_k." in theirs:
            tensor = halves(tensor, config.num_key_value_heads)
        if name.split(".")[-2].startswith("c_") and tensor.dim() == 2:
            tensor = tensor.T  # GPT-2's Conv1D
        assert tensor.shape == parameter.shape, f"{name}: {tensor.shape} for {parameter.shape}"
        state[name] = tensor
    assert set(stored) - used <= {"rope_freqs.weight"}, set(stored) - used
    return state


def add_lora(reader: GGUFReader, model) -> int:
    assert reader.fields["general.type"].contents() == "adapter" and reader.fields["adapter.type"].contents() == "lora"
    config, alpha = model.config, reader.fields["adapter.lora.alpha"].contents()
    arch = ARCHS[reader.fields["general.architecture"].contents()]
    table = get_tensor_name_map(arch, config.num_hidden_layers)
    stored = {t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).copy()) for t in reader.tensors}
    used = 0
    for name, parameter in model.named_parameters():
        theirs = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if f"{theirs}.lora_a" not in stored:
            continue
        a, b = stored[f"{theirs}.lora_a"], stored[f"{theirs}.lora_b"]
        if arch == MODEL_ARCH.LLAMA and ".attn_q." in theirs:
            b = halves(b, config.num_attention_heads)
        if arch == MODEL_ARCH.LLAMA and ".attn_k." in theirs:
            b = halves(b, config.num_key_value_heads)
        change = alpha / a.shape[0] * (b @ a)
        parameter.data += change.T if name.split(".")[-2].startswith("c_") else change
        used += 2
    assert used == len(stored), f"{len(stored) - used} tensors have no place"
    return used // 2


def main() -> None:
    folder = Path(sys.argv[1])
    for name in names():
        path = folder / f"{name}-f32.gguf"
        if not path.exists():
            print(f"{name}: not exported")
            continue
        config = AutoConfig.from_pretrained(MODELS / name)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
        reader = GGUFReader(path)
        model.load_state_dict(state_dict(reader, config, model), strict=False)
        expected = load_file(HERE / "logits" / f"{name}.safetensors")
        worst = 0.0
        for k in range(len(LENGTHS)):
            found = logits_of(model, expected[f"ids.{k}"].tolist())
            worst = max(worst, (found - expected[f"logits.{k}"]).abs().max().item())
        assert worst <= 1e-5, f"{name}: logits differ by {worst}"
        print(f"{name}: {len(reader.tensors)} tensors, equal to {worst:.1e}")
    for path in sorted((folder / "lora").glob("*.gguf")):
        golden = HERE / "adapters" / path.stem
        model = load(MODELS / json.loads((golden / "adapter_config.json").read_text())["base_model_name_or_path"])
        n_pairs = add_lora(GGUFReader(path), model)
        expected = load_file(golden / "logits.safetensors")
        found = logits_of(model, expected["ids"].tolist())
        diff = ((found - expected["logits"]).abs().max() / expected["logits"].abs().max()).item()
        assert diff <= 1e-5, f"{path.stem}: logits differ by {diff}"
        print(f"{path.stem}: {n_pairs} pairs, equal to {diff:.1e}")


if __name__ == "__main__":
    main()
