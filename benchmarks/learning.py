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
`--model`, `--device cuda`, `--task`, `--seconds` and `--set` choose another size: the same three
commands run it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from harness import RESULTS, commit, record
from learning_run import BASE
from learning_stats import METHODS, method_of, reward_at, start_reward

HERE = Path(__file__).parent
FIRST = {"first": "rloo"}
AROUND = (1 / 3, 1.0, 3.0)  # factors on another task's learning rates

# Twelve runs a method, chosen one after another. The last norm's 192 numbers were found by
# demo_search.py.
TUNED: dict[str, list[dict[str, Any]]] = {
    "rloo": [
        {"train": "all", "lr": 3e-5},
        {"train": "all", "lr": 1e-4},
        {"train": "all", "lr": 3e-4},
        {"train": "all", "lr": 1e-3},
        {"train": "all", "lr": 3e-4, "sweeps": 1},
        {"train": "lora", "lr": 1e-3},
        {"train": "lora", "lr": 3e-3},
        {"train": "last_norm", "lr": 3e-2},
        {"train": "last_norm", "lr": 0.1},
        {"train": "last_norm", "lr": 0.2},
        {"train": "last_norm", "lr": 0.1, "sweeps": 4},
        {"train": "norms", "lr": 1e-2},
    ],
    "spsa": [
        {"lr": 0.5},
        {"lr": 1.0},
        {"lr": 2.0},
        {"lr": 0.5, "batch": 16},
        {"lr": 1.0, "sweeps": 1},
        {"lr": 2.0, "directions": 8},
        {"train": "norms", "lr": 0.1},
        {"train": "lora", "lr": 1e-3, "eps": 0.005},
        {"lr": 1.0, "eps": 0.1},
        {"lr": 1.4, "eps": 0.1},
        {"lr": 1.0, "eps": 0.1, "directions": 8},
        {"lr": 1.4, "eps": 0.1, "sweeps": 1},
    ],
    "zopro": [
        {"lr": 0.5},
        {"lr": 1.0},
        {"lr": 2.0},
        {"lr": 1.0, "aim_lr": 0.3},
        {"lr": 1.0, "aim_lr": 0.1},
        {"lr": 1.0, "aim_lr": 0.03},
        {"lr": 1.0, "aim_lr": 0.1, "iterations": 6},
        {"lr": 0.5, "aim_lr": 0.05, "batch": 16},
        {"lr": 0.5, "eps": 0.1},
        {"lr": 0.5, "eps": 0.1, "directions": 8},
        {"lr": 0.7, "eps": 0.1},
        {"lr": 0.5, "eps": 0.1, "iterations": 2},
    ],
    "zopro_first_order": [
        {**FIRST, "first_lr": 0.03, "lr": 0.5},
        {**FIRST, "first_lr": 0.03, "lr": 0.5, "eps": 0.1},
        {**FIRST, "first_lr": 0.03, "lr": 0.5, "aim_lr": 0.1},
        {**FIRST, "first_lr": 0.03, "lr": 0.5, "aim_lr": 0.25},
        {**FIRST, "first_lr": 0.1, "lr": 0.5},
        {**FIRST, "first_lr": 0.1, "lr": 0.5, "aim_lr": 0.1},
        {**FIRST, "first_lr": 0.1, "lr": 0.5, "aim_lr": 0.02},
        {**FIRST, "first_lr": 0.1, "lr": 0.5, "aim_lr": 0.1, "eps": 0.1},
        {**FIRST, "first_lr": 0.1, "lr": 0.5, "aim_lr": 0.1, "iterations": 2},
        {**FIRST, "first_lr": 0.1, "lr": 0.5, "aim_lr": 0.1, "iterations": 5},
        {**FIRST, "first_lr": 0.1, "lr": 0.5, "aim_lr": 0.1, "directions": 8},
        {**FIRST, "first_lr": 0.2, "lr": 0.5, "aim_lr": 0.1},
    ],
}
ABLATED: dict[str, dict[str, Any]] = {
    "as tuned": {},
    "d = 0 throughout": {"schedule": "zero"},
    "d constant 0.999": {"schedule": "constant"},
    "d exponential": {"schedule": "exponential"},
    "eps / 5": {"eps": 0.2},
    "eps x 5": {"eps": 5.0},
    "1 direction, two-sided": {"directions": 1, "estimator": "two_sided"},
    "16 directions": {"directions": 16},
    "2 responses a prompt": {"responses": 2, "prompts": 128},
    "32 responses a prompt": {"responses": 32, "prompts": 8},
    "Gaussian noise": {"distribution": "gaussian"},
    "all norms trained": {"train": "norms", "lr": 0.1},
    "LoRA r 16 trained": {"train": "lora", "lr": 0.001, "eps": 0.25},
    "first iteration first-order": {"first": "rloo"},
    "the same, aimed lr 0.05": {"first": "rloo", "aim_lr": 0.05},
    "RLOO alone": {"method": "rloo"},
    "RLOO alone, lr x 3": {"method": "rloo", "lr": 3.0},
}
CHOSEN = ("train", "lr", "aim_lr", "first", "first_lr", "eps", "directions", "batch", "sweeps",
          "iterations", "schedule")  # fmt: skip
RATES = ("lr", "aim_lr", "first_lr")
RELATIVE = ("lr", "eps")  # of ABLATED: factors on the tuned value


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


def planned(plan: str, base: dict[str, Any], tuned: dict[str, Any], seeds: int) -> list[dict]:
    """The settings of all runs of a plan; `label` names what is compared."""
    runs = []
    if plan == "tune":
        tried = {m: around(tuned[m]) for m in METHODS} if tuned else TUNED
        for changes in zip(*(tried[m] for m in METHODS), strict=True):
            for method, change in zip(METHODS, changes):
                kind = {"method": method.removesuffix("_first_order")}
                runs.append({**base, **kind, **change, "seed": 100, "label": str(change)})
    elif plan == "compare":
        for seed in range(seeds):
            for method in METHODS:
                runs.append({**base, **tuned[method], "seed": seed, "label": method,
                             "split": "test", "points": 2})  # fmt: skip
    else:
        for seed in range(seeds):
            for label, change in ABLATED.items():
                own = tuned[change.get("method", "zopro")]
                s = {**base, **own, **change, "seed": seed, "label": label}
                for name in RELATIVE:
                    if name in change:
                        s[name] = own.get(name, base[name]) * change[name]
                runs.append(s)
    return runs


def around(tuned: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings with all their learning rates multiplied by each of AROUND."""
    return [{**tuned, **{k: tuned[k] * f for k in RATES if tuned[k] is not None}} for f in AROUND]


def best(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings of each method's run with the highest reward when the seconds are used up."""
    found, start = {}, start_reward({"runs": runs})

    def reward(r: dict[str, Any]) -> float:
        return reward_at(r, start, "seconds", r["settings"]["seconds"])

    for method in METHODS:
        tried = [r for r in runs if method_of(r) == method]
        top = {**BASE, **max(tried, key=reward)["settings"]}
        found[method] = {k: top[k] for k in ("method", *CHOSEN)}
    return found


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
    parser.add_argument("--tuned", default=None, help="of the tuning record (default: --name)")
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
        name = f"learning_tune_{args.tuned or args.name}.json"
        tuned = best(json.loads((RESULTS / name).read_text())["runs"])
    seeds = args.seeds or (5 if args.plan == "compare" else 3)
    old = json.loads(path.read_text()) if path.exists() else {"runs": []}
    held = [{"commit": old["commit"], **r} for r in old["runs"]]
    if args.plan != "tune" and "held_out" not in asked:
        base["held_out"] = 1200  # what is reported is judged on more prompts
    split = "test" if args.plan == "compare" else base["split"]
    wanted = [start_of(base, split), *planned(args.plan, base, tuned, seeds)]
    held = [r for r in held if {**BASE, **r["settings"]} in wanted]  # others are of an older plan
    made = [{**BASE, **r["settings"]} for r in held]
    wanted = [s for s in wanted if s not in made]
    with ThreadPoolExecutor(args.workers) as pool:
        for done in as_completed([pool.submit(run, s) for s in wanted]):
            if done.exception() is not None:  # the other runs go on
                print(done.exception(), file=sys.stderr, flush=True)
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


def told(r: dict[str, Any]) -> None:
    """A line on the run just made."""
    end, s = r["curve"][-1], r["settings"]
    reward = f"{end['reward']:.4f} +- {end['se']:.4f}"
    print(f"{s['method']:6} {s['label']:50} seed {s['seed']} {reward} "
          f"KL {end['kl']:.2f} {end['seconds']:.0f} s {r['steps']} steps", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
