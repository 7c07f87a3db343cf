"""Makes gguf/blocks.gguf and gguf/blocks.safetensors: every block type that tunesmith reads, as the `gguf` package of
PyPI writes and dequantises it; and numbers with what the package quantises them to. Needs `pip install gguf numpy`.
"""

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file

from common import HERE

READ = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q8_0, Type.Q4_K, Type.Q6_K]
WRITTEN = [Type.Q8_0, Type.Q4_0]


def random_blocks(rng: np.random.Generator, kind: Type, rows: int, columns: int) -> np.ndarray:
    """Random bits but for the scales, which are sane fp16 numbers."""
    length, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // length, size), dtype=np.uint8)
    for at in {Type.Q4_1: [0, 2], Type.Q4_K: [0, 2], Type.Q6_K: [208]}.get(kind, [0]):
        scales = rng.uniform(-0.1, 0.1, len(blocks)).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def main() -> None:
    rng = np.random.default_rng(20)
    writer = GGUFWriter(HERE / "gguf" / "blocks.gguf", "llama")
    writer.add_uint32("test.unsigned", 7)
    writer.add_int32("test.signed", -7)
    writer.add_float32("test.float", 1e-5)
    writer.add_bool("test.bool", True)
    writer.add_array("test.texts", ["a", "ä"])
    expected = {}
    for kind in READ:
        blocks = random_blocks(rng, kind, 3, 512)
        writer.add_tensor(kind.name, blocks, raw_dtype=kind)
        expected[kind.name] = torch.from_numpy(dequantize(blocks, kind).copy())
    for kind, dtype in [(Type.F32, np.float32), (Type.F16, np.float16)]:
        numbers = rng.normal(size=(2, 5)).astype(dtype)
        writer.add_tensor(kind.name, numbers)
        expected[kind.name] = torch.from_numpy(numbers)
    numbers = (rng.normal(size=(8, 256)) * rng.uniform(0.01, 3, (8, 1))).astype(np.float32)
    numbers[3, 64:96] = 0
    expected["numbers"] = torch.from_numpy(numbers)
    for kind in WRITTEN:
        expected[f"quantised.{kind.name}"] = torch.from_numpy(quantize(numbers, kind).astype(np.int64))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, HERE / "gguf" / "blocks.safetensors")


if __name__ == "__main__":
    main()
