"""Makes the data files of these tests, and what transformers makes of their rows.

    python make.py        (tokenizers, transformers and pyarrow; writes beside itself)

chats.jsonl, chats.parquet   48 conversations in ultrachat_200k's columns; the parquet in row groups of 7
codec-*.parquet              the first 6 of them, in every codec
large.parquet                the same 6 with 64-bit offsets and dictionary columns
chats-*.arrow                the same 6 as Arrow file and stream, plain and compressed, in batches of 4, one with dictionaries
tiny/                        a byte-level BPE of 384 tokens and a ChatML template
expected.json                ids and trained flags of each conversation, by transformers
"""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def conversations(n):
    rng = random.Random(1)
    things = "kettle harbour violin glacier letter orchard compass lantern bridge sparrow".split()
    asks = ["What is a {}?", "Write one line about a {}.", "How do I draw a {}?", "¿Qué es un {}?", "Is a {} older than a {}?"]
    tells = ["A {} is a thing people care for. ", "Think of a {} in winter. ", "Начните с {}. ", "The {} stands beside the {}. ", "🙂 {}! "]
    say = lambda forms: rng.choice(forms).format(rng.choice(things), rng.choice(things))
    rows = []
    for i in range(n):
        messages = []
        if i % 5 == 0:
            messages.append({"content": "You answer in few words.", "role": "system"})
        for _ in range(rng.randint(1, 4)):
            messages.append({"content": say(asks), "role": "user"})
            answer = "".join(say(tells) for _ in range(rng.randint(1, 6))).strip()
            messages.append({"content": answer, "role": "assistant"})
        rows.append(messages)
    rows[3][-1]["content"] = "A line separator\u2028and a tab\t stay inside \"the\" text."
    rows[4][-1]["content"] = ""
    return [{"prompt": next(m["content"] for m in r if m["role"] == "user"), "prompt_id": f"{i:04x}", "messages": r} for i, r in enumerate(rows)]


def main():
    rows = conversations(48)
    with open(HERE / "chats.jsonl", "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, HERE / "chats.parquet", row_group_size=7, compression="zstd")
    for codec in ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]:
        pq.write_table(table.slice(0, 6), HERE / f"codec-{codec}.parquet", compression=codec)
    message = pa.struct([("content", pa.large_string()), ("role", pa.dictionary(pa.int32(), pa.string()))])
    large = pa.schema([("messages", pa.large_list(message))])
    columns = pa.Table.from_pylist([{"messages": r["messages"]} for r in rows[:6]])
    text = [[{"content": m["content"], "role": m["role"]} for m in r] for r in columns["messages"].to_pylist()]
    flat = [m for r in text for m in r]
    offsets = pa.array([sum(map(len, text[:i])) for i in range(7)], pa.int64())
    struct = pa.StructArray.from_arrays(
        [pa.array([m["content"] for m in flat], pa.large_string()), pa.array([m["role"] for m in flat]).dictionary_encode()],
        fields=list(message),
    )
    pq.write_table(pa.table([pa.LargeListArray.from_arrays(offsets, struct)], schema=large), HERE / "large.parquet")

    coded = pa.table([pa.LargeListArray.from_arrays(offsets, struct)], schema=large)
    six = table.slice(0, 6)
    for name, new, codec, what in [
        ("file", pa.ipc.new_file, None, six),
        ("file-lz4", pa.ipc.new_file, "lz4", six),
        ("stream", pa.ipc.new_stream, None, six),
        ("stream-zstd", pa.ipc.new_stream, "zstd", six),
        ("dictionary", pa.ipc.new_file, None, coded),
        ("dictionary-stream", pa.ipc.new_stream, None, coded),
    ]:
        options = pa.ipc.IpcWriteOptions(compression=codec)
        with new(str(HERE / f"chats-{name}.arrow"), what.schema, options=options) as out:
            out.write_table(what, max_chunksize=4)

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((m["content"] for r in rows for m in r["messages"]), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", chat_template=TEMPLATE)
    tiny = HERE / "tiny"
    tiny.mkdir(exist_ok=True)
    tokenizer.save(str(tiny / "tokenizer.json"), pretty=False)
    config = {"eos_token": "<|endoftext|>", "chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
    (tiny / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")

    expected = []
    for row in rows:
        encoded = fast.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        expected.append({"ids": encoded["input_ids"], "trained": encoded["assistant_masks"]})
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in expected)
    (HERE / "expected.json").write_text(f"[{lines}]\n")


if __name__ == "__main__":
    main()
