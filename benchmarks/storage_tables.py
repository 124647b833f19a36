"""Table of target_storage.json: targets stored in fewer bits."""

from __future__ import annotations

import statistics
from typing import Any

from document import load, markdown, source

COMMAND = "python benchmarks/target_storage.py"
NAMES = {"signs": "signs with block scales (reference alone)"}
PARTS = {"last_norm": "last norm", "all": "all weights"}


def target_storage() -> str:
    """A row a form; the cosines are the least over both updates."""
    result = load("target_storage.json", COMMAND)

    def cosine(storage: str, part: str, d: float) -> str:
        found = [c["cosine"] for c in result["cosines"]
                 if (c["storage"], c["trained"], c["d"]) == (storage, part, d)]  # fmt: skip
        return f"{min(found):.6f}"

    def timed(storage: str, dtype: str) -> dict[str, Any] | None:
        return next((t for t in result["times"] if (t["storage"], t["dtype"]) == (storage, dtype)),
                    None)  # fmt: skip

    rows = []
    for storage in dict.fromkeys(c["storage"] for c in result["cosines"]):
        row = [NAMES.get(storage, storage)]
        row += [cosine(storage, part, d) for part in PARTS for d in (0.999, 0.5)]
        for dtype in ("float32", "bfloat16"):
            one, whole = timed(storage, dtype), timed("fp32", dtype)
            row += [f"{one['bytes']:.4g}", f"{one['seconds'] / whole['seconds']:.2f}"] if one else [
                "", ""]  # fmt: skip
        gains = [x["reward"] - x["start"] for x in result["learning"] if x["storage"] == storage]
        row.append(f"{statistics.mean(gains):+.4f}" if gains else "")
        rows.append(row)
    head = ["storage", *(f"cosine, {name}, d = {d:g}" for name in PARTS.values()
                         for d in (0.999, 0.5)),
            "bytes, fp32 weights", "CPU time", "bytes, bf16 weights", "CPU time",
            "reward gained"]  # fmt: skip
    error = statistics.mean([x["error"] for x in result["learning"]] or [0.0])
    note = (
        "Cosine of z with that of fp32 targets under the same noise, the least over updates of "
        "SPSA and of RLOO, each the other's v. Bytes an element of a targeted pass with signs; its "
        "CPU time in one thread over that with fp32 targets. Reward gained over the start on "
        f"{result['held_out']} held-out prompts by {result['steps']} plain and as many targeted "
        f"steps, mean over {len({x['seed'] for x in result['learning']})} seeds (standard error of "
        f"one evaluation {error:.4f})."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'target_storage.json')}"


BLOCKS = {"target_storage": target_storage}
