"""The data path of datasets, transformers and TRL: JSONL chats -> template -> tokens -> mask -> packs.

Prints one JSON object of figures as its last line. The time begins with the file and ends with the packs; imports,
the tokenizer's loading and the hashes that prove equal tokens are outside of it.
"""

import json
import os
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes of `map` are the parallelism
os.environ["HF_HUB_OFFLINE"] = "1"
cache = tempfile.TemporaryDirectory()
os.environ["HF_DATASETS_CACHE"] = cache.name  # an earlier run's results would be read instead of made

import datasets
import transformers
from trl import pack_dataset

FILE, MODEL, SEQ_LEN, PROCESSES = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5])
datasets.disable_progress_bars()

# Templates that do not mark what the assistant writes, with the mark in its place, as TRL's training templates have it.
PLAIN = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
MARKED = (
    "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{message['content'] + '<|im_end|>'}}{% endgeneration %}{% else %}{{message['content'] + '<|im_end|>'}}{% endif %}"
    "{{'\n'}}"
)

# tokenizer.json as it is: AutoTokenizer would rebuild a "GPT2Tokenizer" without the file's own splitting of digits.
tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(MODEL)
if "{% generation %}" not in tokenizer.chat_template:
    tokenizer.chat_template = tokenizer.chat_template.replace(PLAIN, MARKED)
    assert "{% generation %}" in tokenizer.chat_template, "this template has no marked form here"


def tokenise(rows):
    encoded = tokenizer.apply_chat_template(
        rows["messages"], return_dict=True, return_assistant_tokens_mask=True
    )
    return {"input_ids": encoded["input_ids"], "assistant_masks": encoded["assistant_masks"]}


began, cpu_before = time.perf_counter(), sum(os.times()[:4])
rows = datasets.load_dataset("json", data_files=FILE, split="train")
tokens = rows.map(
    tokenise, batched=True, batch_size=256, num_proc=PROCESSES, remove_columns=rows.column_names
)
packed = pack_dataset(tokens, SEQ_LEN, strategy="bfd")
seconds, cpu_seconds = time.perf_counter() - began, sum(os.times()[:4]) - cpu_before

# Text that spells a special token becomes one here, and stays text with tunesmith: such rows are set apart.
special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
spelled = {
    index
    for index, messages in enumerate(rows["messages"])
    if any(token in message["content"] for message in messages for token in special)
}

n_rows = n_tokens = n_trained = 0
hashes = []
for index, row in enumerate(tokens):
    ids, mask = row["input_ids"][:SEQ_LEN], row["assistant_masks"][:SEQ_LEN]
    if any(mask):  # ours leaves out what trains nothing
        n_rows, n_tokens, n_trained = n_rows + 1, n_tokens + len(ids), n_trained + sum(mask)
    hash = 0xCBF29CE484222325
    for id, trained in zip(ids, mask):
        hash = ((hash ^ (2 * id + trained)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    hashes.append(None if index in spelled else f"{hash:016x}")

print(json.dumps({
    "seconds": seconds,
    "cpu_seconds": cpu_seconds,
    "bytes": os.path.getsize(FILE),
    "rows": n_rows,
    "tokens": n_tokens,
    "trained": n_trained,
    "packs": len(packed),
    "hashes": hashes,
}))
