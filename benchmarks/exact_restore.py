"""Exact restore: bits changed by steps that should change none, memory and time beside in place.

    python benchmarks/exact_restore.py [--part bits memory time]

A plan is SHAPE:DTYPE:BATCHxLENGTH[:KIND]. KIND: "lora" trains adapters, which "exact" copies;
"untied" has a head of its own, held for whole evaluations as the trainers hold it.

bits: lr = 0 on a small model, its adapter ("exact") or all its weights ("layerwise"). memory: peak
resident memory of the second step, a fresh process for each way. time: CPU time of one thread, the
ways in turn in one process, least of the rounds. Parts that are left out stay in the record.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import shapes
import torch
from bench_memory import forget_peak, resident
from harness import RESULTS, provenance, record
from peft import LoraConfig, get_peft_model
from torch import nn

from zopro import ZOPrO

OUT = RESULTS / "exact_restore.json"
RESTORES = {"full": "layerwise", "lora": "exact"}
WAYS = ("inplace", "layerwise")
MEMORY = ("135m:fp32:2x16", "135m:fp32:2x16:lora", "135m:fp32:2x16:untied")
TIME = ("135m:fp32:1x256", "135m:fp32:1x256:lora", "1b:fp32:1x64")
ROUNDS = 3


def small(trained: str) -> nn.Module:
    """Tokens to logits by tied embeddings and two layers; "lora": an adapter on the layers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(64, 32), nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32),
        nn.Linear(32, 64, bias=False),
    )  # fmt: skip
    model[5].weight = model[0].weight
    if trained == "lora":
        model = get_peft_model(model, LoraConfig(r=8, target_modules=["2", "4"]))
    return model.eval()


def ways(plan: str) -> tuple[str, str]:
    """In place, and how the weights of `plan` come back to the bit."""
    return (WAYS[0], "exact") if plan.endswith(":lora") else WAYS


def built(plan: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The model and batch of a plan."""
    shape, dtype, size, *kind = plan.split(":")
    changes = {"tie_word_embeddings": False} if kind == ["untied"] else {}
    trained = "lora" if kind == ["lora"] else "full"
    model = shapes.build(shape, dtype, "cpu", trained, **changes)
    return model, shapes.batch_of(shape, *map(int, size.split("x")), "cpu")


def held(model: nn.Module) -> list[torch.Tensor]:
    """The parameters of a head that is no embedding too."""
    head = getattr(model, "lm_head", None)
    tied = head is None or head.weight is model.get_input_embeddings().weight
    return [] if tied else list(head.parameters())


def optimizer(model: nn.Module, restore: str, lr: float) -> ZOPrO:
    opt = ZOPrO(shapes.trainable(model), lr=lr, eps=1e-3, restore=restore)
    opt.attach(model, held=held(model))
    return opt


def bits_changed(dtype: str, trained: str, restore: str, steps: int) -> dict[str, Any]:
    """Elements whose bits differ after `steps` steps with lr = 0."""
    model = small(trained).to(shapes.DTYPES[dtype])
    ids = torch.arange(8)
    params = shapes.trainable(model)
    before = [p.detach().clone() for p in params]
    opt, losses = optimizer(model, restore, 0.0), set()
    for _ in range(steps):
        losses.add(float(opt.step(lambda: model(ids).float().square().mean())))
    changed = sum(
        int((a.view(torch.uint8) != b.view(torch.uint8)).sum())
        for a, b in zip(before, (p.detach() for p in params))
    )
    return {
        "dtype": dtype, "trained": trained, "restore": restore, "steps": steps,
        "weights": sum(map(torch.Tensor.numel, params)), "bytes changed": changed,
        "different losses": len(losses),
    }  # fmt: skip


def peak(plan: str, way: str) -> dict[str, Any]:
    """Bytes of the second step's peak, and of the largest module's parameters."""
    model, batch = built(plan)
    step = optimizer(model, way, 1e-6).step
    for measured in (False, True):
        if measured:
            forget_peak()
        step(lambda: model(**batch).loss)
    largest = max(
        sum(p.numel() * p.element_size() for p in m.parameters(recurse=False))
        for m in model.modules()
    )
    beside = sum(p.numel() * p.element_size() for p in held(model))
    adapter = sum(p.numel() * p.element_size() for p in shapes.trainable(model))
    return {"plan": plan, "way": way, "peak_bytes": resident("VmHWM"), "layer_bytes": largest,
            "held_bytes": beside, "trained_bytes": adapter}  # fmt: skip


def memory(plans: Sequence[str]) -> Iterator[dict[str, Any]]:
    """`peak` of each plan and way, in processes that return freed memory at once."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    for plan in plans:
        for way in ways(plan):
            done = subprocess.run(
                [sys.executable, __file__, "--peak", plan, way],
                capture_output=True, text=True, env=environment, check=True,
            )  # fmt: skip
            yield json.loads(done.stdout.splitlines()[-1])


def timed(plan: str) -> dict[str, Any]:
    """Seconds of a step of each way and of two forwards."""
    model, batch = built(plan)

    def loss() -> torch.Tensor:
        return model(**batch).loss

    def forwards() -> None:
        with torch.no_grad():
            loss(), loss()

    names = ways(plan)
    steps = {way: optimizer(model, way, 1e-9) for way in names}
    runs = {"two forwards": forwards}
    runs |= {way: lambda opt=opt: opt.step(loss) for way, opt in steps.items()}
    best = dict.fromkeys(runs, float("inf"))
    for turn in range(-1, ROUNDS):
        for name, run in runs.items():
            began = time.thread_time()
            run()
            if turn >= 0:  # the first round warms up
                best[name] = min(best[name], time.thread_time() - began)
    return {"plan": plan, "seconds": best, "rounds": ROUNDS, "load": os.getloadavg()[1],
            "way": names[1], "ratio": best[names[1]] / best["inplace"]}  # fmt: skip


def keep(path: Path, part: str, row: dict[str, Any]) -> None:
    """Records `row` at once, in the place of an older one of the same case."""

    def case(r: dict[str, Any]) -> list:
        names = (
            ("plan", "dtype", "trained") if part == "time" else ("plan", "way", "dtype", "trained")
        )
        return [r.get(name) for name in names]

    # A record's own lines are those of its last row.
    row = {**row, "made": {n: provenance()[n] for n in ("date", "commit", "command")}}
    print(row, flush=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    found = {name: kept.get(name, []) for name in ("bits", "memory", "time")}
    found[part] = [*(r for r in found[part] if case(r) != case(row)), row]
    record(path, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", default=["bits", "memory", "time"])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--trained", nargs="+", choices=RESTORES, default=list(RESTORES))
    parser.add_argument("--plan", nargs="+", help=f"default: {MEMORY} and {TIME}")
    parser.add_argument("--json", type=Path, default=OUT)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(json.dumps(peak(*args.peak)))
        return
    if "bits" in args.part:
        for trained in args.trained:
            for dtype in shapes.DTYPES:
                keep(args.json, "bits", bits_changed(dtype, trained, RESTORES[trained], args.steps))
    if "memory" in args.part:
        for row in memory(args.plan or MEMORY):
            keep(args.json, "memory", row)
    if "time" in args.part:
        for plan in args.plan or TIME:
            keep(args.json, "time", timed(plan))


if __name__ == "__main__":
    main()
