"""How far restore="inplace" lets the weights drift in steps that should leave them alone (lr = 0).

    python benchmarks/inplace_drift.py

Each step goes to theta + eps z, theta - eps z and back; every pass rounds. Weights ~ N(0, 0.02).
Beside it, in the same run, MeZO's +eps, -2 eps, +eps, re-created from its operations
(z = torch.normal; theta = theta + s * z * eps), which rounds to nearest.

Reported after each of --steps: the share of weights whose bits changed, the drift's root mean
square over the weights', and two means over their standard errors, which an unbiased drift keeps
within about 3: of the drift, and of the drift away from zero (drift * sign(weight)), which shows
weights that shrink or grow together.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from harness import RESULTS, record
from torch import Tensor

from zopro import ZOPrO

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVIATION, EPS = 0.02, 1e-3
MEZO_STEPS = 1000  # its generator takes ten times as long as everything else here


def ours(x: Tensor, distribution: str, rounding: str) -> Callable[[], None]:
    """One step of ZOPrO with lr = 0 on `x`, in place."""
    parameter = torch.nn.Parameter(x)
    optimizer = ZOPrO(
        [parameter], lr=0.0, eps=EPS, distribution=distribution, rounding=rounding,
        restore="inplace", seed=1,
    )  # fmt: skip
    return lambda: optimizer.step(lambda: 0.0)


def mezo(x: Tensor) -> Callable[[], None]:
    """MeZO's perturbations of one step on `x`, in place."""

    def step() -> None:
        # MeZO draws z anew from one seed for each of the three; it is the same z.
        z = torch.normal(mean=0.0, std=1.0, size=x.shape, dtype=x.dtype)
        for sign in (1, -2, 1):
            x.copy_(x + sign * z * EPS)

    return step


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def drift(x: Tensor, start: Tensor) -> dict[str, float]:
    """The figures of the docstring, of `x` against `start`, both [numel]."""
    moved = x.double() - start.double()
    away = moved * start.double().sign()

    def in_errors(values: Tensor) -> float:
        error = float(values.std()) / values.numel() ** 0.5
        return float(values.mean()) / error if error else 0.0

    return {
        "changed": float((x != start).double().mean()),
        "rms_over_weights": rms(moved) / rms(start),
        "mean_over_error": in_errors(moved),
        "away_from_zero_over_error": in_errors(away),
        "away_from_zero_over_weights": float(away.mean() / start.double().abs().mean()),
    }


def runs(numel: int) -> list[tuple[dict[str, str], Tensor, Callable[[], None]]]:
    """(what, weights, one step) of every way to perturb and restore."""
    weights = torch.randn(numel, generator=torch.Generator().manual_seed(0)) * DEVIATION
    found = []
    for name, dtype in DTYPES.items():
        for rounding in ("nearest", "stochastic")[: 1 if name == "fp32" else 2]:
            for distribution in ("rademacher", "gaussian"):
                what = {"way": "zopro", "dtype": name, "rounding": rounding, "noise": distribution}
                x = weights.to(dtype, copy=True)
                found.append((what, x, ours(x, distribution, rounding)))
        x = weights.to(dtype, copy=True)
        what = {"way": "MeZO", "dtype": name, "rounding": "nearest", "noise": "gaussian"}
        found.append((what, x, mezo(x)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numel", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 1000, 10_000])
    parser.add_argument("--out", default=RESULTS / "inplace_drift.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for what, x, step in runs(args.numel):
        start, done = x.clone(), 0
        for steps in sorted(args.steps):
            if what["way"] == "MeZO" and steps > MEZO_STEPS:
                continue
            while done < steps:
                step()
                done += 1
            rows.append({**what, "steps": steps, **drift(x, start)})
            print(rows[-1], flush=True)
    record(args.out, {"numel": args.numel, "eps": EPS, "deviation": DEVIATION, "rows": rows})


if __name__ == "__main__":
    main()
