"""Degenerate completions: what a policy might fall into, and what a reward must not prefer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from .splits import Row, bucket

KINDS = ("reference", "copy", "lead", "other", "doubled", "shuffled", "empty")


def other(rows: Sequence[Row], i: int, use: str) -> str:
    """The reference of a row of another key, by hash of row i's key and `use`; "" without any."""
    key = rows[i]["key"]
    start = bucket(f"{key}/{i}/{use}", len(rows))
    for step in range(len(rows)):
        row = rows[(start + step) % len(rows)]
        if row["key"] != key:
            return row["reference"]
    return ""


def distractors(rows: Sequence[Row], count: int) -> list[list[str]]:
    """`count` references of other keys for each row, by hash."""
    return [[other(rows, i, str(k)) for k in range(count)] for i in range(len(rows))]


def candidate(kind: str, rows: Sequence[Row], i: int, last: Callable[[str], str]) -> str:
    """One completion of row i.

    kind: "reference"; "copy", the input (of a dialogue its last turn); "lead", the input's
    opening, as many words as the reference has; "other", another row's reference; "doubled", the
    reference twice; "shuffled", its words in another order; "empty". last: what of a source a
    copy hands back. Raises ValueError for another kind.
    """
    source, reference = last(rows[i]["source"]), rows[i]["reference"]
    said = reference.split()
    if kind == "reference":
        return reference
    if kind == "copy":
        return source.strip()
    if kind == "lead":
        return " ".join(source.split()[: len(said)])
    if kind == "other":
        return other(rows, i, kind)
    if kind == "doubled":
        return f"{reference} {reference}"
    if kind == "shuffled":
        random.Random(rows[i]["key"]).shuffle(said)
        return " ".join(said)
    if kind == "empty":
        return ""
    raise ValueError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}.")


def candidates(rows: Sequence[Row], last: Callable[[str], str]) -> Iterator[tuple[Row, str, str]]:
    """(row, kind, text): one candidate a row, the kinds in turn by hash, so all occur alike."""
    for i, row in enumerate(rows):
        kind = KINDS[bucket(f"{row['key']}/{i}/kind", len(KINDS))]
        yield row, kind, candidate(kind, rows, i, last)
