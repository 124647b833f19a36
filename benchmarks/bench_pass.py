"""What one pass over the weights costs, beside `x.mul_`, a copy and MeZO's perturbation.

    python benchmarks/bench_pass.py --numel 67108864

In one run and one process: each contender runs in turn, round after round, and ratios are medians
of the rounds' own ratios, so a machine whose speed drifts slows both sides. MeZO's perturbation is
re-created from its operations (z = torch.normal; theta += s * z), one tensor at a time.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from harness import RESULTS, record
from torch import Tensor

import zopro_kernels as zk

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numel", type=int, default=1 << 26)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out")
    args = parser.parse_args()
    extra = extra_memory(args.numel) if args.device == "cpu" else None
    passes = contenders(args.numel, args.device)
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(-1, args.rounds):  # the first round warms up
        for name, (_, function) in passes.items():
            elapsed = seconds_of(function, args.device)
            if turn >= 0:
                seconds[name].append(elapsed)
    rows = []
    for name, (dtype, _) in passes.items():
        ratio = {
            f"times {base}": statistics.median(
                b / s for b, s in zip(seconds[base], seconds[name], strict=True)
            )
            for base in (f"mul_ {dtype}", "MeZO fp32")
        }
        median = statistics.median(seconds[name])
        rows.append(
            {"pass": name, "median_s": median, "least_s": min(seconds[name]),
             "greatest_s": max(seconds[name]), "elements_per_s": args.numel / median, **ratio}
        )  # fmt: skip
        speed = ", ".join(f"{k} {v:.2f}" for k, v in ratio.items())
        print(f"{name:<32} {args.numel / median / 1e9:7.2f} G elements/s   {speed}")
    print(f"extra memory of a pass: {extra} bytes")
    out = args.out or RESULTS / f"bench_pass_{args.device}.json"
    backend = zk.default_backend(args.device)
    record(out, {"numel": args.numel, "backend": backend, "rounds": args.rounds,
                 "extra_bytes": extra, "passes": rows})  # fmt: skip


if __name__ == "__main__":
    main()
