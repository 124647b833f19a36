"""The run's folder: what is done, weights, metrics. JSON and safetensors; no pickle.

    config.json                 the options; digests of data, model, tokenizer, given reward model;
                                judge, kernels, ranks, commit (identity.py); versions of packages
    state.json                  the phases that are done, and the one in progress
    metrics.jsonl               one line a log of a trainer or the driver: phase, step, values
    samples.jsonl               one line a sample at a trainer's log: prompt, completion, rewards
    sketches/                   policy and reward model over time: zopro.analysis.snapshots
    phases/<phase>/             what a phase left: policy.safetensors, reward.safetensors, and a
                                zeroth-order one's step log with what a replay takes (LOG)
    checkpoints/<phase>/        Hugging Face's checkpoints inside a phase, gone once it is done

Phases have names of their own (`0.policy`, `1.refine`, ...), so no path is used twice.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from zopro.files import LOCK, append, locked, write_beside
from zopro.trainer.logs import NAME, START

from .config import IterationConfig
from .identity import compare
from .state import damaged, read_config, read_state, versions

BEGUN = ("config.json", "config.json.part", LOCK)  # a run that was killed before it had a state
# Between the run that began and the one that goes on.
LOG = (f"{NAME}*", "targets-*.safetensors", START)  # of a trainer's folder, beside checkpoints
MAY_DIFFER = ("resume", "output_dir", "sketch_every")


class RunFolder:
    """One run's folder. Only the main rank writes and checks (`main`); every rank reads.

    Raises FileExistsError for resume=False in a folder that is not empty, ValueError for a folder
    of a run with other options or data (`data`: digests by name), or one that holds no run.
    """

    def __init__(
        self,
        path: str,
        options: dict[str, Any],
        resume: bool,
        main: bool = True,
        data: dict[str, str] | None = None,
    ) -> None:
        self.path, self.main = Path(path), main
        self.state: dict[str, Any] = {"done": [], "phase": None}
        self._new: dict[str, Any] | None = None
        self._identity: dict[str, Any] = {}
        if not main:
            return  # the state comes from the main rank, which may be writing it at this moment
        held = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
        if held and not resume:
            raise FileExistsError(
                f"output_dir={path!r} is not empty and resume is False: name a new folder, or set "
                "resume to go on with what it holds"
            )
        if "state.json" in held:
            self._go_on(options, data)
        elif any(name not in BEGUN for name in held):
            raise ValueError(
                f"output_dir={path!r} holds {held[0]!r} but no run (state.json): name a new folder"
            )
        else:
            self._new = {"options": options, "data": data or {}, "versions": versions()}

    def identify(self, found: dict[str, Any]) -> None:
        """Keeps what `identity` found for a new run's config.json; compares it with that of a run
        that goes on (ValueError, warnings)."""
        if self._new is not None:
            self._new["identity"] = found
        elif self.main:
            compare(self.path, self._identity, found)

    def create(self) -> None:
        """Writes a new run's files, which until now was only checked; a run that goes on has them.

        Apart from the constructor, so that what is refused after it leaves no folder behind.
        """
        for phase in self.done if self.main else ():
            self._drop_checkpoints(phase)  # a kill in `finish`
        if self._new is not None:
            write_beside(self.path / "config.json", _json(self._new))
            self._write_state()
            self._new = None

    def _go_on(self, options: dict[str, Any], data: dict[str, str] | None) -> None:
        self.state = read_state(self.path)
        stored, digests, self._identity = read_config(self.path)
        data = digests if data is None else data
        for name in sorted(set(data) | set(digests)):
            if data.get(name) != digests.get(name):
                raise ValueError(
                    f"the dataset {name!r} is another than the one that the run in "
                    f"{str(self.path)!r} began with: give that, or name a new folder"
                )
        options = json.loads(json.dumps(options))
        # A run that began before an option existed ran with its default.
        stored = {f.name: f.default for f in fields(IterationConfig)} | stored
        for name, value in options.items():
            before = stored.get(name)
            # A finished run may be given more iterations.
            if name == "iterations" and isinstance(before, int) and value >= before:
                continue
            if name not in MAY_DIFFER and before != value:
                raise ValueError(
                    f"{name}={value!r}, but the run in {str(self.path)!r} began with "
                    f"{before!r}: give the same, or name a new folder"
                )

    @property
    def done(self) -> list[str]:
        return self.state["done"]

    def begin(self, phase: str) -> None:
        self.state["phase"] = phase
        self._write_state()

    def finish(self, phase: str) -> None:
        """The phase is done: its results are written, and its checkpoints are not needed. Its step
        log moves to the results."""
        self.state = {"done": [*self.done, phase], "phase": None}
        self._write_state()
        if self.main:
            self._drop_checkpoints(phase)

    def _drop_checkpoints(self, phase: str) -> None:
        """A kill between any two of its calls leaves what the next start's call finishes."""
        folder = self.checkpoints(phase)
        for path in [p for pattern in LOG for p in folder.glob(pattern)]:
            os.replace(path, self._folder_of(phase) / path.name)
        shutil.rmtree(folder, ignore_errors=True)

    def _write_state(self) -> None:
        if self.main:
            write_beside(self.path / "state.json", _json(self.state))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other process works in the folder; RuntimeError where one does."""
        if not self.main:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path):
            yield

    def _folder_of(self, phase: str) -> Path:
        folder = self.path / "phases" / phase
        if self.path.is_dir():  # a folder that is gone is not made again, half as it was
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def file(self, phase: str, name: str) -> Path:
        return self.path / "phases" / phase / name

    def checkpoints(self, phase: str) -> Path:
        return self.path / "checkpoints" / phase

    def save(self, phase: str, name: str, tensors: dict[str, torch.Tensor]) -> None:
        """Writes tensors of any shape and dtype as safetensors, beside and renamed."""
        if not self.main:
            return
        data = save({n: t.detach().cpu().contiguous() for n, t in tensors.items()})
        write_beside(self._folder_of(phase) / name, data)

    def load(self, phase: str, name: str) -> dict[str, torch.Tensor] | None:
        """What `save` wrote, on the CPU; None where there is none; ValueError if damaged."""
        path = self.file(phase, name)
        if not path.is_file():
            return None
        try:
            return load_file(str(path))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{str(path)!r} is damaged: {error}") from error

    def write_rows(self, phase: str, name: str, rows: Iterable[dict[str, Any]]) -> None:
        if self.main:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            write_beside(self._folder_of(phase) / name, "".join(lines))

    def read_rows(self, phase: str, name: str) -> list[dict[str, Any]]:
        path = self.file(phase, name)
        if not path.is_file():
            return []
        try:
            # splitlines() would also cut at U+2028 and its like, which JSON may hold as they are.
            return [json.loads(x) for x in path.read_text(encoding="utf-8").split("\n") if x]
        except ValueError as error:
            raise damaged(self.path, f"its {phase}/{name} is no JSON lines ({error})") from error

    def log(self, phase: str, step: int, values: dict[str, Any]) -> None:
        """Appends one line to metrics.jsonl; a number that is not finite is null there."""
        if self.main:
            values = {
                n: None if isinstance(v, float) and not math.isfinite(v) else v
                for n, v in values.items()
            }
            append(
                self.path / "metrics.jsonl",
                json.dumps({"phase": phase, "step": step, "seconds": _now(), **values}) + "\n",
            )

    def keep_samples(self, phase: str, step: int, rows: Iterable[dict[str, Any]]) -> None:
        """Appends lines to samples.jsonl: what the policy wrote, and what rewards it got."""
        if self.main:
            lines = [json.dumps({"phase": phase, "step": step, **row}) + "\n" for row in rows]
            append(self.path / "samples.jsonl", "".join(lines))

    def forget(self, phase: str, after: int) -> None:
        """Drops what the phase will write again, its steps beyond `after`, its trainer's last word
        and its end; and half a line at the file's end."""
        for name in ("metrics.jsonl", "samples.jsonl"):
            if self.main and (self.path / name).is_file():
                self._forget(self.path / name, phase, after)

    def _forget(self, path: Path, phase: str, after: int) -> None:
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                last = "event" in row or "train_runtime" in row
                if row["phase"] != phase or (row["step"] <= after and not last):
                    kept.append(line + "\n")
            except (ValueError, TypeError, KeyError):
                continue  # half a line, or none of ours
        write_beside(path, "".join(kept))


def _now() -> float:
    return round(time.time(), 3)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"
