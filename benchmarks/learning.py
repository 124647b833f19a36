"""Zeroth order against first order on the same model, data, reward and rollouts.

    python benchmarks/learning.py tune      # each method's settings, on validation prompts
    python benchmarks/learning.py compare   # the methods at their best settings, on test prompts
    python benchmarks/learning.py ablate    # one thing changed at a time, on validation prompts

Methods: `rloo` is TRL's RLOOTrainer with AdamW, `spsa` and `zopro` are ZOPrOTrainer, without and
with targeted directions, `zopro_first_order` is `zopro` whose first iteration is RLOO's. Every run
is a process with one thread and a budget of seconds of training (learning_meters.py says which
seconds); rollouts have the same prompts a batch, responses a prompt, temperature and lengths for
all. Each method gets as many tuning runs as the others; the other plans take each method's best of
them. Runs that a record holds already are not made again; those of an older plan are dropped. `tune
--tuned NAME` tries three rates around what the tuning record NAME chose, for another task.
`--methods one_direction population family rloo` compares many directions at once with one.
`--model`, `--device cuda`, `--task`, `--seconds` and `--set` choose another size: the same three
commands run it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from harness import RESULTS, commit, record
from learning_large import LARGE
from learning_plans import TUNED, best, planned
from learning_run import BASE
from learning_stats import METHODS, USUAL

HERE = Path(__file__).parent


def run(settings: dict[str, Any]) -> dict[str, Any]:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        command = [sys.executable, str(HERE / "learning_run.py"), json.dumps(settings), str(out)]
        # glibc gives freed tensors back to the kernel and faults their pages in again: a third of
        # the time of a step on the CPU, for a little more memory.
        keep = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2000000000"}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **keep}
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"{settings}: {done.stderr[-2000:]}")
        return {**json.loads(out.read_text()), "commit": commit()}


def start_of(base: dict[str, Any], split: str) -> dict[str, Any]:
    """The start itself on the same held-out prompts, four samples each: a run without training."""
    return {**base, "method": "start", "split": split, "seed": 0, "label": "start"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", choices=("tune", "compare", "ablate"))
    parser.add_argument("--seeds", type=int, default=None, help="default: 5 compare, 3 ablate")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=None, help="of training, a run")
    parser.add_argument("--set", default="{}", help="JSON: other settings of learning_run.py")
    parser.add_argument("--name", default="cpu", help="of the records: results/learning_PLAN_NAME")
    parser.add_argument("--tuned", nargs="+", help="names of tuning records (default: --name)")
    parser.add_argument("--large", action="store_true", help="tune: the runs of learning_large.py")
    parser.add_argument("--stop_after", type=float, default=math.inf, help="seconds after which no "
                        "further run begins; the same command goes on")  # fmt: skip
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=USUAL)
    for name in ("task", "model", "device"):
        parser.add_argument(f"--{name}", default=BASE[name])
    args = parser.parse_args()
    asked = json.loads(args.set)
    base = {**BASE, **asked}
    base |= {name: getattr(args, name) for name in ("task", "model", "device")}
    base["seconds"] = args.seconds or {"tune": 50.0, "compare": 100.0, "ablate": 50.0}[args.plan]
    path = RESULTS / f"learning_{args.plan}_{args.name}.json"
    tuned = {}
    if args.plan != "tune" or args.tuned:
        for name in args.tuned or [args.name]:
            known = json.loads((RESULTS / f"learning_tune_{name}.json").read_text())
            tuned = best(known["runs"]) | tuned
    seeds = args.seeds or (5 if args.plan == "compare" else 3)
    old = json.loads(path.read_text()) if path.exists() else {"runs": []}
    held = [{"commit": old["commit"], **r} for r in old["runs"]]
    if args.plan != "tune" and "held_out" not in asked:
        base["held_out"] = 1200  # what is reported is judged on more prompts
    split = "test" if args.plan == "compare" else base["split"]
    wanted = [start_of(base, split), *planned(args.plan, base, tuned, seeds, args.methods,
                                                  LARGE if args.large else TUNED)]  # fmt: skip
    held = [r for r in held if {**BASE, **r["settings"]} in wanted]  # others are of an older plan
    made = [{**BASE, **r["settings"]} for r in held]
    wanted = [s for s in wanted if s not in made]
    end, left = time.monotonic() + args.stop_after, 0
    with ThreadPoolExecutor(args.workers) as pool:
        for done in as_completed([pool.submit(run_before, end, s) for s in wanted]):
            if done.exception() is not None:  # the other runs go on
                print(done.exception(), file=sys.stderr, flush=True)
                left += 1
                continue
            if done.result() is None:
                left += 1
                continue
            held.append(done.result())
            record(path, {"plan": args.plan, "workers": args.workers, "runs": held})
            told(held[-1])
    rewards: dict[str, list[float]] = {}
    for r in held:
        name = f"{r['settings']['method']} {r['settings']['label']}"
        rewards.setdefault(name, []).append(r["curve"][-1]["reward"])
    for name, values in rewards.items():
        print(f"{name:60} {statistics.mean(values):.4f}  {len(values)} seeds")
    if left:
        raise SystemExit(f"{left} runs are left: the same command goes on")


def run_before(end: float, settings: dict[str, Any]) -> dict[str, Any] | None:
    """`run`, or None where its time to begin, on the monotonic clock, is over."""
    return run(settings) if time.monotonic() < end else None


def told(r: dict[str, Any]) -> None:
    """A line on the run just made."""
    end, s = r["curve"][-1], r["settings"]
    reward = f"{end['reward']:.4f} +- {end['se']:.4f}"
    print(f"{s['method']:6} {s['label']:50} seed {s['seed']} {reward} "
          f"KL {end['kl']:.2f} {end['seconds']:.0f} s {r['steps']} steps", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
