"""A run of the small model rebuilt from its step log: same digest, and how much faster.

The log is replayed with one pass at a time over the weights and with many in one, in turn.

python benchmarks/replay.py --json benchmarks/results/replay.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import torch
from transformers import AutoModelForCausalLM

from zopro import StepLog, ZOPrO, replay
from zopro.digests import digest
from zopro.steplog import gathered, read_log

START = Path(__file__).parents[1] / "examples/translation/start"


ROUNDS = 3  # of replays; medians count


def replayed(path: Path, base: dict[str, torch.Tensor], most: int) -> tuple[float, str]:
    """CPU seconds of a replay with at most `most` passes in one, and its digest."""
    weights = {name: w.clone() for name, w in base.items()}
    usual, gathered.MOST = gathered.MOST, most
    try:
        began = time.thread_time()
        found = replay(read_log(path), weights)
        return time.thread_time() - began, found
    finally:
        gathered.MOST = usual


def measured(restore: str, steps: int, tokens: int) -> dict[str, Any]:
    """Trains all weights for `steps` steps on `tokens` tokens and replays; CPU seconds of the one
    thread, so that other processes do not count."""
    model = AutoModelForCausalLM.from_pretrained(START, dtype=torch.float32).eval()
    params = dict(model.named_parameters())
    base = {name: p.detach().clone() for name, p in params.items()}
    ids = torch.randint(4, model.config.vocab_size, (4, tokens // 4),
                        generator=torch.Generator().manual_seed(0))  # fmt: skip
    opt = ZOPrO(model.named_parameters(), lr=1e-5, eps=1e-3, restore=restore)
    taken = []

    def loss() -> torch.Tensor:
        return model(input_ids=ids, labels=ids).loss

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "steps.zolog"
        with StepLog(path, opt) as log:
            opt._step_log = _Timed(log.taken, taken)
            began = time.thread_time()
            for _ in range(steps):
                opt.step(loss)
            trained = time.thread_time() - began
            opt._step_log = log
        size = path.stat().st_size
        most = (1, gathered.MOST)
        rounds = [[replayed(path, base, m) for m in most] for _ in range(ROUNDS)]
    single, many = (statistics.median(r[i][0] for r in rounds) for i in range(2))
    end = digest(params.values())
    return {
        "restore": restore,
        "steps": steps,
        "tokens": tokens,
        "parameters": sum(p.numel() for p in params.values()),
        "same digest": all(found == end for r in rounds for _, found in r),
        "training, s": trained,
        "passes in one": gathered.MOST,
        "replay one by one, s": single,
        "replay, s": many,
        "times faster": trained / many,
        "log, share of the step": sum(taken) / trained,
        "log, bytes": size,
        "bytes a step": size / steps,
    }


class _Timed:
    """The log, with the CPU time of each call kept."""

    def __init__(self, taken: Any, kept: list[float]) -> None:
        self._taken, self._kept = taken, kept

    def taken(self, *step: Any) -> None:
        began = time.thread_time()
        self._taken(*step)
        self._kept.append(time.thread_time() - began)


def main() -> None:
    """Prints the measurements; with --json records them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = [measured(restore, given.steps, given.tokens) for restore in ("exact", "inplace")]
    for run in runs:
        print(run)
    if given.json:
        harness.record(given.json, {"runs": runs})


if __name__ == "__main__":
    main()
