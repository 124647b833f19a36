"""What one pass over the weights costs, beside a copy, `x.mul_` and what others do for the same.

    python benchmarks/bench_pass.py [--numel 1048576 67108864] [--lora 300] [--device cpu]

For each layout (one tensor of so many elements; the tensors of an adapter), in one process: each
contender (pass_contenders.py, peers.py) runs in turn, round after round, on copies of the weights
whose total is over four times the last-level cache, and ratios are medians of the rounds' own
ratios, so a machine whose speed drifts slows both sides.

`--check` (CPU) exits with 1 and a sentence where a goal of GOALS is missed; a miss is measured
again, twice at most, because other work on the machine looks like one. Short passes are repeated
within a round (STEADY_SECONDS), so that a slip of milliseconds does not decide what a pass of 20 ms
is beside one of 500. It writes no file unless --out names one.
"""

from __future__ import annotations

import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from harness import Cases, Marks, options, parsed, spread
from pass_contenders import Contender, Shapes, contenders, layouts

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
    Goal("rademacher fp32 nearest", "mul_ fp32", 0.90, 0.45),
    Goal("gaussian fp32 nearest", "MeZO fp32", 25.0, 8.0),
    Goal("rademacher bf16 nearest", "mul_ bf16", 0.80, 0.40),
    Goal("rademacher fp32, 8 seeds", "rademacher fp32 nearest", 0.33, 0.16),
    Goal("rademacher bf16 stochastic", "rademacher fp32 nearest", 0.50, 0.25),
    Goal("gaussian bf16 nearest", "gaussian fp32 nearest", 0.50, 0.25),
    Goal("gaussian bf16 stochastic", "gaussian fp32 nearest", 0.50, 0.25),
)
# Of --check: rounds, and for how long a round repeats each pass, whose median is the round's time.
ATTEMPTS, CHECK_ROUNDS, STEADY_SECONDS = 3, 15, 0.15
NUMELS = {"cpu": [1 << 20, 1 << 26], "cuda": [1 << 20, 1 << 26, 1 << 30]}
# Small layouts take more rounds: so many elements in all. Of slow contenders a few must do: they
# leave after the round in which their seconds, warm-up included, reach MOST_SECONDS.
ROUNDS, ELEMENTS, MOST_ROUNDS, MOST_SECONDS = 7, 1 << 26, 100, 2.0


def extra_memory(numel: int) -> int:
    """Bytes by which the process's peak rises in a pass over `numel` fp32 elements (CPU)."""
    x = torch.ones(numel)
    zk.add_noise_([x[:4096]], [1], [1e-3], distribution="gaussian")  # thread pool, table
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    zk.add_noise_([x], [1], [1e-3], distribution="gaussian")
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def measure(
    passes: dict[str, Callable[[], None]],
    rounds: int,
    timer: Callable[[Callable], float],
    most_seconds: float = math.inf,
) -> dict[str, list[float]]:
    """Name -> seconds of each round; the passes run in turn, and a first round warms up.

    A pass that has taken `most_seconds` in all has no further rounds, but one at least.
    """
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(1 + rounds):
        for name, function in passes.items():
            if len(seconds[name]) < 2 or sum(seconds[name]) < most_seconds:
                seconds[name].append(timer(function))
    return {name: s[1:] for name, s in seconds.items()}


def ratio(seconds: dict[str, list[float]], name: str, over: str) -> float:
    """How many times as fast as `over` the pass `name` is: median over their common rounds."""
    return statistics.median(b / s for b, s in zip(seconds[over], seconds[name]))


def one_core(numel: int, rounds: int) -> dict[str, float]:
    """Name of each of GOALS -> its ratio on one thread, best CPU times: other work hardly shows."""
    torch.set_num_threads(1)

    def cpu_seconds(function: Callable[[], None]) -> float:
        start = time.thread_time()
        function()
        return time.thread_time() - start

    seconds = measure(of_goals(numel), rounds, cpu_seconds)
    best = {name: min(s) for name, s in seconds.items()}
    return {goal.name: best[goal.over] / best[goal.name] for goal in GOALS}


def of_goals(numel: int) -> dict[str, Callable[[], None]]:
    """The passes that GOALS speaks of, over one tensor of `numel` elements on the CPU."""
    named = {name for goal in GOALS for name in (goal.name, goal.over)}
    return {n: c.run for n, c in contenders([(numel,)], "cpu").items() if n in named}


def missed(ratios: dict[str, float], limits: dict[str, float]) -> list[str]:
    """A sentence for each of GOALS whose ratio lies under its limit."""
    return [
        f"{g.name} runs at {ratios[g.name]:.2f} times the speed of {g.over}; "
        f"at least {limits[g.name]:g} is asked for"
        for g in GOALS
        if not ratios[g.name] >= limits[g.name]
    ]


def steady(timer: Callable[[Callable[[], None]], float]) -> Callable[[Callable[[], None]], float]:
    """Median seconds of as many calls as make up STEADY_SECONDS."""

    def seconds(function: Callable[[], None]) -> float:
        found: list[float] = []
        while not found or sum(found) < STEADY_SECONDS:
            found.append(timer(function))
        return statistics.median(found)

    return seconds


def check(numel: int, rounds: int, timer: Callable[[Callable[[], None]], float]) -> list[str]:
    """What `missed` says of the best of ATTEMPTS; ends with the first that misses nothing."""
    passes, best, wrong = of_goals(numel), {goal.name: 0.0 for goal in GOALS}, []
    for _ in range(ATTEMPTS):
        seconds = measure(passes, rounds, steady(timer))
        best = {g.name: max(best[g.name], ratio(seconds, g.name, g.over)) for g in GOALS}
        wrong = missed(best, {goal.name: goal.goal for goal in GOALS})
        if not wrong:
            break
    return wrong


def timer_of(device: str) -> Callable[[Callable[[], None]], float]:
    """Seconds of one call: by the device's events, or the wall clock."""
    marks = Marks(device)

    def seconds(function: Callable[[], None]) -> float:
        marks()
        function()
        marks()
        return marks.seconds()[0]

    return seconds


def host_seconds(function: Callable[[], None]) -> float:
    """Wall seconds until a call returns, while the GPU has nothing else to do."""
    start = time.perf_counter()
    function()
    elapsed = time.perf_counter() - start
    torch.cuda.synchronize()
    return elapsed


def measure_layout(
    layout: str, shapes: Shapes, device: str, rounds: int, skip: list[str], cases: Cases
) -> list[dict[str, Any]]:
    """One row a contender; those that fail, or that `skip` names the beginning of, have none."""
    elements = sum(math.prod(s) for s in shapes)
    rounds = max(rounds, min(MOST_ROUNDS, ELEMENTS // elements))
    timer = timer_of(device)
    found = {
        name: c
        for name, c in contenders(shapes, device).items()
        if not name.startswith(tuple(skip))
        and cases.run(f"{layout}, {name}", timer, c.run) is not None
    }
    passes = {name: c.run for name, c in found.items()}
    seconds = measure(passes, rounds, timer, MOST_SECONDS)
    host = measure(passes, 7, host_seconds) if device == "cuda" else None
    rows = rows_of(seconds, found, elements)
    for row in rows:
        row |= {"layout": layout, "elements": elements, "tensors": len(shapes)}
        row["host_s"] = host and statistics.median(host[row["pass"]])
        told = ", ".join(f"{k} {v:.2f}" for k, v in row.items() if k.startswith("times") and v)
        print(f"{layout:<18} {row['pass']:<32} {row['elements_per_s'] / 1e9:8.2f} G/s   {told}")
    return rows


def rows_of(
    seconds: dict[str, list[float]], found: dict[str, Contender], elements: int
) -> list[dict[str, Any]]:
    """Spread, speed, and the speed over that of mul_, a copy and MeZO's pass of the same dtype.

    "share of copy" compares bytes a second: what a pass moves at least against 2 bytes a byte.
    """
    rows = []
    for name, contender in found.items():
        own = {"rounds": len(seconds[name]), **spread(seconds[name])}
        row = {"pass": name, "dtype": contender.dtype}
        for over in ("mul_", "MeZO"):
            other = f"{over} {contender.dtype}"
            row[f"times {over}"] = ratio(seconds, name, other) if other in seconds else None
        copy = f"copy_ {contender.dtype}"
        if copy in seconds:
            row["share of copy"] = ratio(seconds, name, copy) * contender.bytes / found[copy].bytes
        rows.append({**row, **own, "elements_per_s": elements / own["median_s"],
                     "bytes_per_s": elements * contender.bytes / own["median_s"]})  # fmt: skip
    return rows


def main() -> int:
    parser = options(__doc__, budget=150)
    parser.add_argument("--numel", type=int, nargs="+", help=f"of one tensor; default {NUMELS}")
    parser.add_argument("--lora", type=int, default=300, help="tensors of an adapter; 0: none")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, of --check {CHECK_ROUNDS}")
    parser.add_argument("--skip", nargs="*", default=[], help="beginnings of passes' names")
    parser.add_argument("--check", action="store_true", help="fail where a goal is missed")
    args = parsed(parser)
    if args.check and args.device != "cpu":
        parser.error(f"--check knows goals for the CPU alone, not for {args.device!r}")
    numels = args.numel or NUMELS[args.device]
    wrong = []
    if args.check:
        wrong = check(max(numels), args.rounds or CHECK_ROUNDS, timer_of("cpu"))
        print("\n".join(wrong) if wrong else "all goals of speed are met")
        if not args.out:
            return int(bool(wrong))
    cases, rows = Cases(args.budget), []
    extra = extra_memory(max(numels)) if args.device == "cpu" else None
    for layout, shapes in layouts(numels, args.lora).items():
        some = (layout, shapes, args.device, args.rounds or ROUNDS, args.skip, cases)
        rows += cases.run(layout, measure_layout, *some) or []
    facts = {"backend": zk.default_backend(args.device), "extra_bytes": extra}
    return max(cases.finish(args, "bench_pass", {"passes": rows}, **facts), int(bool(wrong)))


if __name__ == "__main__":
    sys.exit(main())
