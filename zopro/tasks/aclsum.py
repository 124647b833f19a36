"""ACLSum: 250 papers of computational linguistics, each with three expert summaries.

PyPI package `aclsum` 0.1.2, MIT licence; its own splits. One row a paper and aspect (challenge,
approach, outcome); the source names the aspect, then holds abstract, introduction and conclusion.
"""

from __future__ import annotations

import json
from pathlib import Path

from . import packages
from .splits import SPLITS, Row, cached, write_splits

PACKAGE = packages.Package(
    "aclsum", "0.1.2", "c75ffc48d3eabc5f37c68ea087943780a85950087957759e89746f21111f2213"
)
_FILES = {"train": "train", "validation": "val", "test": "test"}


def papers(text: str) -> list[Row]:
    """Rows `source`, `reference`, `key` of one split's JSON Lines."""
    found = []
    for paper in map(json.loads, text.splitlines()):
        body = " ".join(s.strip() for part in paper["sentences"].values() for s in part)
        for aspect, summary in paper["summary"].items():
            if summary and summary.strip():
                source = f"Aspect: {aspect}\n{body}"
                found.append({"source": source, "reference": summary.strip(), "key": paper["id"]})
    return found


def build(cache: Path) -> dict[str, int]:
    """Builds the cache; rows by split. RuntimeError when the package cannot be fetched."""
    wheel = packages.fetch(PACKAGE, cache)
    texts = {s: packages.read(wheel, f"aclsum/dataset/{_FILES[s]}.jsonl") for s in SPLITS}
    return write_splits(cache / "aclsum-1", {split: papers(t) for split, t in texts.items()})


def rows(split: str, cache: Path) -> list[Row]:
    """The rows of one split, built on first use."""
    return cached(cache / "aclsum-1", split, lambda: build(cache))
