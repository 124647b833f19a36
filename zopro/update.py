"""The update of a step: from slopes to weights, in one pass for which the host does not wait."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .devices import moved
from .directions import Plan
from .restore import Weights

# Coefficients stay below this, so that a sum of two is finite in fp32 as well.
LARGEST = 2.0**126


@torch.no_grad()
def apply(
    weights: Weights,
    plan: Plan,
    groups: list[dict[str, Any]],
    slopes: Tensor,
    finite: Tensor,
    ahead: Plan | None = None,
) -> Tensor:
    """theta <- (1 - lr wd) theta - lr / K * sum of g_k z_k, restoring on the way: one pass.

    With D = eps_j z in group j and slope s along D, g_k = s_k / eps_j is an unbiased estimate of
    the smoothed gradient in each group whatever the other groups' eps (SPSA, Spall 1992).
    slopes: fp64 [K], finite: bool, 0-dim; both on the plan's device, as the answer is: whether
    theta moved. It only returns to its place where `finite` is False or a coefficient would
    overflow fp32; the host does not wait to know. `ahead`: the next step's plan, to whose first
    perturbation the same pass leads (InplaceWeights).
    """
    rate, decay, largest = _rates(plan, groups, len(slopes))
    reaches = [d.reach for d in plan.directions if d.reach is not None]
    if reaches:
        largest = largest * (reaches[0] if len(reaches) == 1 else torch.stack(reaches).max())
    for direction in plan.directions:
        finite = finite if direction.sound is None else finite & direction.sound
    applied = finite & (slopes.abs().sum() * largest < LARGEST)
    slopes = torch.where(applied, slopes, 0.0)
    terms = [(direction, rate * s) for direction, s in zip(plan.directions, slopes.unbind())]
    if decay is not None:
        decay = torch.where(applied, decay, 1.0)
    weights.update(plan, terms, decay, ahead)
    return applied


def _rates(
    plan: Plan, groups: list[dict[str, Any]], count: int
) -> tuple[Tensor, Tensor | None, float | Tensor]:
    """-+ lr / (eps K) and 1 - lr wd of each tensor, fp64 [T] (None: 1 for all), and the largest of
    the first. From tensors of lr they are computed on the plan's device."""
    decays = any(float(group["weight_decay"]) for group in groups)
    if not any(isinstance(group["lr"], Tensor) for group in groups):
        rates, kept = [], []
        for group, eps in zip(groups, plan.group_eps):
            lr = float(group["lr"])
            rates.append((lr if group["maximize"] else -lr) / (eps * count))
            kept.append(1.0 - lr * float(group["weight_decay"]))
        rate = plan.of_group(tuple(rates))
        largest = max(abs(rates[g]) for g in plan.groups)
        return rate, plan.of_group(tuple(kept)) if decays else None, largest
    columns = [
        moved(x.detach().double().view(1), plan.device)
        if isinstance(x, Tensor)
        else plan.prepared.constants([float(x)], plan.device)
        for x in (group["lr"] for group in groups)
    ]
    index = plan.prepared.constants(plan.group_of, plan.device, torch.int64)
    lr = torch.cat(columns).index_select(0, index)
    sign = plan.of_group(tuple(1.0 if group["maximize"] else -1.0 for group in groups))
    rate = lr * sign / (plan.eps * count)
    decay = plan.of_group(tuple(float(group["weight_decay"]) for group in groups))
    return rate, 1.0 - lr * decay if decays else None, rate.abs().max()
