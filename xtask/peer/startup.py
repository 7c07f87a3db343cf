"""From the start of the process to the end of TRL's first step, on a file of chats.

`startup.py <model> <chats.jsonl> <tokens of a row>`; its last line is one JSON object. Two rows a step, TRL's own
defaults otherwise (every token is trained: it has no mask for this template); nothing is in the cache of `datasets`.
"""

import json
import os
import resource
import sys
import tempfile

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
cache = tempfile.TemporaryDirectory()
os.environ["HF_DATASETS_CACHE"] = cache.name

import datasets
import transformers
from clock import Clock
from trl import SFTConfig, SFTTrainer

MODEL, FILE, ROW_TOKENS = sys.argv[1], sys.argv[2], int(sys.argv[3])
datasets.disable_progress_bars()
transformers.logging.set_verbosity_error()

clock = Clock()
with tempfile.TemporaryDirectory() as folder:
    config = SFTConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=2,
        max_steps=1,
        max_length=ROW_TOKENS,
        dataset_num_proc=os.cpu_count(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32"),
        args=config,
        train_dataset=datasets.load_dataset("json", data_files=FILE, split="train").select_columns(["messages"]),
        processing_class=transformers.PreTrainedTokenizerFast.from_pretrained(MODEL),
        callbacks=[clock],
    )
    trainer.train()

peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps({"first_step": clock.first, "peak_mib": peak}))
