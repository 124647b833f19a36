"""Samples over time, for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .curves import number
from .figures import shown
from .runs import Run

MOMENTS, PAIRS = 8, 4  # moments of a run; pairs of a phase


def samples(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each run its moments, evenly spaced; the first and the last are open."""
    out = []
    for run in runs:
        moments = _moments(run) or _pairs(run)
        for k, moment in enumerate(moments):
            moment["open"] = len(runs) == 1 and k in (0, len(moments) - 1)
        missing = "" if moments else (
            "No samples: the run has no samples.jsonl, which `zopro train` writes at its logs."
        )  # fmt: skip
        out.append({"name": run.name, "moments": moments, "missing": missing})
    return out


def spread(items: list[Any], count: int) -> list[Any]:
    """`count` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= count:
        return items
    return [items[round(k * (len(items) - 1) / (count - 1))] for k in range(count)]


def _moments(run: Run) -> list[dict[str, Any]]:
    found: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for row in run.samples:
        if isinstance(row.get("completion"), str) and isinstance(row.get("prompt"), str):
            found.setdefault((str(row.get("phase", "")), row.get("step")), []).append(row)
    return [
        {
            "title": f"{phase}, step {step}",
            "samples": [
                {"prompt": row["prompt"],
                 "texts": [(f"Response, {_scored(row.get('rewards'))}", row["completion"])]}
                for row in rows
            ],
        }
        for (phase, step), rows in spread(list(found.items()), MOMENTS)
    ]  # fmt: skip


def _scored(rewards: Any) -> str:
    held = rewards if isinstance(rewards, dict) else {}
    told = [(name, number(value)) for name, value in held.items()]
    return ", ".join(f"{n} {shown(v)}" for n, v in told if v is not None) or "not scored"


def _pairs(run: Run) -> list[dict[str, Any]]:
    """Of a run without samples.jsonl: pairs that its judge compared."""
    out = []
    for phase, rows in run.pairs.items():
        good = [r for r in rows if all(k in r for k in ("prompt", "chosen", "rejected"))]
        if good:
            out.append({
                "title": f"{phase}: pairs that the judge compared",
                "samples": [
                    {"prompt": str(r["prompt"]),
                     "texts": [("Preferred", str(r["chosen"])), ("Rejected", str(r["rejected"]))]}
                    for r in good[:PAIRS]
                ],
            })  # fmt: skip
    return out
