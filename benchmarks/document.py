"""What tables of the documents are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


class NotMeasured(Exception):
    """A table's record is absent; the message is what the document says instead."""


def load(name: str, command: str = "") -> dict[str, Any]:
    """The record `name` of benchmarks/results; raises NotMeasured, which names `command`."""
    path = RESULTS / name
    if not path.exists():
        how = f"run `{command}`" if command else f"benchmarks/results/{name} is missing"
        raise NotMeasured(f"not measured yet: {how}")
    return json.loads(path.read_text())


def markdown(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def source(result: dict[str, Any], name: str) -> str:
    versions = result["versions"]
    driver = f"; driver {result['driver']}" if result.get("driver") else ""
    return (
        f"{result['device']}{driver}; torch {versions['torch']}; commit {result['commit']}; "
        f"`{result['command']}`; [results/{name}](benchmarks/results/{name})"
    )
