"""The whole method with SmolLM2-135M-Instruct on a CPU: it loads, trains a few steps, goes on.

    python benchmarks/smollm2_loop.py [--folder runs/smollm2-loop] [--model runs/smollm2]

`zopro train` on one thread: the reward model, two iterations with LoRA on all linear layers
(policy, pairs, judge, refinement; the second one aimed), a few steps a phase on short texts. The
model is made (smollm2.py) where --model names none. What is recorded: a phase's steps, losses,
reward, KL, tokens and seconds, how far policy and reward model moved, and peak memory. It shows
that the loop runs at this size, not that so few steps learn anything. Stopped, it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import RESULTS, record

OPTIONS = [
    "--task", "translation", "--limit", "16", "--max_prompt_length", "64",
    "--max_completion_length", "12", "--max_steps", "2", "--per_device_train_batch_size", "4",
    "--logging_steps", "1", "--save_steps", "1", "--boundary", "0.5", "--use_cpu",
]  # fmt: skip
KEPT = ("loss", "reward", "kl", "grad_norm", "num_tokens", "policy_update_norm",
        "reward_update_norm", "pairs", "unusable_verdicts", "mean_score")  # fmt: skip


def loop(model: Path, folder: Path, more: list[str]) -> dict[str, Any]:
    """Trains to the end, or goes on; what the run's logs say."""
    command = [sys.executable, "-m", "zopro.cli", "train", "--model", str(model),
               "--output_dir", str(folder), *OPTIONS, *more]  # fmt: skip
    began = time.monotonic()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall_seconds": time.monotonic() - began, "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024, "phases": phases(folder),
    }  # fmt: skip


def phases(folder: Path) -> dict[str, dict[str, Any]]:
    """By phase, the steps and what its logs say last; seconds since the end of the one before."""
    logs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, dict[str, Any]] = {}
    before = None
    for log in logs:
        phase = found.setdefault(log["phase"], {"steps": 0})
        phase["steps"] = max(phase["steps"], log["step"])
        phase |= {name: log[name] for name in KEPT if log.get(name) is not None}
        if log.get("event") == "done":
            if before is not None:
                phase["seconds"] = round(log["seconds"] - before, 1)
            before = log["seconds"]
        found[log["phase"]] = phase
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("runs/smollm2"))
    parser.add_argument("--folder", type=Path, default=Path("runs/smollm2-loop"))
    parser.add_argument("--json", type=Path, default=RESULTS / "smollm2_cpu.json")
    given, more = parser.parse_known_args()
    if not (given.model / "config.json").is_file():
        from smollm2 import make

        make(given.model)
    made = loop(given.model, given.folder, more)
    record(given.json, {"options": [*OPTIONS, *more], **made})
    for name, phase in made["phases"].items():
        print(f"{name:12} {phase}")


if __name__ == "__main__":
    main()
