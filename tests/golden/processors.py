"""Writes processors.json: what transformers' own list of logits processors makes of fixed logits.

The list is built by transformers from a GenerationConfig, so that the order is its own: repetition penalty, temperature,
top-k, top-p, min-p. Each case holds the history (every token so far, prompt included), the knobs, the logits and the
processed scores; a token that cannot be drawn is null (−inf). Drawing is then softmax(scores).
"""

import math

import torch
from transformers import GenerationConfig

from common import HERE, MODELS, generator, load, random_ids, write_json

VOCAB = 128
OFF = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=None, repetition_penalty=1.0)
CASES = [
    dict(),
    dict(repetition_penalty=1.3),
    dict(repetition_penalty=0.8),
    dict(temperature=0.7),
    dict(temperature=2.5),
    dict(top_k=1),
    dict(top_k=7),
    dict(top_k=500),
    dict(top_p=0.9),
    dict(top_p=0.3),
    dict(top_p=0.01),
    dict(min_p=0.05),
    dict(min_p=0.9),
    dict(temperature=0.7, top_k=20, top_p=0.8),
    dict(temperature=1.5, top_k=20, min_p=0.1),
    dict(repetition_penalty=1.2, temperature=0.6, top_k=40, top_p=0.95, min_p=0.02),
    dict(repetition_penalty=1.1, temperature=0.3, top_p=0.9),
]


def case(model, number: int, knobs: dict, ties: bool = False) -> dict:
    logits = 3 * torch.randn(VOCAB, generator=generator(f"processors {number}"))
    if ties:  # places 4 to 8 are equal: top-k 5 keeps all eight
        order = logits.argsort(descending=True)
        logits[order[3:8]] = logits[order[3]].item()
    history = random_ids(f"processors {number} history", 12, VOCAB)
    history += history[:3] + [logits.argmax().item(), logits.argmin().item()]  # repeats, the best and the worst token
    config = GenerationConfig(**OFF | knobs, do_sample=True, eos_token_id=None, pad_token_id=0)
    processors = model._get_logits_processor(config, input_ids_seq_length=len(history))
    scores = processors(torch.tensor([history]), logits[None].clone())[0]
    scores = [score if math.isfinite(score) else None for score in scores.tolist()]
    names = [type(processor).__name__ for processor in processors]
    return {"knobs": knobs, "processors": names, "history": history, "logits": logits.tolist(), "scores": scores}


def main() -> None:
    model = load(MODELS / "llama1")  # any model: it is asked for its processors alone
    cases = [case(model, number, knobs) for number, knobs in enumerate(CASES)]
    cases.append(case(model, len(CASES), dict(top_k=5), ties=True))
    write_json(HERE / "processors.json", cases)
    for one in cases:
        print(one["knobs"], one["processors"], sum(score is not None for score in one["scores"]), "left")


if __name__ == "__main__":
    main()
