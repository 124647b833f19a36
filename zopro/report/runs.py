"""What a run's folder says, also while it is written and where parts of it are damaged."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A folder is a run where it holds one of these; the others only add to it.
MARKS = ("config.json", "state.json", "metrics.jsonl", "trainer_state.json")
POLICY = re.compile(r"\d+\.policy(\.\d+)?|train")
REWARD = re.compile(r"reward|\d+\.refine(\.\d+)?")


@dataclass
class Run:
    """One run: `options` of config.json, `flags` of config.yaml, `starts` of runs.jsonl (a
    mapping a start), `state` of state.json, `logs` of metrics.jsonl, `samples` of samples.jsonl,
    `pairs` by phase, `evals` of eval-*.json by file name. `notes`: what could not be read, a
    sentence each. A log is a mapping with `phase`, `step` and numbers by name.
    """

    path: Path
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    starts: list[dict[str, Any]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    logs: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    pairs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    evals: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether every phase that began has ended."""
        return bool(self.state.get("done")) and self.state.get("phase") is None

    def option(self, name: str, default: Any = None) -> Any:
        """Of config.json, else of config.yaml."""
        value = self.options.get(name, self.flags.get(name))
        return default if value is None else value

    def of(self, kind: re.Pattern[str]) -> list[dict[str, Any]]:
        """The logs of the phases whose names match, in order."""
        return [row for row in self.logs if kind.fullmatch(str(row.get("phase", "")))]


def read_run(folder: str | Path) -> Run:
    """The run in `folder`: of `zopro train`, `sft` or `reward`, or of any Hugging Face trainer.

    Raises ValueError, one sentence, for what is no folder or holds no run; damaged files of a run
    become notes.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"run={str(folder)!r} is no folder: give the output_dir of a run")
    trainer = _trainer_state(path)
    if trainer is None and not any((path / name).is_file() for name in MARKS):
        raise ValueError(
            f"run={str(folder)!r} holds no run (none of {', '.join(MARKS)}): give the output_dir "
            "of `zopro train` or of a trainer"
        )
    run = Run(path, path.resolve().name)
    config = _mapping(run, path / "config.json")
    run.options = config.get("options") if isinstance(config.get("options"), dict) else {}
    run.flags = _yaml(run, path / "config.yaml")
    run.starts = _lines(run, path / "runs.jsonl")
    run.state = _mapping(run, path / "state.json")
    run.logs = _checked(run, _lines(run, path / "metrics.jsonl"))
    run.samples = _lines(run, path / "samples.jsonl")
    if not run.logs and trainer is not None:
        history = _mapping(run, trainer).get("log_history")
        rows = history if isinstance(history, list) else []
        run.logs = _checked(run, [row for row in rows if isinstance(row, dict)])
    for file in sorted(path.glob("phases/*/pairs.jsonl")):
        run.pairs[file.parent.name] = _lines(run, file)
    for file in sorted([*path.glob("eval*.json"), *path.glob("policy/eval*.json")]):
        found = _mapping(run, file)
        if isinstance(found.get("metrics"), dict):
            run.evals[str(file.relative_to(path))] = found
    return run


def stamp(folder: str | Path) -> str:
    """Changes whenever one of the files that `read_run` or the sketches' reader reads does."""
    path = Path(folder)
    names = ("config.json", "config.yaml", "runs.jsonl", "state.json", "*.jsonl", "eval*.json",
             "policy/eval*.json", "phases/*/pairs.jsonl", "sketches/*")  # fmt: skip
    files = {file for name in names for file in path.glob(name)}
    parts = []
    for file in sorted(files):
        try:
            stat = file.stat()
        except OSError:
            continue  # gone since the listing
        parts.append(f"{file.name}:{stat.st_size}:{stat.st_mtime_ns}")
    return "|".join(parts)


def _trainer_state(path: Path) -> Path | None:
    """trainer_state.json of a Hugging Face trainer: its own, or its last checkpoint's."""
    if (path / "trainer_state.json").is_file():
        return path / "trainer_state.json"
    found = [(int(p.parent.name.rpartition("-")[2]), p)
             for p in path.glob("checkpoint-*/trainer_state.json")
             if p.parent.name.rpartition("-")[2].isdigit()]  # fmt: skip
    return max(found)[1] if found else None


def _read(run: Run, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        run.notes.append(f"{path.name} cannot be read: {error.strerror}.")
        return ""


def _mapping(run: Run, path: Path) -> dict[str, Any]:
    text = _read(run, path)
    if not text:
        return {}
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            return found
        why = "it holds no mapping"
    except ValueError as error:
        why = str(error)
    run.notes.append(f"{path.name} is damaged and left out: {why}.")
    return {}


def _yaml(run: Run, path: Path) -> dict[str, Any]:
    text = _read(run, path)
    if not text:
        return {}
    import yaml  # comes with transformers

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if isinstance(found, dict):
        return found
    run.notes.append(f"{path.name} is damaged and left out: it holds no mapping.")
    return {}


def _lines(run: Run, path: Path) -> list[dict[str, Any]]:
    """Whole lines; the last one may be half written, which is no damage."""
    text, rows, bad = _read(run, path), [], 0
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if not line:
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif i < len(lines) - 1:
            bad += 1
    if bad:
        word = "line is" if bad == 1 else "lines are"
        run.notes.append(f"{bad} {word} damaged in {path.name} and left out.")
    return rows


def _checked(run: Run, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Logs that name their step; others are counted in a note. A trainer alone names no phase."""
    good = [{"phase": "train", **row} for row in rows if isinstance(row.get("step"), int)]
    good = [row for row in good if isinstance(row["phase"], str)]
    if len(good) < len(rows):
        run.notes.append(f"{len(rows) - len(good)} logs name no step and are left out.")
    return good
