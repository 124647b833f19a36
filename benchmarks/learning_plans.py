"""The runs of the learning benchmark's plans: what is tuned, compared and ablated (learning.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from learning_run import BASE
from learning_stats import KINDS, method_of, reward_at, start_reward

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
          "iterations", "schedule", "estimator", "population", "family")  # fmt: skip
# Of the population's comparison: the same number of runs, over what one direction, many, and the
# span of earlier updates can set.
ONE = {"directions": 1, "estimator": "two_sided", "eps": 0.1}
MANY = {"estimator": "two_sided", "eps": 0.1}
SPAN = {**MANY, "population": 16, "lr": 1.0, "aim_lr": 4.0}
TUNED |= {
    "one_direction": [
        {**ONE, "lr": 0.2},
        {**ONE, "lr": 0.4},
        {**ONE, "lr": 0.8},
        {**ONE, "lr": 1.6},
        {**ONE, "lr": 0.8, "eps": 0.02},
        {**ONE, "lr": 0.4, "batch": 32},
        {**ONE, "lr": 0.2, "batch": 32, "sweeps": 4},
        {**ONE, "lr": 0.8, "batch": 128},
        {**ONE, "lr": 0.4, "sweeps": 1},
        {**ONE, "lr": 0.4, "sweeps": 4},
        {**ONE, "lr": 0.05, "train": "norms"},
        {**ONE, "lr": 0.001, "train": "lora", "eps": 0.005},
    ],
    "population": [
        {**MANY, "population": 16, "lr": 0.5},
        {**MANY, "population": 16, "lr": 1.0},
        {**MANY, "population": 16, "lr": 2.0},
        {**MANY, "population": 64, "lr": 1.0},
        {**MANY, "population": 64, "lr": 2.0},
        {**MANY, "population": 64, "lr": 4.0},
        {**MANY, "population": 32, "lr": 2.0, "estimator": "one_sided"},
        {**MANY, "population": 32, "lr": 1.0, "estimator": "one_sided"},
        {**MANY, "population": 32, "lr": 2.0, "batch": 128},
        {**MANY, "population": 16, "lr": 1.0, "sweeps": 4},
        {**MANY, "population": 16, "lr": 0.1, "train": "norms"},
        {**MANY, "population": 16, "lr": 0.003, "train": "lora", "eps": 0.005},
    ],
    "family": [  # the first iteration is a population's, later ones are in the span of updates
        {**SPAN, "family": 1, "iterations": 2},
        {**SPAN, "family": 1, "iterations": 3},
        {**SPAN, "family": 2, "iterations": 3},
        {**SPAN, "family": 4, "iterations": 5},
        {**SPAN, "family": 4, "iterations": 5, "aim_lr": 16.0},
        {**SPAN, "family": 2, "iterations": 3, "aim_lr": 16.0},
        {**SPAN, "family": 2, "iterations": 3, "aim_lr": 1.0},
        {**SPAN, "family": 1, "iterations": 2, "aim_lr": 16.0},
        {**SPAN, "family": 8, "iterations": 9},
        {**SPAN, "family": 8, "iterations": 9, "aim_lr": 16.0},
        {**SPAN, "family": 2, "iterations": 3, "first": "rloo", "first_lr": 0.1},
        {**SPAN, "family": 2, "iterations": 3, "population": 64, "lr": 2.0},
    ],
}
RATES = ("lr", "aim_lr", "first_lr")
RELATIVE = ("lr", "eps")  # of ABLATED: factors on the tuned value


def planned(
    plan: str, base: dict[str, Any], tuned: dict[str, Any], seeds: int, methods: Sequence[str],
    tries: dict[str, list[dict[str, Any]]] = TUNED,
) -> list[dict]:  # fmt: skip
    """The settings of all runs of a plan; `label` names what is compared. tries: of tuning."""
    runs = []
    if plan == "tune":
        tried = {m: around(tuned[m]) for m in methods} if tuned else tries
        for changes in zip(*(tried[m] for m in methods), strict=True):
            for method, change in zip(methods, changes):
                kind = {"method": KINDS.get(method, method)}
                runs.append({**base, **kind, **change, "seed": 100, "label": str(change)})
    elif plan == "compare":
        for seed in range(seeds):
            for method in methods:
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

    for method in dict.fromkeys(method_of(r) for r in runs if r["settings"]["method"] != "start"):
        tried = [r for r in runs if method_of(r) == method]
        top = {**BASE, **max(tried, key=reward)["settings"]}
        found[method] = {k: top[k] for k in ("method", *CHOSEN)}
    return found
