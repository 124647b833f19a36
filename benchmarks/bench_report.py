"""What a report of a real run costs: time, size of the page, size of what it is from.

python benchmarks/bench_report.py RUN --json benchmarks/results/report.json

RUN: the folder of any `zopro train`. Two times: with sketches and figures for papers, as
`zopro report RUN --figures` makes them, and the page alone.
"""

from __future__ import annotations

import argparse
import gzip
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

import harness


def timed(command: list[str]) -> tuple[float, float]:
    """(seconds, CPU seconds) of a command in a process of its own, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL,
                   env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, used


def measured(run: Path) -> dict[str, Any]:
    """One run's report: seconds, bytes."""
    from zopro.report import read_run

    held = read_run(run)
    snapshots = sorted((run / "sketches").glob("[0-9]*.safetensors"))
    script = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.html"
        command = [sys.executable, "-m", "zopro.cli", "report", str(run), "--out", str(out)]
        page = timed(command)
        figures = timed([*command, "--figures", str(Path(folder) / "figures")])
        return {
            "task": held.option("task"), "method": held.option("method"),
            "iterations": held.option("iterations"), "adapter rank": held.option("lora_r"),
            "logs": len(held.logs), "snapshots": len(snapshots),
            "bytes of sketches": sum(p.stat().st_size for p in snapshots),
            "bytes of the page": out.stat().st_size,
            "bytes of plotly.js": len(script), "packed": len(gzip.compress(script, 9)),
            "seconds": page[0], "cpu seconds": page[1],
            "seconds with figures": figures[0], "cpu seconds with figures": figures[1],
            "figures": len(list((Path(folder) / "figures").glob("*.svg"))),
            "load": os.getloadavg()[0],
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result = measured(given.run)
    for name, value in result.items():
        print(f"{name:<28} {value}")
    if given.json:
        harness.record(given.json, {"report": result})


if __name__ == "__main__":
    main()
