"""What one pass over the weights costs, beside `x.mul_`, a copy and MeZO's perturbation.

    python benchmarks/bench_pass.py --numel 67108864

In one run and one process: each contender runs in turn, round after round, and ratios are medians
of the rounds' own ratios, so a machine whose speed drifts slows both sides. MeZO's perturbation is
re-created from its operations (z = torch.normal; theta += s * z), one tensor at a time.

`--check` (CPU) exits with 1 and a sentence where a goal of GOALS is missed; a miss is measured
again, twice at most, because other work on the machine looks like one. It writes no file unless
--out names one.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from harness import RESULTS, record
from torch import Tensor

import zopro_kernels as zk


class Goal(NamedTuple):
    """How many times as fast as `over` the pass `name` is to be, in elements a second."""

    name: str
    over: str
    goal: float  # of --check: all cores, wall time
    # Of tests/test_speed.py: one core, its CPU time. Half the goal; a third for MeZO's, whose
    # generator is serial and so weighs less on one core than beside idle ones.
    floor: float


GOALS = (
    Goal("rademacher fp32 nearest", "mul_ fp32", 0.80, 0.40),
    Goal("gaussian fp32 nearest", "MeZO fp32", 15.0, 5.0),
    Goal("rademacher bf16 nearest", "rademacher fp32 nearest", 0.50, 0.25),
    Goal("rademacher bf16 stochastic", "rademacher fp32 nearest", 0.50, 0.25),
    Goal("gaussian bf16 nearest", "gaussian fp32 nearest", 0.50, 0.25),
    Goal("gaussian bf16 stochastic", "gaussian fp32 nearest", 0.50, 0.25),
)
ATTEMPTS = 3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def mezo(x: Tensor) -> None:
    z = torch.normal(mean=0.0, std=1.0, size=x.shape, dtype=x.dtype, device=x.device)
    x.add_(z.mul_(1e-3))


def contenders(numel: int, device: str) -> dict[str, tuple[str, Callable[[], None]]]:
    """Name -> (dtype, one pass over `numel` elements)."""
    weights = {name: torch.randn(numel, device=device).to(d) for name, d in DTYPES.items()}
    prev, other = torch.randn(2, numel, device=device)
    passes: dict[str, tuple[str, Callable[[], None]]] = {}
    for name, x in weights.items():
        passes[f"mul_ {name}"] = (name, lambda x=x: x.mul_(1.0001))
        for distribution in ("rademacher", "gaussian"):
            for rounding in ("nearest", "stochastic")[: 1 if name == "fp32" else 2]:
                passes[f"{distribution} {name} {rounding}"] = (
                    name,
                    lambda x=x, d=distribution, r=rounding: zk.add_noise_(
                        [x], [5], [1e-3], distribution=d, rounding=r
                    ),
                )
    x = weights["fp32"]
    passes["copy_ fp32"] = ("fp32", lambda: other.copy_(x))
    passes["MeZO fp32"] = ("fp32", lambda: mezo(x))
    for k in (2, 8):
        passes[f"rademacher fp32, {k} seeds"] = (
            "fp32",
            lambda k=k: zk.add_noise_([x], list(range(k)), [1e-3] * k),
        )
    passes["targeted rademacher fp32"] = (
        "fp32",
        lambda: zk.add_noise_([x], [5], [1e-3], prev=[prev], prev_coeffs=1e-3,
                              v=[other], v_coeffs=1e-3),
    )  # fmt: skip
    passes["noise_dots rademacher"] = ("fp32", lambda: zk.noise_dots([prev], 5))
    return passes


def seconds_of(function: Callable[[], None], device: str) -> float:
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def extra_memory(numel: int) -> int:
    """Bytes by which the process's peak rises in a pass over `numel` fp32 elements (CPU)."""
    x = torch.ones(numel)
    zk.add_noise_([x[:4096]], [1], [1e-3], distribution="gaussian")  # thread pool, table
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    zk.add_noise_([x], [1], [1e-3], distribution="gaussian")
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def measure(
    passes: dict[str, Callable[[], None]], rounds: int, timer: Callable[[Callable], float]
) -> dict[str, list[float]]:
    """Name -> seconds of each round; the passes run in turn, and a first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(-1, rounds):
        for name, function in passes.items():
            elapsed = timer(function)
            if turn >= 0:
                seconds[name].append(elapsed)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, over: str) -> float:
    """How many times as fast as `over` the pass `name` is: the median of the rounds' ratios."""
    return statistics.median(b / s for b, s in zip(seconds[over], seconds[name], strict=True))


def one_core(numel: int, rounds: int) -> dict[str, float]:
    """Name of each of GOALS -> its ratio on one thread, best CPU times: other work hardly shows."""
    torch.set_num_threads(1)
    named = {name for goal in GOALS for name in (goal.name, goal.over)}
    passes = {n: f for n, (_, f) in contenders(numel, "cpu").items() if n in named}

    def cpu_seconds(function: Callable[[], None]) -> float:
        start = time.thread_time()
        function()
        return time.thread_time() - start

    best = {name: min(s) for name, s in measure(passes, rounds, cpu_seconds).items()}
    return {goal.name: best[goal.over] / best[goal.name] for goal in GOALS}


def missed(ratios: dict[str, float], limits: dict[str, float]) -> list[str]:
    """A sentence for each of GOALS whose ratio lies under its limit."""
    return [
        f"{g.name} runs at {ratios[g.name]:.2f} times the speed of {g.over}; "
        f"at least {limits[g.name]:g} is asked for"
        for g in GOALS
        if not ratios[g.name] >= limits[g.name]
    ]


def rows_of(seconds: dict[str, list[float]], dtypes: dict[str, str], numel: int) -> list[dict]:
    rows = []
    for name, dtype in dtypes.items():
        ratios = {f"times {b}": ratio(seconds, name, b) for b in (f"mul_ {dtype}", "MeZO fp32")}
        median = statistics.median(seconds[name])
        rows.append(
            {"pass": name, "median_s": median, "least_s": min(seconds[name]),
             "greatest_s": max(seconds[name]), "elements_per_s": numel / median, **ratios}
        )  # fmt: skip
        speed = ", ".join(f"{k} {v:.2f}" for k, v in ratios.items())
        print(f"{name:<32} {numel / median / 1e9:7.2f} G elements/s   {speed}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numel", type=int, default=1 << 26)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out")
    parser.add_argument("--check", action="store_true", help="fail where a goal is missed")
    args = parser.parse_args()
    if args.check and args.device != "cpu":
        parser.error(f"--check knows goals for the CPU alone, not for {args.device!r}")
    extra = extra_memory(args.numel) if args.device == "cpu" else None
    found = contenders(args.numel, args.device)
    dtypes = {name: dtype for name, (dtype, _) in found.items()}
    passes = {name: function for name, (_, function) in found.items()}
    best, wrong = {goal.name: 0.0 for goal in GOALS}, []
    for _ in range(ATTEMPTS):
        seconds = measure(passes, args.rounds, lambda f: seconds_of(f, args.device))
        rows = rows_of(seconds, dtypes, args.numel)
        best = {g.name: max(best[g.name], ratio(seconds, g.name, g.over)) for g in GOALS}
        wrong = missed(best, {goal.name: goal.goal for goal in GOALS})
        if not (args.check and wrong):
            break
    print(f"extra memory of a pass: {extra} bytes")
    if args.out or not args.check:
        out = args.out or RESULTS / f"bench_pass_{args.device}.json"
        backend = zk.default_backend(args.device)
        record(out, {"numel": args.numel, "backend": backend, "rounds": args.rounds,
                     "extra_bytes": extra, "passes": rows})  # fmt: skip
    if args.check:
        print("\n".join(wrong) if wrong else "all goals of speed are met")
    return int(bool(args.check and wrong))


if __name__ == "__main__":
    sys.exit(main())
