"""Every benchmark of a device, one after another, each with its time budget: `make bench`.

    python benchmarks/bench_all.py cpu|cuda

A step that fails or runs over costs the others nothing; the exit code is then 1. Records go to
benchmarks/results; python benchmarks/tables.py puts them into the documents.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Device -> (command, seconds). A benchmark starts no case after its budget; GRACE later it is
# stopped. Together under ten minutes: two CPU cores, one GPU.
STEPS: dict[str, list[tuple[list[str], int]]] = {
    "cpu": [
        (["bench_pass.py", "--device", "cpu"], 150),
        (["bench_step.py", "--device", "cpu"], 150),
        (["bench_memory.py", "--device", "cpu"], 200),
        (["bench_rollout.py", "--device", "cpu"], 60),
    ],
    "cuda": [  # correctness first
        (["gpu_check.py", "bits"], 110),
        (["gpu_check.py", "sanitizer"], 110),
        (["bench_pass.py", "--device", "cuda"], 85),
        (["bench_step.py", "--device", "cuda"], 115),
        (["bench_memory.py", "--device", "cuda"], 60),
        (["bench_rollout.py", "--device", "cuda"], 50),
        (["population_cost.py", "--device", "cuda", "--budget", "28"], 30),
    ],
}
GRACE = 30


def run(command: list[str], budget: float) -> str:
    """Runs one step; "" where it ended well, else what became of it."""
    own = ["--budget", str(budget)] if command[0].startswith("bench_") else []
    # A group of its own, so that its children end with it.
    process = subprocess.Popen(
        [sys.executable, str(HERE / command[0]), *command[1:], *own], start_new_session=True
    )
    try:
        code = process.wait(budget + GRACE)
    except subprocess.TimeoutExpired:
        return f"stopped after {budget + GRACE:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"exit code {code}" if code else ""


def main(steps: dict[str, list[tuple[list[str], int]]] = STEPS) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device", choices=steps)
    ended = []
    for command, budget in steps[parser.parse_args().device]:
        print(f"== {' '.join(command[:2])}: {budget} s ==", flush=True)
        began = time.monotonic()
        problem = run(command, budget)
        ended.append((" ".join(command[:2]), time.monotonic() - began, budget, problem))
    for name, seconds, budget, problem in ended:
        print(f"{name:28} {seconds:5.0f} s of {budget:3} s   {problem or 'ok'}")
    return int(any(problem for *_, problem in ended))


if __name__ == "__main__":
    sys.exit(main())
