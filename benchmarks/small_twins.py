"""Twins in 16 bits that train on their own losses, beside their fp32 twin.

    python benchmarks/small_twins.py

The small model of examples/translation is trained in fp32 and, from the same weights along the same
directions, in bf16 and fp16, stored stochastically: each measures its slopes itself, with its own
forwards. Of every 16-bit run there are two, whose stores round by other random bits: how far these
are from each other is what rounding and 16-bit losses do by themselves, the yardstick for how far
they are from fp32: sqrt(1/2) of it, where they scatter about the fp32 run. Distances are Euclidean
over all weights, in lengths of the fp32 run's way. The loss is on a held-out batch; its difference
from fp32's has a 95 % interval over seeds.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import torch
from harness import RESULTS, record
from learning_stats import interval
from small_updates import DTYPES, EPS, START, distance
from torch import Tensor, nn

from zopro import ZOPrO

Loss = Callable[[nn.Module], Tensor]


def trained(start: nn.Module, dtype: torch.dtype, loss: Loss, seed: int, apart: int,
            steps: int, lr: float) -> nn.Module:  # fmt: skip
    """A copy of `start` in `dtype` after `steps` steps; `apart`: which random bits stores take."""
    model = copy.deepcopy(start).to(dtype)
    opt = ZOPrO(model.parameters(), lr=lr, eps=EPS, restore="exact", seed=seed)
    state = opt.state_dict()
    state["zopro"]["passes"] += apart << 32  # of which each pass's random bits are drawn
    opt.load_state_dict(state)
    for _ in range(steps):
        opt.step(lambda: loss(model))
    return model


def twins(start: nn.Module, loss: Loss, held: Loss, steps: int, lr: float,
          seeds: Sequence[int]) -> list[dict[str, Any]]:  # fmt: skip
    """One row a dtype; `start` stays as it is."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in DTYPES}
    for seed in seeds:
        whole = trained(start, torch.float32, loss, seed, 0, steps, lr)
        way = distance(whole.parameters(), start.parameters())
        reached = _value(held, whole)
        for name, dtype in DTYPES.items():
            pair = [trained(start, dtype, loss, seed, i, steps, lr) for i in (0, 1)]
            lost = [_value(held, twin) for twin in pair]
            found[name].append({
                "to_fp32": mean(distance(twin.parameters(), whole.parameters()) for twin in pair)
                / way,
                "to_each_other": distance(pair[0].parameters(), pair[1].parameters()) / way,
                "loss_difference": mean(lost) - reached,
                "fp32_gain": _value(held, start) - reached,
            })  # fmt: skip
            print(seed, name, found[name][-1], flush=True)
    return [_row(name, runs, steps, lr) for name, runs in found.items()]


def _row(name: str, runs: list[dict[str, float]], steps: int, lr: float) -> dict[str, Any]:
    means = {key: mean(r[key] for r in runs) for key in runs[0]}
    half = interval([r["loss_difference"] for r in runs])[1]
    return {"dtype": name, "seeds": len(runs), "steps": steps, "lr": lr, **means,
            "to_fp32_over_each_other": means["to_fp32"] / means["to_each_other"],
            "loss_difference_half": half, "runs": runs}  # fmt: skip


@torch.no_grad()
def _value(loss: Loss, model: nn.Module) -> float:
    return float(loss(model))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default=RESULTS / "small_twins.json")
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(START, dtype=torch.float32).eval()
    draws = torch.Generator().manual_seed(0)
    seen, unseen = (torch.randint(4, model.config.vocab_size, (4, 32), generator=draws)
                    for _ in range(2))  # fmt: skip
    rows = twins(
        model, lambda m: m(input_ids=seen, labels=seen).loss,
        lambda m: m(input_ids=unseen, labels=unseen).loss, args.steps, args.lr, range(args.seeds),
    )  # fmt: skip
    weights = sum(p.numel() for p in model.parameters())
    record(args.out, {"weights": weights, "twins": rows})


if __name__ == "__main__":
    main()
