"""What every benchmark shares: timing by medians, and results as JSON that says where it ran."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "triton", "transformers", "trl", "peft", "scipy", "sacrebleu")


def processor() -> str:
    """Model of the CPU, and how many of its cores this process may use."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(s.split(":", 1)[1].strip() for s in lines if s.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """The checkout's commit, with "+" where tracked files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True, text=True
        ).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."]).returncode
        return head + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance() -> dict[str, Any]:
    """Device, versions, commit and command of this run."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    script = Path(sys.argv[0]).resolve()
    root = Path(__file__).resolve().parent.parent
    name = str(script.relative_to(root)) if script.is_relative_to(root) else script.name
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "device": gpu or processor(),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "commit": commit(),
        "command": shlex.join(["python", name, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
    }


def record(path: Path | str, results: dict[str, Any]) -> None:
    """Writes `results` with its provenance as JSON, beside and renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps({**provenance(), **results}, indent=1) + "\n")
    beside.replace(path)


def median_seconds(function: Callable[[], Any], repeats: int = 7, warmup: int = 2) -> list[float]:
    """[median, least, greatest] wall seconds of `function` on the CPU."""
    for _ in range(warmup):
        function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds), min(seconds), max(seconds)]
