"""Writes sft/<run>.json: ten steps of a plain transformers + torch.optim.AdamW loop in fp32.

Each step holds its micro-batches of documents (ids and unshifted labels), then what the loop found: `loss` (Σ NLL over
all documents of the step ÷ trained tokens of the step), `grad_norm` (before clipping) and `lr` (linear to zero,
counted from 0: the first step gets the full rate). `final` holds per parameter Σ|w| after the last step and `moved`, the
L2 norm of what the ten steps changed.

The decay applies to every parameter, as AdamW does by itself (transformers' Trainer would spare norms and biases).

A key's bias shifts every score of a query alike, so its gradient is zero but for rounding, which AdamW blows up to full
steps: in GPT-2 the middle third of `c_attn.bias` wanders at random, and the loss does not feel it. `moved` leaves it out.

transformers makes the embedding with `padding_idx` = pad_token_id and so drops what the reading of that token teaches
its row. SmolLM2 pads with its end of turn, which ragged batches hold as an ordinary token: `smollm2-135m` is the plain
loop, `smollm2-135m-full` the same with `padding_idx` off, whose gradient is the loss's own.

`grad_norm` is summed in fp64: PyTorch's own fp32 norm on the CPU, which still does the clipping, is 1e-4 off for the 28
million elements of SmolLM2's embedding.
"""

import math

import torch
from transformers import AutoTokenizer

from common import HERE, MODELS, load, parts, write_json
from gradients import document, loss_sum, trained

STEPS = 10
# Documents of every micro-batch: unequal in length, number and trained tokens, so that a mean of means shows.
SHAPES = [[[23, 4, 11], [3, 37]], [[9], [16, 2, 8, 5]], [[30, 30], [6, 12]]]

CHATS = [
    ("How do bells get their pitch?", "A bell's pitch comes from its size and the thickness of its wall. The smith "
     "casts it a little too thick and then shaves metal from inside until five of its tones agree: the hum, the "
     "prime, the tierce, the quint and the nominal. A tone that is too low cannot be raised again, so the last cuts "
     "are thin, and between them the bell is struck and listened to."),
    ("Write one sentence about rain.", "The rain came in over the harbour as a grey wall, and one by one the boats "
     "went out like lamps."),
    ("What is 17 times 6, and how do you get there?", "17 times 6 is 102. Split 17 into 10 and 7: ten sixes are 60, "
     "seven sixes are 42, and 60 plus 42 is 102. You can check it by adding 17 six times, or by halving and doubling: "
     "34 times 3 is also 102."),
    ("Translate 'good morning' into three languages.", "Good morning is 'buenos días' in Spanish, 'guten Morgen' in "
     "German and 'bonjour' in French. In all three it is said until about noon; the French one is also used later in "
     "the day, because French has no word for good afternoon that people say when they meet."),
    ("Name two uses of a hash table.", "1. Counting: how often does each word occur in a text?\n2. Joining: which row "
     "of one table belongs to which row of another?\nBoth need an answer to 'have I seen this key?' that does not "
     "grow with the number of keys."),
    ("Why is the sky dark at night?", "If space were endless, unchanging and full of stars, every line of sight would "
     "end on a star, and the night would be as bright as day. It is dark because the universe had a beginning: light "
     "from far away has not had time to reach us, and what does reach us is stretched into colours we do not see."),
    ("Give me a short recipe for flat bread.", "Mix 250 g of flour with a teaspoon of salt, 150 ml of warm water and "
     "a spoon of oil. Knead for five minutes, rest for twenty, divide in six, roll thin, and bake each one minute per "
     "side in a very hot, dry pan."),
]  # fmt: skip


def linear(lr: float, step: int) -> float:
    return lr * (1 - step / STEPS)


def moved(name: str, before: torch.Tensor, after: torch.Tensor) -> float:
    change = after - before
    if name.endswith("c_attn.bias"):
        query, _, value = change.chunk(3)
        change = torch.cat([query, value])
    return change.double().norm().item()


def train(model, steps: list[list[list[dict]]], lr: float, weight_decay: float = 0.0, max_grad_norm: float = 1.0) -> dict:
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=weight_decay, foreach=False, fused=False)
    log = []
    for step, micro_batches in enumerate(steps):
        n_trained = sum(trained(documents) for documents in micro_batches)
        loss = 0.0
        for documents in micro_batches:
            part = loss_sum(model, documents) / n_trained
            part.backward()
            loss += part.item()
        grad_norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm, foreach=False)
        for group in optimizer.param_groups:
            group["lr"] = linear(lr, step)
        optimizer.step()
        optimizer.zero_grad()
        log.append(
            {"micro_batches": micro_batches, "trained_tokens": n_trained, "loss": loss, "grad_norm": grad_norm}
            | {"lr": linear(lr, step)}
        )
    final = {
        name: {"abs_sum": p.detach().double().abs().sum().item(), "moved": moved(name, start[name], p.detach())}
        for name, p in model.named_parameters()
    }
    knobs = {"lr": lr, "schedule": "linear", "max_steps": STEPS, "weight_decay": weight_decay}
    knobs |= {"betas": [0.9, 0.999], "eps": 1e-8, "max_grad_norm": max_grad_norm}
    return {"knobs": knobs, "steps": log, "final": final}


def small_steps(name: str, vocab: int) -> list[list[list[dict]]]:
    return [
        [
            [
                document(f"sft {name} {step} {m} {d}", length, vocab, untrained=length // (2 + d))
                for d, length in enumerate(shape)
            ]
            for m, shape in enumerate(SHAPES[step % len(SHAPES)])
        ]
        for step in range(STEPS)
    ]


def chat_document(tokenizer, question: str, answer: str) -> dict:
    """ChatML by hand; trained are the answer and the end of its turn."""
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(f"{answer}<|im_end|>", add_special_tokens=False)["input_ids"]
    return {"ids": prompt_ids + answer_ids, "labels": [-100] * len(prompt_ids) + answer_ids}


def main() -> None:
    runs = {
        "": {},
        "-decay": {"weight_decay": 0.1},
        "-clip-some": {"max_grad_norm": 6.7},  # at 1.0 every step is clipped; here about half of them
    }
    for name in ["llama3", "gpt2"]:
        for suffix, knobs in runs.items():
            model = load(MODELS / name)
            save(f"{name}{suffix}", train(model, small_steps(name, model.config.vocab_size), 1e-3, **knobs))
    if folder := parts():
        part = folder / "smollm2-135m-instruct"
        tokenizer = AutoTokenizer.from_pretrained(part)
        documents = [chat_document(tokenizer, *chat) for chat in CHATS]
        steps = [[[documents[2 * step % len(CHATS)], documents[(2 * step + 1) % len(CHATS)]]] for step in range(STEPS)]
        save("smollm2-135m", train(load(part), steps, 1e-5))
        model = load(part)
        model.get_input_embeddings().padding_idx = None
        save("smollm2-135m-full", train(model, steps, 1e-5))


def save(name: str, run: dict) -> None:
    path = HERE / "sft" / f"{name}.json"
    write_json(path, run)
    losses = " ".join(f"{step['loss']:.4f}" for step in run["steps"])
    norms = " ".join(f"{step['grad_norm']:.2f}" for step in run["steps"])
    print(f"{name}: {path.stat().st_size} bytes\n  loss {losses}\n  norm {norms}")


if __name__ == "__main__":
    main()
