"""Greedy decoding by transformers' `generate`.

`generate.py <model> <fp32|bf16> <prompts.json> <new tokens> <times>`; its last line is one JSON object. Prompts have
one length, so nothing is padded.
"""

import json
import os
import statistics
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

MODEL, KIND, PROMPTS, N_NEW, TIMES = sys.argv[1:4] + [int(x) for x in sys.argv[4:6]]
transformers.logging.set_verbosity_error()
with open(PROMPTS) as file:
    prompts = torch.tensor(json.load(file))
dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[KIND]
model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=dtype).eval()


def answer(n):
    mask = torch.ones_like(prompts)
    with torch.no_grad():
        return model.generate(prompts, attention_mask=mask, do_sample=False, min_new_tokens=n, max_new_tokens=n)


answer(4)
seconds = []
for _ in range(TIMES):
    began = time.perf_counter()
    found = answer(N_NEW)
    seconds.append(time.perf_counter() - began)
n_tokens = (found.shape[1] - prompts.shape[1]) * found.shape[0]
print(json.dumps({"seconds": statistics.median(seconds), "tokens": n_tokens}))
