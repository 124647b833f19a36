"""Peak memory of a training step over that of inference: the forward alone, without a graph.

    python benchmarks/bench_memory.py [--plan 135m:fp32:full:2x128 ...] [--device cpu]

On a Llama of a published shape with random weights (shapes.py): a forward under no_grad, a step of
ZOPrO in place and exact (targeted by a previous update and a reward's, int8 as the trainers store
them: also layer by layer, as `zopro train` restores an adapter), of the mixin over
transformers.Trainer (in place), of MeZO (re-created from its operations, peers.py), and AdamW with
its backward. The peak is that of the second step,
weights and optimizer state included, over what was held before the model was made. On a CPU it is
that of resident memory (Linux: VmHWM), a fresh process for each; what Python and torch load late,
a tiny model's step has loaded before. On a GPU it is torch.cuda.max_memory_allocated.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import peers
import shapes
import torch
from harness import Cases, options, parsed
from torch import Tensor

PLANS = {
    "cpu": ["135m:fp32:lora:2x128", "135m:fp32:lora64:8x128", "135m:fp32:full:2x128"],
    "cuda": [
        "1b:bf16:full:16x512",
        "1b:bf16:lora:16x512",
        "1b:bf16:lora64:16x512",
        "8b:bf16:lora:4x512",
    ],
}
WAYS = ("forward", "ZOPrO in place", "ZOPrO exact", "ZOPrO targeted in place",
        "ZOPrO targeted exact", "ZOPrO targeted layerwise", "trainer in place",
        "MeZO", "AdamW")  # fmt: skip
LR, EPS = 1e-6, 1e-3


def stepper(way: str, model: torch.nn.Module, batch: dict[str, Tensor]) -> Callable[[], Any]:
    """One step of `way` on `batch`; it writes the weights of `model` in place."""
    from zopro import ZOPrO

    params = shapes.trainable(model)

    def loss() -> Tensor:
        return model(**batch).loss

    if way == "forward":
        return torch.no_grad()(loss)
    if way == "MeZO":
        return torch.no_grad()(lambda: peers.mezo_step(params, loss, LR, EPS, 0))
    if way == "trainer in place":
        return trainer_step(model, batch)
    if way.startswith("ZOPrO"):
        restore = way.split()[-1].replace("place", "inplace")
        optimizer = ZOPrO(params, lr=LR, eps=EPS, restore=restore)
        if restore == "layerwise":
            optimizer.attach(model)
        if "targeted" in way:
            policy, reward = ([torch.randn_like(p) for p in params] for _ in range(2))
            optimizer.set_targets(policy, reward, schedule="constant", storage="int8")
        return lambda: optimizer.step(loss)
    optimizer = torch.optim.AdamW(params, lr=LR)

    def first_order() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return first_order


def trainer_step(model: torch.nn.Module, batch: dict[str, Tensor]) -> Callable[[], Any]:
    """A step of the mixin over transformers.Trainer, after a first one on eight tokens a row."""
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    from zopro import ZerothOrderMixin
    from zopro.trainer import ZerothOrderArguments

    @dataclasses.dataclass
    class Arguments(ZerothOrderArguments, TrainingArguments):
        pass

    class ZOTrainer(ZerothOrderMixin, Trainer):
        pass

    rows = Dataset.from_dict({k: v[:, :8].tolist() for k, v in batch.items()})
    with tempfile.TemporaryDirectory() as folder:
        args = Arguments(
            folder, max_steps=1, per_device_train_batch_size=len(rows), save_strategy="no",
            use_cpu=batch["input_ids"].device.type == "cpu", report_to="none", disable_tqdm=True,
            zo_restore="inplace", learning_rate=LR, zo_eps=EPS,
        )  # fmt: skip
        trainer = ZOTrainer(model, args, None, rows)
        trainer.train()

    def step() -> None:
        trainer.training_step(trainer.model_wrapped, batch)
        trainer.optimizer.step()

    return step


def resident(field: str) -> int:
    """Bytes of VmRSS, or of VmHWM, the peak since `forget_peak`."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def forget_peak() -> None:
    ctypes.CDLL(None).malloc_trim(0)  # small tensors that were freed are no memory in use
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def measure(way: str, plan: str, device: str) -> dict[str, Any]:
    """Bytes of the peak of one step of `way`, and of the model's parameters."""
    shape, dtype, trained, size = plan.split(":")
    size, length = map(int, size.split("x"))
    on_cpu = torch.device(device).type == "cpu"

    def twice(shape: str, size: int, length: int, between: Callable[[], None]) -> int:
        """The second step's peak, which `between` starts to count; returns the weights' bytes."""
        model = shapes.build(shape, dtype, device, trained)
        step = stepper(way, model, shapes.batch_of(shape, size, length, device))
        step()
        between()
        step()
        return sum(p.numel() * p.element_size() for p in model.parameters())

    twice("tiny", 2, 16, lambda: None)
    gc.collect()
    if on_cpu:
        before = resident("VmRSS")
        weights = twice(shape, size, length, forget_peak)
        peak = resident("VmHWM")
    else:
        before = torch.cuda.memory_allocated()
        weights = twice(shape, size, length, torch.cuda.reset_peak_memory_stats)
        peak = torch.cuda.max_memory_allocated()
    return {"way": way, "plan": plan, "peak_bytes": peak - before, "weights_bytes": weights}


def in_a_process(way: str, plan: str, device: str) -> dict[str, Any]:
    """`measure` in a fresh process; raises RuntimeError with the end of what it said."""
    command = [sys.executable, __file__, "--device", device, "--plan", plan, "--way", way]
    # glibc then maps every tensor on its own and returns it at once: resident is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(next(iter(done.stderr.splitlines()[-1:]), f"exit {done.returncode}"))
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = options(__doc__, budget=150)
    parser.add_argument("--plan", nargs="+", help="SHAPE:DTYPE:full|lora|lora64:BATCHxLENGTH; "
                        f"shapes: {', '.join(shapes.SHAPES)}")  # fmt: skip
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="default: all")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parsed(parser)
    plans = args.plan or PLANS[args.device]
    if args.way:
        print(json.dumps(measure(args.way, plans[0], args.device)))
        return 0
    cases, rows = Cases(args.budget), []
    work = in_a_process if args.device == "cpu" else measure
    for plan in plans:
        forward = None
        for way in args.ways:
            row = cases.run(f"{plan}, {way}", work, way, plan, args.device)
            if row is None:
                continue
            forward = row["peak_bytes"] if way == "forward" else forward
            row["over_forward"] = forward and row["peak_bytes"] / forward
            rows.append(row)
            told = "" if forward is None else f", {row['over_forward']:.3f} of the forward"
            print(f"{plan:24} {way:24} {row['peak_bytes'] / 2**20:9.1f} MB{told}")
    return cases.finish(args, "bench_memory", {"steps": rows})


if __name__ == "__main__":
    sys.exit(main())
