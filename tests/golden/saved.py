"""Checks that transformers loads what tunesmith saved: `saved.py DIR`, DIR holding one model directory per name.

The test save_load leaves such a DIR under the target directory: tmp/saved. Every model must load without a missing or
an unexpected tensor and give the logits of logits/<name>.safetensors to 1e-5.
"""

import sys
from pathlib import Path

from safetensors.torch import load_file

from common import HERE, load, names
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


if __name__ == "__main__":
    main()
