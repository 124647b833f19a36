"""Sketches of a model's weights: time over a plain read of them, memory, and error of cosines.

    python benchmarks/sketch.py [--numel 1e9] [--part time|error]

The read is `max` of the same memory as int64 with as many threads, which waits for memory alone.
Read and sketch are taken in turn; the ratio is the median of the pairs' ratios. Other work on the
machine stretches both, so the processor's time of one thread for each is measured as well. Each
part keeps the other's record.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from harness import RESULTS, record, spread

import zopro_kernels as zk

NAME = "sketch.json"
DIM = 8192
PAIRS, ROWS, WIDTH, SEEDS, COUNT = 9, 24, 2048, 12, 80
KINDS = ("random", "correlated", "outliers")


def tensors(numel: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """A model's worth: layers of four matrices and a norm, contiguous."""
    width, found, left = 2048, [], numel
    shapes = [(width, width), (4 * width, width), (width, 4 * width), (width,)]
    while left > 0:
        for shape in shapes:
            t = torch.empty(shape, dtype=dtype)
            found.append(t.uniform_(-1, 1) if t.numel() < 2**20 else t.fill_(0.5))
            left -= t.numel()
    return found


def timed(numel: int, dtype: torch.dtype) -> dict[str, Any]:
    weights = tensors(numel, dtype)
    total = sum(t.numel() for t in weights)

    def read() -> None:
        for t in weights:
            t.view(torch.int64).max()

    def sketch() -> None:
        zk.sketch(weights, 1, DIM)

    extra = peak(sketch)

    def pairs(count: int, clock: Callable[[], float]) -> list[tuple[float, float]]:
        found = []
        for _ in range(count):
            at = [clock()]
            for work in (read, sketch):
                work()
                at.append(clock())
            found.append((at[1] - at[0], at[2] - at[1]))
        return found

    read()
    wall = pairs(PAIRS, time.perf_counter)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a thread that waits for another counts as busy
    busy = pairs(PAIRS // 2, time.process_time)
    torch.set_num_threads(threads)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "numel": total,
        "tensors": len(weights),
        "threads": threads,
        "read": spread([r for r, _ in wall]),
        "sketch": spread([s for _, s in wall]),
        "ratio": statistics.median(s / r for r, s in wall),
        "one_thread_ratio": statistics.median(s / r for r, s in busy),
        "one_thread_ns": statistics.median(s for _, s in busy) / total * 1e9,
        "extra_bytes": extra,
    }


def peak(work: Callable[[], None]) -> int:
    """Bytes that the first call takes at most: the process's peak, reset before it (Linux)."""
    process = psutil.Process()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = process.memory_info().rss
    work()
    with open("/proc/self/status") as file:
        high = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
    return max(0, high - before)


def vectors(kind: str) -> torch.Tensor:
    """fp32 [COUNT, ROWS WIDTH]; "outliers": a LoRA factor with five large columns of 2,048."""
    x = torch.randn(COUNT, ROWS, WIDTH, generator=torch.Generator().manual_seed(1))
    if kind == "correlated":
        x += torch.linspace(0.3, 3.0, COUNT).view(-1, 1, 1) * x[0].roll(1, 0)
    if kind == "outliers":
        x[..., [7, 135, 1031, 1600, 2047]] *= 20.0
    return x.flatten(1)


def cosines(x: torch.Tensor) -> torch.Tensor:
    x = torch.nn.functional.normalize(x.double(), dim=1)
    rows, columns = torch.triu_indices(len(x), len(x), 1)
    return (x @ x.T)[rows, columns]


def error(kind: str, dim: int) -> dict[str, Any]:
    """Of the cosines of all pairs of COUNT vectors, under SEEDS seeds."""
    x = vectors(kind)
    exact = cosines(x)
    off = torch.stack([
        cosines(torch.stack([zk.sketch([row], seed, dim) for row in x])) - exact
        for seed in range(SEEDS)
    ])  # fmt: skip
    stated = (1 - exact**2) / dim**0.5
    return {
        "kind": kind,
        "dim": dim,
        "pairs": off.numel(),
        "greatest_cosine": exact.max().item(),
        "rms": off.square().mean().sqrt().item(),
        "over_stated": (off / stated).square().mean().sqrt().item(),
        "at_99_percent": off.abs().quantile(0.99).item(),
        "greatest": off.abs().max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numel", type=float, default=1e9, help="weights of the timed model")
    parser.add_argument("--part", choices=("time", "error"), help="default: both")
    args = parser.parse_args()
    path = RESULTS / NAME
    found = json.loads(path.read_text()) if path.exists() else {}
    out = {"times": found.get("times", []), "errors": found.get("errors", [])}
    out["load"] = found.get("load")
    if args.part != "error":
        # The other processes' share of the machine: timings are only as good as this is small.
        out["load"] = psutil.getloadavg()[0]
        out["times"] = [timed(int(args.numel), d) for d in (torch.bfloat16, torch.float32)]
    if args.part != "time":
        out["errors"] = [error(kind, dim) for dim in (1024, DIM) for kind in KINDS]
    record(path, out)
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
