"""Writes objectives/<name>.json and objectives/initial/<kind>/: ten steps of every objective by TRL 1.16 and PEFT 0.21.

The trainers of TRL are built with a tokenizer of 96 words, and each step is the trainer's own loss of the batch that its
own collator made, followed by torch's AdamW. So the numbers are TRL's, and the rows are known: each step holds its
documents (`ids`, `prompt`: how many of them are the prompt, or unshifted `labels`; `label` where there is one), chosen and rejected one after
the other. `loss` and `grad_norm` (before clipping, of which there is none) are what was found, `metrics` what the
trainer logs. Where the name ends in `-full` all weights are trained, and the reference is a frozen copy; else a LoRA
adapter is, whose initial state lies in `initial/` as PEFT saves it, and the reference is the base.
cDPO is no loss of TRL 1.x; its numbers are the formula's on TRL's log-probabilities.
"""

import json
import math
import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from common import HERE, MODELS, generator, load, write_json
from gradients import document, loss_sum, trained

STEPS, ROWS, LR = 10, 4, 5e-3
BASE = MODELS / "llama3"
OUT = HERE / "objectives"
WORDS = {0: "<unk>", 1: "<pad>", 2: "</s>"}

DPO = {
    "sigmoid": {},
    "robust": {"label_smoothing": 0.2},
    "hinge": {},
    "ipo": {"beta": 0.3},
    "sigmoid_norm": {"beta": 2.0},
    "apo_zero": {},
    "apo_down": {},
    "exo_pair": {"label_smoothing": 0.1},
    "nca_pair": {},
    "bco_pair": {},
    "sppo_hard": {"beta": 0.5},
}


def words(rng: torch.Generator, low: int, high: int) -> str:
    n = torch.randint(low, high, (1,), generator=rng).item()
    return " ".join(f"t{i}" for i in torch.randint(3, 96, (n,), generator=rng).tolist())


def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({WORDS.get(i, f"t{i}"): i for i in range(96)}, unk_token=WORDS[0]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token=WORDS[0], pad_token=WORDS[1], eos_token=WORDS[2])


def preferences(margin: bool = False) -> Dataset:
    rng = generator("preferences")
    rows = [{"prompt": words(rng, 2, 8) + " ", "chosen": words(rng, 1, 9), "rejected": words(rng, 1, 9)} for _ in range(STEPS * ROWS)]
    for i, row in enumerate(rows):
        row["chosen"] += f" {WORDS[2]}"
        row["rejected"] += f" {WORDS[2]}"
        if margin:
            row["margin"] = (i % 5) * 0.3
    return Dataset.from_list(rows)


def unpaired() -> Dataset:
    rng = generator("unpaired")
    rows = [
        {"prompt": words(rng, 2, 8) + " ", "completion": words(rng, 1, 9) + f" {WORDS[2]}", "label": i % 3 != 0}
        for i in range(STEPS * ROWS)
    ]
    return Dataset.from_list(rows)


TOKENS = list(range(20, 32))


def adapter(kind: str, model, base=BASE):
    """The initial adapter of `kind`, made once; B is zero."""
    folder = OUT / "initial" / kind
    if not (folder / "adapter_config.json").exists():
        task = "SEQ_CLS" if kind == "score" else "CAUSAL_LM"
        extra = {"dora": {"use_dora": True}, "rslora": {"use_rslora": True}, "tokens": {"trainable_token_indices": {"embed_tokens": TOKENS, "lm_head": TOKENS[3:]}}, "tokens-tied": {"trainable_token_indices": TOKENS}}.get(kind, {})
        torch.manual_seed(7)
        fresh = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type=task, **extra))
        fresh.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = base.name
        config["target_modules"] = sorted(config["target_modules"])
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
        model = fresh.unload()
    return PeftModel.from_pretrained(model, folder, is_trainable=True)


def run(name: str, model, batches, loss_of, documents_of, knobs: dict) -> None:
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=LR, weight_decay=0.0, foreach=False, fused=False)
    steps = []
    for rows, inputs in batches:
        loss, metrics = loss_of(inputs)
        loss.backward()
        norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in params if p.grad is not None))
        optimizer.step()
        optimizer.zero_grad()
        steps.append({"docs": documents_of(rows), "loss": loss.item(), "grad_norm": norm, "metrics": metrics})
    write_json(OUT / f"{name}.json", {"lr": LR, "knobs": knobs, "steps": steps})
    print(f"{name}: " + " ".join(f"{step['loss']:.5f}" for step in steps))


def chunks(trainer):
    rows = [trainer.train_dataset[i] for i in range(STEPS * ROWS)]
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        yield part, trainer.data_collator([dict(row) for row in part])


def pair_docs(rows):
    docs = []
    for row in rows:
        if "prompt_ids" in row:
            prompt, chosen, rejected = row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]
        elif "prompt_input_ids" in row:
            n = sum(label == -100 for label in row["chosen_labels"])
            prompt = row["chosen_input_ids"][:n]
            chosen, rejected = row["chosen_input_ids"][n:], row["rejected_input_ids"][n:]
        else:
            prompt, chosen, rejected = [], row["chosen_ids"], row["rejected_ids"]
        label = {"label": row["margin"]} if "margin" in row else {}
        docs.append({"ids": prompt + chosen, "prompt": len(prompt)} | label)
        docs.append({"ids": prompt + rejected, "prompt": len(prompt)})
    return docs


def logged(trainer) -> dict:
    metrics = trainer._metrics["train"]
    found = {key: values[-1] for key, values in metrics.items() if "logits" not in key and key not in ["entropy", "num_tokens"]}
    metrics.clear()
    return found


def arguments(config, out: str, **options):
    common = dict(output_dir=out, per_device_train_batch_size=ROWS, max_steps=STEPS, bf16=False, use_cpu=True, report_to=[])
    return config(**common, learning_rate=LR, gradient_checkpointing=False, save_strategy="no", logging_steps=1, seed=1, **options)


def dpo(name: str, loss_type, options: dict, full: bool = False, knobs: dict | None = None, formula=None) -> None:
    with tempfile.TemporaryDirectory() as out:
        model = load(BASE)
        trainer = DPOTrainer(
            model=model if full else adapter("lora", model),
            ref_model=load(BASE) if full else None,
            args=arguments(DPOConfig, out, loss_type=loss_type, max_length=None, **options),
            train_dataset=preferences(),
            processing_class=tokenizer(),
        )
        trainer.model.train()

        def loss_of(inputs):
            loss = trainer.compute_loss(trainer.model, inputs)
            return loss, logged(trainer)

        run(name, trainer.model, chunks(trainer), loss_of, pair_docs, {"beta": trainer.beta} | options | (knobs or {}))


def cdpo() -> None:
    """−(1 − ε) ln σ(βΔ) − ε ln σ(−βΔ): the mean of two sigmoid losses of TRL, one with the answers exchanged."""
    with tempfile.TemporaryDirectory() as out:
        trainer = DPOTrainer(
            model=adapter("lora", load(BASE)),
            args=arguments(DPOConfig, out, loss_type=["sigmoid"], max_length=None),
            train_dataset=preferences(),
            processing_class=tokenizer(),
        )
        trainer.model.train()

        def swapped(inputs):
            return {k: torch.cat(list(reversed(v.chunk(2)))) if torch.is_tensor(v) else v for k, v in inputs.items()}

        def loss_of(inputs):
            right = trainer.compute_loss(trainer.model, dict(inputs))
            metrics = logged(trainer)
            wrong = trainer.compute_loss(trainer.model, swapped(inputs))
            trainer._metrics["train"].clear()
            return 0.8 * right + 0.2 * wrong, metrics

        run("cdpo", trainer.model, chunks(trainer), loss_of, pair_docs, {"beta": 0.1, "label_smoothing": 0.2})


def old(name: str, trainer_class, config, knobs: dict, **options) -> None:
    with tempfile.TemporaryDirectory() as out:
        trainer = trainer_class(
            model=adapter("lora", load(BASE)),
            args=arguments(config, out, max_length=64, **options),
            train_dataset=preferences(),
            processing_class=tokenizer(),
        )
        trainer.model.train()

        def loss_of(inputs):
            loss, metrics = trainer.get_batch_loss_metrics(trainer.model, inputs)
            unused = ["nll_loss"] if trainer_class is CPOTrainer and trainer.cpo_alpha == 0 else []
            return loss, {key: value for key, value in metrics.items() if "logits" not in key and key not in unused}

        run(name, trainer.model, chunks(trainer), loss_of, pair_docs, knobs)


def kto(name: str, loss_type: str, knobs: dict) -> None:
    with tempfile.TemporaryDirectory() as out:
        trainer = KTOTrainer(
            model=adapter("lora", load(BASE)),
            args=arguments(KTOConfig, out, loss_type=loss_type, max_length=None, **knobs),
            train_dataset=unpaired(),
            processing_class=tokenizer(),
        )
        trainer.model.train()

        def documents_of(rows):
            return [
                {"ids": r["prompt_ids"] + r["completion_ids"], "prompt": len(r["prompt_ids"]), "label": float(r["label"])}
                for r in rows
            ]

        def loss_of(inputs):
            loss = trainer.compute_loss(trainer.model, inputs)
            trainer._metrics["train"].pop("kl", None) if loss_type != "kto" else None
            return loss, {k: v for k, v in logged(trainer).items() if k == "kl"}

        run(name, trainer.model, chunks(trainer), loss_of, documents_of, knobs)


def reward() -> None:
    with tempfile.TemporaryDirectory() as out:
        model = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=1, dtype=torch.float32, pad_token_id=1)
        trainer = RewardTrainer(
            model=adapter("score", model),
            args=arguments(RewardConfig, out, max_length=None, center_rewards_coefficient=0.05),
            train_dataset=preferences(margin=True),
            processing_class=tokenizer(),
        )
        trainer.model.train()

        def loss_of(inputs):
            loss = trainer.compute_loss(trainer.model, inputs)
            return loss, logged(trainer)

        run("reward", trainer.model, chunks(trainer), loss_of, pair_docs, {"center_coefficient": 0.05})


def sft(kind: str, base=BASE) -> None:
    """The plain loop of sft.py around PEFT: Σ NLL ÷ trained tokens."""
    model = adapter(kind, load(base), base)

    def batches():
        for step in range(STEPS):
            rows = [document(f"objectives {step} {i}", 6 + 3 * i, 96, untrained=2 + i) for i in range(ROWS)]
            yield rows, rows

    def loss_of(rows):
        return loss_sum(model, rows) / trained(rows), {}

    run(f"sft-{kind}", model, batches(), loss_of, lambda rows: rows, {})


def classify(base: str, n_labels: int) -> None:
    torch.manual_seed(11)
    model = AutoModelForSequenceClassification.from_pretrained(
        MODELS / base, num_labels=n_labels, dtype=torch.float32, pad_token_id=0
    )
    model.eval()  # no dropout
    score = model.score.weight.detach().clone().tolist()
    rng = generator(f"classify {base} {n_labels}")

    def batches():
        for _ in range(STEPS):
            rows = []
            for _ in range(ROWS):
                n = torch.randint(2, 14, (1,), generator=rng).item()
                ids = torch.randint(3, 96, (n,), generator=rng).tolist()
                rows.append({"ids": ids, "prompt": n, "label": float(torch.randint(n_labels, (1,), generator=rng).item())})
            yield rows, rows

    def loss_of(rows):
        logits = torch.cat([model(torch.tensor([row["ids"]])).logits for row in rows])
        labels = torch.tensor([int(row["label"]) for row in rows])
        accuracy = (logits.argmax(-1) == labels).float().mean().item()
        return torch.nn.functional.cross_entropy(logits, labels), {"accuracy": accuracy}

    run(f"classify-{base}-{n_labels}", model, batches(), loss_of, lambda rows: rows, {"score": score})
    probe = list(range(3, 40))
    path = OUT / f"classify-{base}-{n_labels}.json"
    golden = json.loads(path.read_text())
    with torch.no_grad():
        golden["after"] = {"ids": probe, "logits": model(torch.tensor([probe])).logits[0].tolist()}
    write_json(path, golden)


def main() -> None:
    for loss_type, options in DPO.items():
        dpo(f"dpo-{loss_type}", [loss_type], options)
    dpo("dpo-sigmoid-full", ["sigmoid"], {}, full=True)
    dpo("dpo-sum", ["sigmoid", "sft"], {"loss_weights": [1.0, 0.5]})
    cdpo()
    old("simpo", CPOTrainer, CPOConfig, {"beta": 2.0, "gamma": 1.0}, loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=1.0)
    old("cpo", CPOTrainer, CPOConfig, {"beta": 0.1, "label_smoothing": 0.1, "nll": 1.0}, loss_type="sigmoid", label_smoothing=0.1)
    old("orpo", ORPOTrainer, ORPOConfig, {"beta": 0.1}, beta=0.1)
    kto("kto", "kto", {"beta": 0.3, "desirable_weight": 1.0, "undesirable_weight": 1.5})
    kto("kto-apo_zero_unpaired", "apo_zero_unpaired", {"beta": 0.3})
    reward()
    for kind in ["lora", "dora", "rslora"]:
        sft(kind)
    sft("tokens")
    sft("tokens-tied", MODELS / "qwen2")
    for base in ["gpt2", "llama3"]:
        for n_labels in [3, 22]:
            classify(base, n_labels)


if __name__ == "__main__":
    main()
