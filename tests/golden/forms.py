"""Checks forms/<name>.json: the same models, described as transformers 4 and older publishers wrote it.

These files are written by hand and are the goldens themselves; this script proves that transformers reads each to the
same logits, bit for bit, as the config.json that transformers 5 wrote.

refused/<name>.json, also by hand, holds configurations that a reader without that feature must refuse (`config`), and
the words that its message must contain (`message_names`).
"""

import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from common import HERE, MODELS, load, names
from logits import LENGTHS, logits_of


def main() -> None:
    for name in names():
        expected = load_file(HERE / "logits" / f"{name}.safetensors")
        with tempfile.TemporaryDirectory() as folder:
            for file in (MODELS / name).glob("model*"):
                shutil.copy(file, folder)
            shutil.copy(HERE / "forms" / f"{name}.json", Path(folder) / "config.json")
            model = load(Path(folder))
        for k in range(len(LENGTHS)):
            got = logits_of(model, expected[f"ids.{k}"].tolist())
            assert torch.equal(got, expected[f"logits.{k}"]), f"forms/{name}.json means another model"
    print("every form gives the logits of its model")


if __name__ == "__main__":
    main()
