"""Each CPU kernel by each instruction set that this processor has, beside the narrowest.

    python benchmarks/instruction_sets.py [--numel 131072 16777216] [--rounds 5]

The run-time dispatch chooses once a process (ZOPRO_CPU_ISA forces a level), so each level runs in
processes of its own, level after level, round after round: one thread, CPU time, the least of all
calls. Of fp32 131,072 elements stay in a core's L2, 16,777,216 come from past it. Exits with 1 and
a sentence where a level is slower than the narrowest ("baseline": vectors of four, x86 and ARM).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, record

import zopro_kernels as zk
from zopro_kernels import cpu

LEVELS = ("baseline", "avx2", "avx512")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHORT = {"rademacher": "signs", "gaussian": "Gaussian"}
SLOWER = 1.05  # times the narrowest's; CPU times repeat to a few per cent
NUMELS, ROUNDS, LEAST_SECONDS = [1 << 17, 1 << 24], 5, 5e-3
Kernels = Iterator[tuple[str, Callable[[], object]]]


def passes(numel: int) -> Kernels:
    """(name, call) of every form of the pass; scalars lie ready, so the kernel is what counts."""
    beside = torch.randn(numel)
    forms = {"fp32": beside, "bf16": beside.bfloat16(), "int8": zk.quantise(beside)}
    for dtype, kind in DTYPES.items():
        x = torch.randn(numel).to(kind)
        plain = zk.TensorSet([x])
        for d, name in SHORT.items():
            for stochastic in (False, True)[: 1 if dtype == "fp32" else 2]:
                late = ", stochastic" if stochastic else ""
                yield f"{name}, {dtype}{late}", add(plain, d, 1, stochastic)
            yield f"{name}, {dtype}, 8 seeds", add(plain, d, 8)
            for form, kept in forms.items():
                aimed = zk.TensorSet([x], prev=[kept], v=[kept])
                yield f"targeted {name}, {dtype}, kept {form}", add(aimed, d, 1)


def add(
    tensors: zk.TensorSet, distribution: str, seeds: int, stochastic: bool = False
) -> Callable[[], None]:
    integers = torch.arange(1 + 2 * seeds)
    floats = torch.full((1, 4 + seeds), 1e-3)
    floats[:, 0] = floats[:, 3] = 1.0  # decay, live
    return lambda: tensors.add_noise_(
        integers, floats, distribution=distribution, stochastic=stochastic, backend="cpu"
    )


def others(numel: int) -> Kernels:
    """The reductions and the sketch."""
    v = torch.randn(numel)
    norms = torch.ones(1, dtype=torch.float64)
    for form, kept in {"fp32": v, "bf16": v.bfloat16(), "int8": zk.quantise(v)}.items():
        vectors = zk.TensorSet([kept])
        for d, name in SHORT.items():
            yield (
                f"noise_dots, {name}, {form}",
                lambda vectors=vectors, d=d: zk.noise_dots(
                    vectors, 5, distribution=d, norms=norms, backend="cpu"
                ),
            )
    for dtype, kind in DTYPES.items():
        x = v.to(kind)
        yield f"sketch, {dtype}", lambda x=x: zk.sketch([x], 5, backend="cpu")


def least(function: Callable[[], object], seconds: float) -> float:
    """CPU seconds of the fastest call among those that `seconds` allow, three at least."""
    best, calls, begin = float("inf"), 0, time.thread_time()
    while calls < 3 or time.thread_time() - begin < seconds:
        start = time.thread_time()
        function()
        best, calls = min(best, time.thread_time() - start), calls + 1
    return best


def of_this_process(numels: list[int]) -> list[dict[str, Any]] | None:
    """Rows of kernel, numel and seconds; None where the level asked for is not to be had."""
    torch.set_num_threads(1)
    try:
        if cpu.instruction_set() != os.environ["ZOPRO_CPU_ISA"]:
            return None
    except RuntimeError:  # the processor lacks it
        return None
    rows = []
    for numel in numels:
        for make in (passes, others):
            for name, call in make(numel):
                call()
                rows.append({"kernel": name, "numel": numel, "s": least(call, LEAST_SECONDS)})
    return rows


def measured(level: str, numels: list[int]) -> list[dict[str, Any]] | None:
    """`of_this_process` in a process held to `level`; None where the processor lacks it."""
    command = [sys.executable, __file__, "--worker", "--numel", *map(str, numels)]
    environment = {**os.environ, "ZOPRO_CPU_ISA": level, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{level}: {done.stderr.splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(numels: list[int], rounds: int) -> list[dict[str, Any]]:
    """Rows of kernel, numel and ns an element by level."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for _ in range(rounds):
        for level in LEVELS:
            for row in measured(level, numels) or ():
                times = found.setdefault((row["kernel"], row["numel"]), {})
                ns = 1e9 * row["s"] / row["numel"]
                times[level] = min(ns, times.get(level, ns))
    return [{"kernel": k, "numel": n, "ns": times} for (k, n), times in found.items()]


def slower(rows: list[dict[str, Any]], most: float = SLOWER) -> list[str]:
    """A sentence for each level that takes more than `most` of the narrowest's time."""
    return [
        f"{r['kernel']}, {r['numel']:,} elements: {level} takes {ns / r['ns'][LEVELS[0]]:.2f} of "
        f"the time of {LEVELS[0]}"
        for r in rows
        for level, ns in r["ns"].items()
        if ns > most * r["ns"][LEVELS[0]]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numel", type=int, nargs="+", default=NUMELS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS / "instruction_sets.json")
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(of_this_process(args.numel)))
        return 0
    rows = compare(args.numel, args.rounds)
    for r in rows:
        told = "  ".join(f"{level} {ns:7.3f}" for level, ns in r["ns"].items())
        print(f"{r['kernel']:36} {r['numel']:12,}  {told} ns an element")
    record(args.out, {"unit": "ns of CPU time an element, one thread", "rows": rows})
    wrong = slower(rows)
    print("\n".join(wrong) if wrong else "no level is slower than the narrowest")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
