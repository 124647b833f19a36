"""The records of the learning benchmark: runs by method, rewards at a budget, intervals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

METHODS = {
    "zopro": "ZOPrO (targeted)",
    "spsa": "SPSA (plain)",
    "rloo": "RLOO, AdamW",
    "zopro_first_order": "ZOPrO, begun by RLOO",
    "one_direction": "One direction",
    "population": "Population",
    "family": "Targeted family",
}
# What learning_run.py calls them, where it is not the same: settings tell them apart.
KINDS = {
    "zopro_first_order": "zopro", "one_direction": "spsa", "population": "spsa", "family": "zopro",
}  # fmt: skip
USUAL = ("zopro", "spsa", "rloo", "zopro_first_order")  # of a comparison


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of the 95 % interval over seeds (Student's t)."""
    from scipy.stats import t

    n = len(values)
    spread = statistics.stdev(values) / n**0.5 if n > 1 else float("nan")
    return statistics.mean(values), float(t.ppf(0.975, n - 1)) * spread


def signed(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]"


def reward_at(run: dict[str, Any], start: float, axis: str, x: float) -> float:
    """The run's held-out reward where `axis` is `x`: linear between points, its end beyond."""
    before = {axis: 0.0, "reward": start}
    for point in run["curve"]:
        if point[axis] >= x:
            share = (x - before[axis]) / (point[axis] - before[axis])
            return before["reward"] + share * (point["reward"] - before["reward"])
        before = point
    return before["reward"]


def start_reward(result: dict[str, Any]) -> float:
    run = next(r for r in result["runs"] if r["settings"]["method"] == "start")
    return run["curve"][-1]["reward"]


def method_of(run: dict[str, Any]) -> str:
    """The run's name among METHODS."""
    s = run["settings"]
    if s.get("family"):
        return "family"
    if s["method"] == "spsa" and s.get("population"):
        return "population"
    if s["method"] == "spsa" and s.get("directions") == 1:
        return "one_direction"
    return s["method"] + ("_first_order" if s.get("first") else "")


def by_label(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The runs of each label in the order of their seeds; those of the start left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    runs = [r for r in result["runs"] if r["settings"]["method"] != "start"]
    for run in sorted(runs, key=lambda r: r["settings"]["seed"]):
        found.setdefault(run["settings"]["label"], []).append(run)
    order = [m for m in METHODS if m in found] or list(found)  # a comparison's labels are methods
    return {label: found[label] for label in order}
