"""A run of the small model rebuilt from its step log by every backend: same digest, and how much
faster than training.

    python benchmarks/replay.py --json benchmarks/results/replay.json
    python benchmarks/replay.py --weights all --restore exact --json benchmarks/results/replay.json

The first takes all weights, an adapter, and an adapter of one matrix, each with either restore;
with --weights and --restore the other runs stay in the record. Backends are those at hand. Where
Triton's interpreter is one of them it replays the adapter of one matrix alone: it takes 75 ms for
a pass over any tensor, an hour of CPU time for a thousand steps of all weights. What the digests
of frozen weights take is measured on the shape of 135 M parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported

import harness
import shapes
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import zopro_kernels as zk
from zopro import StepLog, ZOPrO, replay
from zopro.digests import digest
from zopro.steplog import gathered, read_log
from zopro.steplog.frozen import frozen_of

START = Path(__file__).parents[1] / "examples/translation/start"
WEIGHTS, RESTORES, RANK = ("all", "adapter", "one matrix"), ("exact", "inplace"), 8
ROUNDS = 3  # of replays by the backend that trained, with one pass in one and with many, in turn


def built(weights: str) -> torch.nn.Module:
    """The small model, or adapters of rank 8 on its linear layers (or one matrix of the last), both
    halves drawn at random."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(START, dtype=torch.float32)
    if weights != "all":
        last = f".*layers.{model.config.num_hidden_layers - 1}.self_attn.q_proj"
        where = "all-linear" if weights == "adapter" else last
        lora = LoraConfig(r=RANK, target_modules=where, init_lora_weights=False)
        model = get_peft_model(model, lora)
    return model.eval()


def replayed(path: Path, base: dict[str, torch.Tensor], backend: str | None, most: int) -> tuple:
    """Seconds of a replay with at most `most` passes in one, and its digest. Seconds of this
    thread's CPU, which other processes do not stretch; on a GPU, of the clock."""
    gpu = torch.cuda.is_available() and backend in ("triton", "cuda")
    clock = time.perf_counter if gpu else time.thread_time
    weights = {name: w.clone().to("cuda" if gpu else "cpu") for name, w in base.items()}
    usual, gathered.MOST = gathered.MOST, most
    try:
        began = clock()
        found = replay(read_log(path), weights, backend=backend)
        return clock() - began, found
    finally:
        gathered.MOST = usual


def trained(path: Path, model: torch.nn.Module, restore: str, steps: int, tokens: int) -> dict:
    """Trains for `steps` steps on `tokens` tokens; CPU seconds of the one thread."""
    ids = torch.randint(4, model.config.vocab_size, (4, tokens // 4),
                        generator=torch.Generator().manual_seed(0))  # fmt: skip
    params = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    opt, taken = ZOPrO(params, lr=1e-5, eps=1e-3, restore=restore), []

    def loss() -> torch.Tensor:
        return model(input_ids=ids, labels=ids).loss

    began = time.thread_time()
    with StepLog(path, opt, frozen=model) as log:
        opened = time.thread_time() - began
        opt._step_log = _Timed(log.taken, taken)
        began = time.thread_time()
        for step in range(steps):
            opt.param_groups[0]["lr"] = 1e-5 * (1 - step / steps)
            opt.step(loss)
        seconds = time.thread_time() - began
        opt._step_log = log
    return {"training, s": seconds, "opening the log, s": opened,
            "log, share of the step": sum(taken) / seconds}  # fmt: skip


def measured(weights: str, restore: str, given: argparse.Namespace) -> dict[str, Any]:
    """Trains and replays by each backend."""
    model = built(weights)
    params = {n: p for n, p in model.named_parameters() if p.requires_grad}
    base = {name: p.detach().clone() for name, p in params.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "steps.zolog"
        run = trained(path, model, restore, given.steps, given.tokens)
        end, log = digest(params.values()), read_log(path)
        replays = {}
        for backend in given.backends or at_hand(weights):
            most = [gathered.MOST, 1] if backend == "cpu" else [gathered.MOST]
            rounds = [[replayed(path, base, backend, m) for m in most]
                      for _ in range(ROUNDS if backend == "cpu" else 1)]  # fmt: skip
            seconds = [statistics.median(r[i][0] for r in rounds) for i in range(len(most))]
            replays[backend] = {
                "same digest": all(found == end for r in rounds for _, found in r),
                "replay, s": seconds[0],
                "replay one by one, s": seconds[1] if len(most) > 1 else None,
                "times faster": run["training, s"] / seconds[0],
            }
            print(weights, restore, backend, replays[backend], flush=True)
    return {
        "weights": weights,
        "restore": restore,
        "steps": given.steps,
        "tokens": given.tokens,
        "parameters": sum(p.numel() for p in params.values()),
        "passes in one": gathered.MOST,
        **run,
        "head, bytes": log.begin,
        "bytes a step": (log.size - log.begin) / given.steps,
        "replays": replays,
        "interpreted": "triton" in replays and not torch.cuda.is_available(),
        "commit": harness.commit(),
    }


def frozen_digests() -> dict[str, Any]:
    """CPU seconds of the digests of 135 M weights in bf16 that a run leaves frozen, once."""
    model = shapes.build("135m", "bf16", "cpu", "full")
    began = time.thread_time()
    found = frozen_of(model, [])
    return {"seconds": time.thread_time() - began, "tensors": len(found),
            "parameters": sum(p.numel() for p in model.parameters())}  # fmt: skip


class _Timed:
    """The log, with the CPU time of each call kept."""

    def __init__(self, taken: Any, kept: list[float]) -> None:
        self._taken, self._kept = taken, kept

    def taken(self, *step: Any) -> None:
        began = time.thread_time()
        self._taken(*step)
        self._kept.append(time.thread_time() - began)


def at_hand(weights: str) -> list[str]:
    """Backends that are available, Triton's interpreter for one matrix alone."""
    found = [name for name, state in zk.backends().items() if state == "available"]
    slow = weights != "one matrix" and not torch.cuda.is_available()
    return [name for name in found if name != "triton" or not slow]


def main() -> None:
    """Prints the measurements; with --json records them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=WEIGHTS)
    parser.add_argument("--restore", nargs="+", choices=RESTORES, default=RESTORES)
    parser.add_argument("--backends", nargs="+", choices=list(zk.backends()))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for weights in given.weights:
        for restore in given.restore:
            run = measured(weights, restore, given)
            if given.json:
                _add(given.json, run)
    if given.json:
        frozen = frozen_digests()
        harness.record(given.json, {**_known(given.json), "frozen": frozen})


def _known(path: Path) -> dict[str, Any]:
    known = json.loads(path.read_text()) if path.exists() else {}
    return {name: known[name] for name in ("runs", "frozen") if name in known}


def _add(path: Path, run: dict[str, Any]) -> None:
    """Puts `run` in the place of one of the same weights and restore; the others stay."""
    known = _known(path)
    kept = [r for r in known.get("runs", ())
            if (r.get("weights"), r["restore"]) != (run["weights"], run["restore"])]  # fmt: skip
    order = [(w, r) for w in WEIGHTS for r in RESTORES]
    kept = [r for r in kept if (r.get("weights"), r["restore"]) in order]  # of this form
    runs = sorted([*kept, run], key=lambda r: order.index((r["weights"], r["restore"])))
    harness.record(path, {**known, "runs": runs})


if __name__ == "__main__":
    main()
