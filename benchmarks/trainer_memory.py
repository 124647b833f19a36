"""Peak memory of a training step over the memory of the loaded model: is zeroth order inference?

One fresh process for each way, one step on the same batch of a random Llama with a LoRA adapter:
`forward` (no graph), `zopro` (the mixin over transformers.Trainer) and `adamw` (the Trainer
itself). A short training run first loads what Python loads late. Counted are the step's peak of
resident memory (Linux: VmHWM) over that before it, and what the optimizer keeps between steps:
ZOPrO a copy of the adapter (restore="exact"), AdamW two moments.

    python benchmarks/trainer_memory.py [--json FILE]
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile

import torch
from harness import record

WAYS = ("forward", "zopro", "adamw")
HIDDEN, LAYERS, VOCABULARY, BATCH, LENGTH = 512, 8, 8192, 8, 256


def build():
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(config), lora)
    ids = torch.randint(0, VOCABULARY, (BATCH, LENGTH)).tolist()
    return model, Dataset.from_dict({"input_ids": ids, "labels": ids})


def resident_mb(field: str) -> float:
    """VmRSS, or VmHWM, the peak since `forget_peak`."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def measure(way: str) -> dict:
    """One step of `way` in this process, in MB of 2^20 bytes."""
    from transformers import Trainer, TrainingArguments

    from zopro import ZerothOrderMixin
    from zopro.trainer import ZerothOrderArguments

    torch.set_num_threads(1)
    model, data = build()
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)

    @dataclasses.dataclass
    class ZOArguments(ZerothOrderArguments, TrainingArguments):
        pass

    class ZOTrainer(ZerothOrderMixin, Trainer):
        pass

    with tempfile.TemporaryDirectory() as out:
        config, cls = (ZOArguments, ZOTrainer) if way == "zopro" else (TrainingArguments, Trainer)
        args = config(
            out, max_steps=1, per_device_train_batch_size=BATCH, use_cpu=True, save_strategy="no",
            report_to="none", disable_tqdm=True,
        )  # fmt: skip
        batch = {k: torch.tensor(data[:][k]) for k in ("input_ids", "labels")}
        short = data.map(lambda row: {k: v[:8] for k, v in row.items()})
        trainer = cls(model, args, None, short)
        trainer.train()
    forget_peak()
    before = resident_mb("VmRSS")
    if way == "forward":
        with torch.no_grad():
            model.eval()(**batch)
    else:
        trainer.training_step(trainer.model_wrapped, batch)
        trainer.optimizer.step()
    kept = {"forward": 0, "zopro": 1, "adamw": 2}[way] * trainable * 4 / 2**20
    peak = resident_mb("VmHWM") - before + kept
    return {"way": way, "peak_mb": peak, "trainable_mb": trainable * 4 / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--json", help="write the figures, hardware and versions here")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way)))
        return

    rows = []
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way]
        # glibc then maps every tensor on its own and returns it at once: resident is in use.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'way':10}{'peak of a step, MB':>20}{'over forward':>14}")
    for row in rows:
        row["over_forward"] = row["peak_mb"] / rows[0]["peak_mb"]
        print(f"{row['way']:10}{row['peak_mb']:20.0f}{row['over_forward']:14.2f}")
    print(f"trainable weights: {rows[0]['trainable_mb']:.1f} MB")
    if options.json:
        record(options.json, {"rows": rows})


if __name__ == "__main__":
    main()
