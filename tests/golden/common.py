"""What the golden scripts share: where files lie, and how the oracle is held still."""

import hashlib
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, logging  # noqa: E402

HERE = Path(__file__).resolve().parent
MODELS = HERE / "models"

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
logging.set_verbosity_error()
logging.disable_progress_bar()


def generator(name: str) -> torch.Generator:
    """Random numbers that depend on `name` alone."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))


def random_ids(name: str, n: int, vocab: int) -> list[int]:
    return torch.randint(0, vocab, (n,), generator=generator(name)).tolist()


def names() -> list[str]:
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def load(path: Path, **options):
    """The model in `path` as transformers reads it, in fp32 unless told otherwise."""
    return AutoModelForCausalLM.from_pretrained(path, **{"dtype": torch.float32} | options)


def nll_sum(logits: torch.Tensor, labels: list[int]) -> torch.Tensor:
    """Sum of −ln p(labels[i+1] | …i) over one document; a label of −100 is not counted. logits: [T, V]."""
    return torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(labels[1:]), ignore_index=-100, reduction="sum")


def mean_nll(logits: torch.Tensor, ids: list[int]) -> float:
    """Mean over the T − 1 predictions of a sequence, in f64 from the logits as they are."""
    return nll_sum(logits.double(), ids).item() / (len(ids) - 1)


def parts() -> Path | None:
    """The folder of real models named by TUNESMITH_PARTS, or None with the reason."""
    folder = os.environ.get("TUNESMITH_PARTS")
    if folder is None:
        print("TUNESMITH_PARTS is not set: the real models are left as they are")
        return None
    return Path(folder)


def write_json(path: Path, value) -> None:
    """One line per innermost list or object: small files that still show in a diff what changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pretty(value) + "\n")


def pretty(value, indent: str = "") -> str:
    flat = json.dumps(value)
    nested = isinstance(value, (dict, list)) and any(
        isinstance(item, (dict, list)) for item in (value.values() if isinstance(value, dict) else value)
    )
    if not nested:
        return flat
    inner = indent + " "
    if isinstance(value, dict):
        rows = [f"{inner}{json.dumps(key)}: {pretty(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + pretty(item, inner) for item in value) + f"\n{indent}]"
