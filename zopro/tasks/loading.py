"""From a source's name to rows, and from rows to the datasets that trainers take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import prompts, splits
from .candidates import candidates
from .splits import Row, bucket

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from .protocol import Origin, Task

NEEDED = {
    "rows": ("source", "reference"),
    "pairs": ("source", "chosen", "rejected"),
    "scored": ("source", "completion", "score"),
}


def origin_of(task: Task, source: str | os.PathLike | None) -> tuple[str, Origin] | None:
    """(name, origin) that a source names; None where it is a path. ValueError where neither."""
    offline = [name for name in task.origins if name != "hub"]
    name = offline[0] if source in (None, "offline") and offline else str(source)
    if name in task.origins:
        return name, task.origins[name]
    if source is not None and splits.is_path(source):
        return None
    raise ValueError(
        f"source is {source!r}; for task {task.name!r} choose one of offline, "
        f"{', '.join(task.origins)}, or the path of a .jsonl or .parquet file."
    )


def read(
    task: Task,
    want: str,
    split: str,
    source: str | os.PathLike | None,
    cache_dir: str | os.PathLike | None,
    limit: int | None,
) -> list[Row] | None:
    """The rows of kind `want` (a key of NEEDED); None where the source holds other kinds only."""
    splits.check_split(split)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; give at least 1, or None for all rows.")
    found = origin_of(task, source)
    if found is None:
        holds = want == "rows" or splits.has_columns(source, split, NEEDED[want])
        rows: Iterable[Row] = splits.local_rows(source, split, NEEDED[want]) if holds else []
        name = str(source)
    else:
        name, origin = found
        reader: Callable[[str, Path], Iterable[Row]] | None = getattr(origin, want)
        holds = reader is not None
        rows = reader(split, splits.cache_root(cache_dir)) if reader else []
    if not holds:
        return None
    taken = spread([task.tidy(row) for row in rows], limit)
    if not taken:
        raise ValueError(f"source {name!r} has no rows for split {split!r} of {task.name!r}.")
    return taken


def feedback(task: Task, split: str, source: str | os.PathLike | None) -> str:
    """Task.feedback."""
    found = origin_of(task, source)
    if found is not None:
        return "scores" if found[1].scored and not found[1].pairs else "pairs"
    pairs, scored = (
        splits.has_columns(source, split, NEEDED[want]) for want in ("pairs", "scored")
    )
    return "scores" if scored and not pairs else "pairs"


def spread(rows: list[Row], limit: int | None) -> list[Row]:
    """`limit` of the rows, chosen by hash and in their order: origins are sorted, some by name."""
    if limit is None or limit >= len(rows):
        return rows
    keyed = sorted(range(len(rows)), key=lambda i: bucket(f"{rows[i]['key']}/{i}/limit", 2**32))
    return [rows[i] for i in sorted(keyed[:limit])]


def made_pairs(task: Task, rows: list[Row]) -> list[Row]:
    """Pairs out of references: each against one degenerate candidate, the kinds in turn."""
    return [
        {**row, "chosen": row["reference"], "rejected": text, "kind": kind}
        for row, kind, text in candidates(rows, task.last)
        if kind != "reference" and text.strip() != row["reference"].strip()
    ]


def made_scores(task: Task, rows: list[Row]) -> list[Row]:
    """Scored completions out of references and degenerate candidates, by the default reward."""
    picked = list(candidates(rows, task.last))
    texts = [text for _, _, text in picked]
    scores = task.scores(texts, columns([row for row, _, _ in picked]), measures=("reward",))
    return [
        {"source": row["source"], "completion": text, "score": score, "kind": kind}
        for (row, kind, text), score in zip(picked, scores["reward"], strict=True)
    ]


def columns(rows: Iterable[Row]) -> dict[str, list[Any]]:
    """Rows as columns: those that all rows have."""
    rows = list(rows)
    shared = set.intersection(*(set(row) for row in rows))
    return {name: [row[name] for row in rows] for name in rows[0] if name in shared}


def dataset(values: Mapping[str, list[Any]]) -> Dataset:
    """A datasets.Dataset of these columns."""
    from datasets import Dataset

    return Dataset.from_dict(dict(values))


def fit(task: Task, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Dataset:
    """Task.fit: the sources of prompts longer than `max_tokens` tokens are cut."""
    made, sources = list(rows["prompt"]), list(rows["source"])
    for i, prompt in enumerate(made):
        chat = not isinstance(prompt, str)
        excess = prompts.count_tokens(prompt, tokenizer) - max_tokens
        if excess <= 0:
            continue
        budget = len(tokenizer(sources[i], add_special_tokens=False)["input_ids"])
        while excess > 0:
            budget -= excess
            if budget < 1:
                raise ValueError(
                    f"max_tokens is {max_tokens}, and task {task.name!r}'s instruction alone takes "
                    f"up that many tokens; give more."
                )
            cut = task.cut(sources[i], tokenizer, budget)
            prompt = task.prompt(cut, chat)
            excess = prompts.count_tokens(prompt, tokenizer) - max_tokens
        made[i], sources[i] = prompt, cut
    rest = {name: list(rows[name]) for name in rows.column_names}
    return dataset({**rest, "prompt": made, "source": sources})
