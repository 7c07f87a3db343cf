"""Writes gradients/<name>.{json,safetensors}: the loss of one ragged batch and its gradient for every parameter.

The JSON holds the documents (ids and unshifted labels, −100 where not trained), the number of trained tokens and the
loss = Σ NLL / trained tokens. The documents go through the model one by one, so that nothing is padded.
"""

import torch
from safetensors.torch import save_file

from common import HERE, MODELS, generator, load, nll_sum, random_ids, write_json

NAMES = ["llama3", "qwen3", "gpt2"]
LENGTHS = [17, 5, 2, 30]


def document(name: str, length: int, vocab: int, untrained: int) -> dict:
    """Random ids, of which the first `untrained` and about a fifth of the others are not trained; the last always is."""
    ids = random_ids(name, length, vocab)
    kept = torch.rand(length, generator=generator(f"{name} kept")) < 0.8
    kept[:untrained], kept[-1] = False, True
    return {"ids": ids, "labels": [token if keep else -100 for token, keep in zip(ids, kept.tolist())]}


def trained(documents: list[dict]) -> int:
    return sum(label != -100 for document in documents for label in document["labels"][1:])


def loss_sum(model, documents: list[dict]) -> torch.Tensor:
    return sum(
        nll_sum(model(input_ids=torch.tensor([document["ids"]]), use_cache=False).logits[0], document["labels"])
        for document in documents
    )


def main() -> None:
    for name in NAMES:
        model = load(MODELS / name)
        documents = [
            document(f"gradients {name} {k}", n, model.config.vocab_size, untrained=n // 3) for k, n in enumerate(LENGTHS)
        ]
        loss = loss_sum(model, documents) / trained(documents)
        loss.backward()
        gradients = {key: parameter.grad.contiguous() for key, parameter in model.named_parameters()}
        write_json(
            HERE / "gradients" / f"{name}.json",
            {"documents": documents, "trained_tokens": trained(documents), "loss": loss.item()},
        )
        path = HERE / "gradients" / f"{name}.safetensors"
        save_file(gradients, path, metadata={"format": "pt"})
        print(f"{name:8} loss {loss.item():.4f}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
