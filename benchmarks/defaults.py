"""The whole method as a user runs it first: `zopro train` of each task with its defaults.

    python benchmarks/defaults.py --starts translation=START summarisation=START dialogue=START

A start is a model's folder. For each task `zopro train --task TASK --model START --method zopro`
runs to its end in a folder of its own (--folder, kept), then `zopro eval` scores the start and the
end on test prompts, sampled. What is recorded: both scores beside the task's baselines, paired gain
with its interval over prompts, seconds, phases. Runs that the folder holds already go on or are
done. --more: further options of `zopro train`, said in the record.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import RESULTS, record


def zopro(*words: str) -> float:
    """One command of the command line; returns its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "zopro.cli", *words], check=True,
                   env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scored(task: str, model: str, adapter: Path | None, out: Path, limit: int) -> dict[str, Any]:
    """`zopro eval` on the first `limit` test prompts, sampled at temperature 1."""
    words = ["eval", "--task", task, "--model", model, "--limit", str(limit), "--temperature", "1",
             "--output", str(out)]  # fmt: skip
    if adapter is not None:
        words += ["--adapter", str(adapter)]
    zopro(*words)
    return json.loads(out.read_text())


def rewards(task: str, evaluated: dict[str, Any], limit: int) -> list[float]:
    """The task's first reward of each completion."""
    from zopro.tasks import get_task

    loaded = get_task(task)
    rows = loaded.load("test", limit=limit)
    texts = [c["completion"] for c in evaluated["completions"]]
    columns = {n: list(rows[n]) for n in rows.column_names if n != "prompt"}
    return loaded.reward_funcs()[0](list(rows["prompt"]), texts, **columns)


def one(task: str, start: str, folder: Path, more: list[str], limit: int) -> dict[str, Any]:
    """Trains, evaluates, compares."""
    run = folder / task
    seconds = zopro("train", "--task", task, "--model", start, "--method", "zopro",
                    "--output_dir", str(run), *more)  # fmt: skip
    before = scored(task, start, None, folder / f"{task}-before.json", limit)
    after = scored(task, start, run / "policy", folder / f"{task}-after.json", limit)
    pairs = zip(rewards(task, before, limit), rewards(task, after, limit), strict=True)
    gains = [b - a for a, b in pairs]
    logs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps: dict[str, int] = {}
    for log in logs:
        steps[log["phase"]] = max(steps.get(log["phase"], 0), log["step"])
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    return {
        "task": task, "start": start, "more": shlex.join(more), "cpu_seconds": seconds,
        "steps": steps, "prompts": len(gains), "gain": statistics.mean(gains),
        "gain_95": 1.96 * error, "before": before["metrics"], "after": after["metrics"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", nargs="+", required=True, metavar="TASK=MODEL")
    parser.add_argument("--folder", type=Path, default=Path("runs/defaults"))
    parser.add_argument("--limit", type=int, default=400, help="test prompts")
    parser.add_argument("--more", default="", help="further options of zopro train")
    parser.add_argument("--json", type=Path, default=RESULTS / "defaults_cpu.json")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    held = json.loads(given.json.read_text())["runs"] if given.json.exists() else []
    for pair in given.starts:
        task, start = pair.split("=", 1)
        made = one(task, start, given.folder, shlex.split(given.more), given.limit)
        held = [r for r in held if (r["task"], r["more"]) != (task, made["more"])] + [made]
        record(given.json, {"runs": held})
        print(f"{task}: {made['gain']:+.4f} ± {made['gain_95']:.4f}, {made['cpu_seconds']:.0f} s")


if __name__ == "__main__":
    main()
