"""Rows on disk: the cache folder, splits by hash, JSON Lines and parquet files.

A row is a dict with at least `source` (what the prompt is about), `reference` (a good completion)
and `key` (what must not be torn apart by a split: a package, a conversation, a post).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

SPLITS = ("train", "validation", "test")
SUFFIXES = (".jsonl", ".json", ".parquet")
Row = dict[str, Any]


def check_split(split: str) -> str:
    """The split itself; ValueError, in one sentence, for one that does not exist."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; choose one of {', '.join(SPLITS)}.")
    return split


def bucket(key: str, buckets: int) -> int:
    """A number under `buckets` from the key's SHA-256: for ever the same, on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % buckets


def hash_split(key: str) -> str:
    """The split of a key: 80 % train, 10 % validation, 10 % test (as debian.py's)."""
    return {8: "validation", 9: "test"}.get(bucket(key, 10), "train")


def cache_root(cache_dir: str | os.PathLike | None = None) -> Path:
    """`cache_dir`, else the variable ZOPRO_CACHE, else ~/.cache/zopro."""
    return Path(cache_dir or os.environ.get("ZOPRO_CACHE") or "~/.cache/zopro").expanduser()


def write_splits(folder: Path, rows: Mapping[str, list[Row]]) -> dict[str, int]:
    """One JSON Lines file a split under `folder`, which appears whole or not at all.

    Returns rows by split. Raises RuntimeError where a split would be empty.
    """
    counts = {split: len(content) for split, content in rows.items()}
    if not all(counts.values()):
        raise RuntimeError(f"{folder.name} would hold {counts} rows; no split may be empty.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as scratch:
        ready = Path(scratch) / "ready"
        ready.mkdir()
        for split, content in rows.items():
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in content)
            (ready / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(ready, folder)
    return counts


def alone(folder: Path) -> FileLock:
    """A lock for making `folder`: of the ranks of a run, one builds a cache and the others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def cached(folder: Path, split: str, build: Callable[[], Any]) -> list[Row]:
    """The rows of one split of a cache; `build` makes the folder where it is not there yet."""
    path = folder / f"{split}.jsonl"
    if not path.is_file():
        with alone(folder):
            if not path.is_file():
                build()
    return list(read_file(path))


def by_hash(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows by the split of their key, in their order."""
    found: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in rows:
        found[hash_split(row["key"])].append(row)
    return found


def is_path(source: str | os.PathLike) -> bool:
    """Whether a source names a file or folder rather than a source of a task."""
    return Path(source).suffix in SUFFIXES or Path(source).expanduser().exists()


def read_file(path: Path) -> Iterator[Row]:
    """The rows of one .jsonl, .json (the same: one object a line) or .parquet file.

    Raises ValueError, naming the line, where a line is no JSON object.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet

        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} of {path} is no JSON object; give one a line.")
            yield row


def find(source: str | os.PathLike, split: str) -> Path:
    """The file that holds a split: the file itself, or the split's own in a folder.

    Raises FileNotFoundError for no such file, ValueError for another format.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = [path / f"{split}{suffix}" for suffix in SUFFIXES]
        path = next((file for file in found if file.is_file()), found[0])
    if not path.is_file():
        raise FileNotFoundError(f"source is {str(source)!r}, and there is no file {path}.")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"source is {str(source)!r}; give a file that ends in .jsonl or .parquet.")
    return path


def has_columns(source: str | os.PathLike, split: str, needed: Iterable[str]) -> bool:
    """Whether the first row of a local split has these columns."""
    first = next(read_file(find(source, split)), {})
    return all(first.get(name) is not None for name in needed)


def local_rows(source: str | os.PathLike, split: str, needed: Iterable[str]) -> list[Row]:
    """The rows of one split of a local file or folder.

    A folder holds train, validation and test, each as .jsonl, .json or .parquet. A single file is
    split by the hash of `key`, or of `source` where a row has no key. needed: the columns that
    every row must have. Raises as `find` does, and ValueError for a missing column or no rows.
    """
    path = find(source, split)
    whole = Path(source).expanduser().is_dir()
    rows, needed = [], list(needed)
    for number, row in enumerate(read_file(path), 1):
        missing = [name for name in needed if row.get(name) is None]
        if missing:
            raise ValueError(
                f"row {number} of {path} has no column {missing[0]!r}; it needs "
                f"{', '.join(needed)}."
            )
        key = str(row.get("key") or row["source"])
        if whole or hash_split(key) == split:
            rows.append({**row, "key": key})
    if not rows:
        raise ValueError(f"{path} has no rows for split {split!r}.")
    return rows
