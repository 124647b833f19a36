"""Descriptions of Debian packages and their one-line synopses, for summarisation.

Built on the spot from the package index as the sentence pairs are (debian.py, which also says
whose the texts are and why they are not shipped).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import debian
from .splits import SPLITS, Row, cached, write_splits

_VERSION = 1  # raise it when a filter or the split changes: caches are then built anew
_DUMMY = re.compile(r"transitional|dummy|metapackage|meta-package|virtual package", re.IGNORECASE)


def is_summary(description: str, synopsis: str) -> bool:
    """Whether a description (30 to 150 words) and a synopsis (4 to 15) are prose to summarise."""
    long, short = len(description.split()), len(synopsis.split())
    letters = sum(c.isalpha() or c.isspace() for c in description)
    return (
        30 <= long <= 150
        and 4 <= short <= 15
        and letters >= 0.85 * len(description)
        and not _DUMMY.search(synopsis)
        and synopsis.casefold() not in description.casefold()
    )


def summaries(index: dict[str, tuple[str, list[str]]]) -> Iterator[Row]:
    """Rows `source`, `reference`, `key` (the package) of what debian.parse_translations returns.

    A description and a synopsis each occur once: the first package in alphabetical order has them.
    """
    seen = set()
    for package, texts in sorted(index.values()):
        synopsis, description = texts[0], "\n".join(texts[1:])
        marks = {synopsis.casefold(), description.casefold()}
        if is_summary(description, synopsis) and not marks & seen:
            seen |= marks
            yield {"source": description, "reference": synopsis, "key": package}


def _folder(cache: Path) -> Path:
    return cache / f"debian-summaries-{_VERSION}"


def build(cache: Path) -> dict[str, int]:
    """Builds the cache; rows by split. RuntimeError when the index cannot be had."""
    cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Row]] = {split: [] for split in SPLITS}
    with tempfile.TemporaryDirectory(dir=cache, prefix=".index-") as scratch:
        english, _ = debian.fetch_index(scratch)
        index = {k: v for file in english for k, v in debian.parse_translations(file, "en").items()}
    for row in summaries(index):
        found[debian.split_of(row["key"])].append(row)
    return write_splits(_folder(cache), found)


def rows(split: str, cache: Path) -> list[Row]:
    """The rows of one split, built on first use."""
    return cached(_folder(cache), split, lambda: build(cache))
