"""Checks exported GGUF files: `exported.py DIR`, DIR holding <name>-f32.gguf per model.

Tensors are read by the `gguf` package under its own table of names and put into transformers' model of the original
configuration; the logits must be those of logits/<name>.safetensors to 1e-5. (transformers' own GGUF loader ignores
biases, rope scaling and n_inner.) Needs `pip install gguf`.
"""

import sys
from pathlib import Path

import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFReader, get_tensor_name_map
from gguf.quants import dequantize
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from common import HERE, MODELS, names
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


if __name__ == "__main__":
    main()
