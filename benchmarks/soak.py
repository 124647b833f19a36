"""Ten thousand steps with lr 0: no bit of the weights changes, and memory stays flat.

    python benchmarks/soak.py --json benchmarks/results/soak.json

With --dtype the others' runs stay in the record.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import torch

from zopro import StepLog, ZOPrO
from zopro.steplog import read_log

DTYPES = ("float32", "bfloat16", "float16")


def resident() -> int:
    """Bytes of this process's memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def soaked(name: str, adapter: bool, steps: int) -> dict[str, Any]:
    """`steps` steps at lr 0 on a small network or low-rank parts of it."""
    torch.manual_seed(0)
    dtype = getattr(torch, name)
    sizes = ((32, 64), (64, 32), (32, 8))
    frozen = [torch.randn(i, o).to(dtype) / i**0.5 for i, o in sizes]
    if adapter:
        shapes = [s for i, o in sizes for s in ((i, 2), (2, o))]
        params = [torch.nn.Parameter(torch.randn(s).to(dtype)) for s in shapes]
    else:
        params = [torch.nn.Parameter(w) for w in frozen]
    start = [p.detach().clone() for p in params]
    x, y = torch.randn(16, 32).to(dtype), torch.randn(16, 8)

    def loss() -> torch.Tensor:
        h = x
        for i, w in enumerate(frozen):
            whole = w + params[2 * i] @ params[2 * i + 1] if adapter else params[i]
            h = torch.tanh(h @ whole)
        return (h.float() - y).square().mean()

    opt = ZOPrO(params, lr=0.0, eps=1e-2, restore="exact")
    memory, began = [], time.thread_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "steps.zolog"
        with StepLog(path, opt):
            for step in range(steps):
                opt.step(loss)
                if step % (steps // 10) == steps // 10 - 1:
                    memory.append(resident())
        size, logged = path.stat().st_size, read_log(path).steps
    bits = sum(
        int((a.detach().view(torch.uint8) != b.view(torch.uint8)).sum())
        for a, b in zip(params, start)
    )
    return {
        "dtype": name,
        "weights": "adapter" if adapter else "full",
        "steps": steps,
        "logged": logged,
        "bytes changed": bits,
        "skipped": opt.skipped_steps,
        "bytes a step of log": size / steps,
        "resident after each tenth, MB": [m / 1e6 for m in memory],
        "growth after the first tenth, MB": (memory[-1] - memory[0]) / 1e6,
        "CPU seconds": time.thread_time() - began,
    }


def main() -> None:
    """Prints the runs; with --json records them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for dtype in given.dtype:
        for adapter in (True, False):
            runs.append(soaked(dtype, adapter, given.steps))
            print(runs[-1], flush=True)
    if given.json:
        kept = json.loads(given.json.read_text())["runs"] if given.json.exists() else []
        kept = [r for r in kept if r["dtype"] not in given.dtype]
        runs = sorted([*kept, *runs], key=lambda r: DTYPES.index(r["dtype"]))
        harness.record(given.json, {"runs": runs})


if __name__ == "__main__":
    main()
