"""Writes quantised/<name>.safetensors: weights as bitsandbytes 0.50 stores them, on the CPU.

`weight` (fp32 or bf16); NF4 with double quantisation: `nf4.codes` (two of 4 bits per byte, the first in the high half),
`nf4.absmax` (8-bit codes of the blocks' scales), `nf4.absmax2` and `nf4.offset` (what turns those back), `nf4.dequant`
in the dtype of the weight; NF4 without it: `nf4.plain_absmax`; int8 by rows: `int8.codes`, `int8.scales`.
`tables.safetensors`: the 16 values of NF4 and the 256 of the scales' code.

The scales' codes are those of the nearest value, as the CUDA kernel and bitsandbytes' reference in PyTorch find it
(backends/default/ops.py). Its C library for the CPU looks them up in 65,536 steps and so takes a neighbour where a
scale lies within a step of the middle between two; the script asserts that it differs nowhere else.
"""

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

from common import HERE, generator

SHAPES = {"square": (64, 64), "wide": (24, 200), "tall": (130, 33), "many": (66, 256)}


def nearest(scales: torch.Tensor, state) -> torch.Tensor:
    """Codes of the blocks' scales."""
    middles = (state.state2.code[:-1] + state.state2.code[1:]) / 2
    groups = state.state2.absmax.repeat_interleave(256)[: scales.numel()]
    scaled = (scales - state.offset) * (1.0 / groups)
    codes = torch.bucketize(scaled.clamp(-1, 1), middles).to(torch.uint8)
    close = (scaled[:, None] - middles).abs().min(dim=1).values <= 2 / 65535
    assert ((codes == state.absmax) | close).all()
    return codes


def main() -> None:
    folder = HERE / "quantised"
    folder.mkdir(exist_ok=True)
    for name, shape in SHAPES.items():
        for dtype in [torch.float32, torch.bfloat16]:
            weight = torch.randn(shape, generator=generator(f"quantised {name}")) * 0.05
            weight[0, :5] = torch.tensor([0.0, 1.0, -1.0, 1e-8, 0.3])  # an outlier makes the rest of its block small
            weight[1] = 0.0
            weight = weight.to(dtype)
            codes, state = F.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
            _, plain = F.quantize_4bit(weight, blocksize=64, compress_statistics=False, quant_type="nf4")
            state.absmax = nearest(plain.absmax, state)
            rows, scales, _ = F.int8_vectorwise_quant(weight)
            short = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
            tensors = {
                "weight": weight,
                "nf4.codes": codes.flatten(),
                "nf4.absmax": state.absmax,
                "nf4.absmax2": state.state2.absmax,
                "nf4.offset": state.offset.reshape(1),
                "nf4.dequant": F.dequantize_4bit(codes, state),
                "nf4.plain_absmax": plain.absmax,
                "int8.codes": rows,
                "int8.scales": scales,
            }
            path = folder / f"{name}-{short}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
            print(path.name, path.stat().st_size)
    save_file({"nf4": state.code, "scales": state.state2.code}, folder / "tables.safetensors")


if __name__ == "__main__":
    main()
