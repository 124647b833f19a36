"""Updates far below one unit in the last place: what of them arrives in bf16 and fp16.

    python benchmarks/small_updates.py

movement: weights ~ N(0, 0.02) are given the same slope in every step, in fp32, bf16 and fp16; of
the movement after 1,000 steps its share along the fp32 run's (least squares, with the standard
error over the weights), and the mean of the difference over its standard error.
trajectory: the small model of examples/translation is trained in fp32; its twins in bf16 and fp16
are fed the slopes that it measured. Of their way its share along fp32's (least squares), their
distance from it, over the length of its way and over the weights' (all of them, Euclidean), and
their loss beside its own, on the batch trained on.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, record
from torch import Tensor

from zopro import ZOPrO

START = Path(__file__).parents[1] / "examples/translation/start"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
ROUNDINGS = ("stochastic", "nearest")
DEVIATION, EPS = 0.02, 1e-3


def fed(params: list[Tensor], slopes: list[float], lr: float, rounding: str) -> None:
    """Walks `params` (written in place) by updates of these slopes, one a step."""
    losses = itertools.chain.from_iterable((g * EPS, -g * EPS) for g in slopes)
    opt = ZOPrO(params, lr=lr, eps=EPS, rounding=rounding, restore="exact", seed=1)
    for _ in slopes:
        opt.step(lambda: next(losses))


def movement(numel: int, steps: int, share: float) -> list[dict[str, Any]]:
    """One row a dtype and rounding; `share`: an update over the unit of a weight of 0.02."""
    start = torch.randn(numel, generator=torch.Generator().manual_seed(0)) * DEVIATION
    rows = []
    for name, dtype in DTYPES.items():
        begin = start.to(dtype)
        # Between two powers of 2 a unit is eps of the lower one.
        unit = torch.finfo(dtype).eps * 2.0**-6
        moves = {}
        for rounding in ("fp32", *ROUNDINGS):
            x = torch.nn.Parameter(begin.float() if rounding == "fp32" else begin.clone())
            fed([x], [1.0] * steps, share * unit, "nearest" if rounding == "fp32" else rounding)
            moves[rounding] = x.detach().double() - begin.double()
        wanted = moves["fp32"]
        for rounding in ROUNDINGS:
            rest = moves[rounding] - wanted
            along = rest * wanted / wanted.square().mean()
            rows.append({
                "dtype": name, "rounding": rounding, "steps": steps, "update_over_unit": share,
                "fp32_rms_over_unit": float(wanted.square().mean().sqrt()) / unit,
                "share_of_fp32": 1.0 + float(along.mean()),
                "share_error": float(along.std()) / numel**0.5,
                "mean_difference_over_error":
                    float(rest.mean()) / max(float(rest.std()) / numel**0.5, 1e-300),
                "never_moved": float((moves[rounding] == 0).double().mean()),
            })  # fmt: skip
    return rows


def trajectory(model: torch.nn.Module, loss: Any, steps: int, lr: float) -> list[dict[str, Any]]:
    """One row a dtype and rounding; `model` (fp32) is trained in place on `loss()`."""
    params = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in params]
    opt = ZOPrO(params, lr=lr, eps=EPS, restore="exact", seed=1)
    slopes, first = [], None
    for _ in range(steps):
        value = float(opt.step(loss))
        first = value if first is None else first
        slopes.append(opt.last.projected_gradients[0])
    end = [p.detach().clone() for p in params]
    went = distance(end, start)
    with torch.no_grad():
        last = float(loss())
    rows = []
    for name, dtype in DTYPES.items():
        for rounding in ROUNDINGS:
            twin = [torch.nn.Parameter(s.to(dtype)) for s in start]
            began = [p.detach().clone() for p in twin]
            fed(twin, slopes, lr, rounding)
            torch._foreach_copy_([p.data for p in params], [p.data for p in twin])
            with torch.no_grad():
                reached = float(loss())
            way = [b - a for a, b in zip(start, end)]
            theirs_way = [(b.detach() - a).float() for a, b in zip(began, twin)]
            apart = distance(theirs_way, way)
            along = sum(float((a.double() * b).sum()) for a, b in zip(theirs_way, way))
            rows.append({
                "dtype": name, "rounding": rounding, "steps": steps, "lr": lr,
                "weights": sum(p.numel() for p in params), "distance_over_way": apart / went,
                "way_over_weights": went / distance(start, [torch.zeros_like(s) for s in start]),
                "distance_over_weights": apart / distance(start, map(torch.zeros_like, start)),
                "loss_before": first, "loss_fp32": last, "loss": reached,
                "share_of_way": along / went**2,
            })  # fmt: skip
    return rows


def distance(a: Any, b: Any) -> float:
    """Euclidean, over two sequences of tensors."""
    pairs = ((x.detach().double(), y.detach().double()) for x, y in zip(a, b))
    return sum(float((x - y).square().sum()) for x, y in pairs) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--train-steps", type=int, default=300)
    parser.add_argument("--numel", type=int, default=100_000)
    parser.add_argument("--share", type=float, default=0.02)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--out", default=RESULTS / "small_updates.json")
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    moved = movement(args.numel, args.steps, args.share)
    print(*moved, sep="\n", flush=True)
    model = AutoModelForCausalLM.from_pretrained(START, dtype=torch.float32).eval()
    ids = torch.randint(4, model.config.vocab_size, (4, 32),
                        generator=torch.Generator().manual_seed(0))  # fmt: skip
    rows = trajectory(
        model, lambda: model(input_ids=ids, labels=ids).loss, args.train_steps, args.lr
    )
    print(*rows, sep="\n")
    record(args.out, {"numel": args.numel, "movement": moved, "trajectory": rows})


if __name__ == "__main__":
    main()
