"""Writes generate/<name>.json: greedy continuations by transformers in fp32, no stop token.

`margin` is the smallest distance of the two best logits on the way. A prompt on which they come closer than MARGIN is
left out: two right implementations may differ there.
"""

import torch
from transformers import AutoTokenizer, GenerationConfig

from common import HERE, MODELS, load, parts, random_ids, write_json

MARGIN = 2e-3
SMALL = {"qwen3": 32, "gpt2": 32, "llama3": 32, "mistral-window": 32}
PROMPTS = [
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "Water boils at",
    "The three primary colours are", "Dear Sir or Madam,", "In 1969, people first", "My favourite book is",
    "To make tea, first", "A bell is made of", "If x + 3 = 7, then x =", "The opposite of cold is",
    "She opened the door and", "Photosynthesis is the process by which", "Monday, Tuesday, Wednesday,",
    "The largest planet of the solar system", "Ein Satz auf Deutsch:", "SELECT name FROM", "\"Why?\" he asked.",
    "The difference between a virus and a bacterium", "Roses are red,", "import numpy as np", "An apple a day",
    "<|im_start|>user\nWhat is the capital of Italy?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nTell me a joke about bread.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nList four fruits.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite a haiku about rain.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n",
]  # fmt: skip


def greedy(model, prompt: list[int], n: int) -> dict:
    config = GenerationConfig(do_sample=False, max_new_tokens=n, eos_token_id=None, pad_token_id=0)
    config.return_dict_in_generate = config.output_logits = True
    tokens = torch.tensor([prompt])
    with torch.no_grad():
        output = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=config)
    best = torch.stack([logits[0].topk(2).values for logits in output.logits])
    ids = output.sequences[0, len(prompt) :].tolist()
    assert len(ids) == n
    return {"prompt": prompt, "ids": ids, "margin": (best[:, 0] - best[:, 1]).min().item()}


def write(name: str, model, prompts: list[list[int]], keep: int, n: int) -> None:
    model.generation_config.eos_token_id = None
    cases = []
    for prompt in prompts:
        case = greedy(model, prompt, n)
        if case["margin"] > MARGIN and len(cases) < keep:
            cases.append(case)
    assert len(cases) == keep, f"{name}: {len(cases)} clear prompts of {len(prompts)}"
    write_json(HERE / "generate" / f"{name}.json", cases)
    print(f"{name}: margins from {min(case['margin'] for case in cases):.4f}")


def main() -> None:
    for name, n in SMALL.items():
        model = load(MODELS / name)
        prompts = [random_ids(f"generate {name} {k}", 1 + 3 * (k % 5), model.config.vocab_size) for k in range(20)]
        write(name, model, prompts, keep=5, n=n)
    if folder := parts():
        part = folder / "smollm2-135m-instruct"
        tokenizer = AutoTokenizer.from_pretrained(part)
        prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROMPTS]
        write("smollm2-135m", load(part), prompts, keep=20, n=64)


if __name__ == "__main__":
    main()
