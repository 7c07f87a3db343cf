"""Full or LoRA fine-tuning by TRL's SFTTrainer on rows of ids with every token trained.

`train.py <model> <fp32|autocast|bf16> <full|lora> <default|tuned> <ids.json> <rows per step> <steps>`; its last line is
one JSON object. TRL's own defaults stand, recomputation among them; `tuned` is without it, and with oneDNN's fp32
products (the environment adds malloc's settings).
"""

import json
import os
import resource
import statistics
import sys
import tempfile

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import torch
import transformers
from clock import Clock
from peft import LoraConfig
from torch.utils.data import SequentialSampler
from trl import SFTConfig, SFTTrainer

MODEL, KIND, WHAT, TUNING, IDS, PER_STEP, STEPS = sys.argv[1:6] + [int(x) for x in sys.argv[6:8]]
datasets.disable_progress_bars()
transformers.logging.set_verbosity_error()
if TUNING == "tuned":
    torch.set_float32_matmul_precision("medium")


class InOrder(SFTTrainer):
    def _get_train_sampler(self, *args):
        return SequentialSampler(self.train_dataset)


with open(IDS) as file:
    rows = json.load(file)
data = datasets.Dataset.from_dict({"input_ids": [rows[i % len(rows)] for i in range(PER_STEP * STEPS)]})
dtype = torch.bfloat16 if KIND == "bf16" else torch.float32
model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=dtype)
clock = Clock()
with tempfile.TemporaryDirectory() as folder:
    config = SFTConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=KIND == "autocast",
        per_device_train_batch_size=PER_STEP,
        max_steps=STEPS,
        max_length=len(rows[0]),
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **({"gradient_checkpointing": False} if TUNING == "tuned" else {}),
    )
    trainer = InOrder(
        model=model,
        args=config,
        train_dataset=data,
        processing_class=transformers.PreTrainedTokenizerFast.from_pretrained(MODEL),
        callbacks=[clock],
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        if WHAT == "lora"
        else None,
    )
    trainer.train()

seconds = [b - a for a, b in zip(clock.ends, clock.ends[1:])]
cpu = [b - a for a, b in zip(clock.cpu, clock.cpu[1:])]
figures = {
    "seconds": statistics.median(seconds),
    "cpu_seconds": statistics.median(cpu),
    "tokens": PER_STEP * len(rows[0]),
    "first_step": clock.first,
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    "loss": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][0],
}
print(json.dumps(figures))
