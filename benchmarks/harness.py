"""What every benchmark shares: times and their spread, cases that may fail, and results as JSON.

The JSON says where, on what and by which command it was measured.
"""

from __future__ import annotations

import argparse
import itertools
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
from typing import Any, TypeVar

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "triton", "transformers", "trl", "peft", "scipy", "sacrebleu")
T = TypeVar("T")


def processor() -> str:
    """Model of the CPU, and how many of its cores this process may use."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(s.split(":", 1)[1].strip() for s in lines if s.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def driver() -> str | None:
    """Version of the GPU's driver; None where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()[0].strip()


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
        "driver": driver(),
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


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, quartiles and extremes of `seconds`, by the JSON's names."""
    twice = seconds * 2 if len(seconds) == 1 else seconds  # quantiles wants two
    low, _, high = statistics.quantiles(twice, n=4, method="inclusive")
    return {
        "median_s": statistics.median(seconds),
        "low_s": low,
        "high_s": high,
        "least_s": min(seconds),
        "greatest_s": max(seconds),
    }


def options(doc: str | None, budget: float) -> argparse.ArgumentParser:
    """What every benchmark takes: `doc` is its docstring, `budget` its seconds by default."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--budget", type=float, default=budget,
                        help="seconds after which no case is started")  # fmt: skip
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/NAME_DEVICE.json")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line; exits with 2 and a sentence where the device is not there."""
    args = parser.parse_args()
    if args.device not in ("cpu", "cuda"):
        parser.error(f"--device {args.device!r} is not known: cpu or cuda")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; use --device cpu")
    return args


class Marks:
    """Points in the work of a device: events on a GPU, which do not wait, the clock on a CPU."""

    def __init__(self, device: str) -> None:
        self._cuda = torch.device(device).type == "cuda"
        self._points: list[Any] = []

    def __call__(self) -> None:
        """One point, after the work handed to the device so far."""
        point = torch.cuda.Event(enable_timing=True) if self._cuda else time.perf_counter()
        if self._cuda:
            point.record()
        self._points.append(point)

    def seconds(self) -> list[float]:
        """Seconds between each point and the next; waits for the device, then starts anew."""
        points, self._points = self._points, []
        if not self._cuda:
            return [b - a for a, b in itertools.pairwise(points)]
        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(points)]


class Cases:
    """Runs the cases of a benchmark: one that fails, or comes too late, does not cost the others.

    budget: seconds from now after which no further case is started.
    left_out: name of a case that did not run to its end -> the reason.
    """

    def __init__(self, budget: float) -> None:
        self._end = time.monotonic() + budget
        self._budget = budget
        self.left_out: dict[str, str] = {}

    def run(self, name: str, function: Callable[..., T], *arguments: Any) -> T | None:
        """What `function(*arguments)` returns; None where the case is left out."""
        if time.monotonic() > self._end:
            self.left_out[name] = f"the time budget of {self._budget:.0f} s was spent"
            return None
        try:
            return function(*arguments)
        except Exception as error:  # out of memory, no compiler, a defect: told, and exit code 1
            first = next(iter(str(error).splitlines()), "")
            self.left_out[name] = f"{type(error).__name__}: {first}"
            return None

    def finish(
        self, args: argparse.Namespace, name: str, rows: dict[str, list], **facts: Any
    ) -> int:
        """Writes the record of benchmark `name`, unless it has no rows; the exit code.

        The code is 1, after a sentence for each, where cases were left out.
        """
        if any(rows.values()):
            out = args.out or RESULTS / f"{name}_{args.device}.json"
            record(out, {**facts, **rows, "left_out": self.left_out})
        for name, reason in self.left_out.items():
            print(f"left out: {name}: {reason}")
        return int(bool(self.left_out))
