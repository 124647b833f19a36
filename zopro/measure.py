"""What a step measures: losses at the perturbed weights, their sums, a report; the update."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import checks
from .directions import Plan
from .restore import ExactWeights, InplaceWeights


@dataclass(frozen=True)
class StepReport:
    """What the last step measured and did, for logs; K directions, means over its estimates.

    losses_minus: L(theta - eps z), or with estimator="one_sided" the baseline L(theta), K times.
    projected_gradients: (L+ - L-) / (2 eps), one-sided (L+ - L) / eps, with the first group's eps.
    eps, lr: one entry a group. seed: of the step's noise; direction k is stream k under it.
    """

    step: int
    seed: int
    loss: float
    losses_plus: tuple[float, ...]
    losses_minus: tuple[float, ...]
    projected_gradients: tuple[float, ...]
    eps: tuple[float, ...]
    lr: tuple[float, ...]
    estimates: int
    skipped: bool

    @classmethod
    def of(
        cls,
        step: int,
        plan: Plan,
        pending: Pending,
        slopes: list[float],
        groups: list[dict[str, Any]],
        skipped: bool,
    ) -> StepReport:
        return cls(
            step=step,
            seed=plan.directions[0].seed,
            loss=pending.loss_sum / pending.loss_count,
            losses_plus=tuple(a / pending.estimates for a in pending.plus),
            losses_minus=tuple(a / pending.estimates for a in pending.minus),
            projected_gradients=tuple(s / plan.eps[0].item() for s in slopes),
            eps=tuple(float(group["eps"]) for group in groups),
            lr=tuple(float(group["lr"]) for group in groups),
            estimates=pending.estimates,
            skipped=skipped,
        )


@dataclass
class Pending:
    """Sums over the estimates that wait for a step: [K] for plus and minus, all losses, count."""

    plus: list[float]
    minus: list[float]
    loss_sum: float = 0.0
    loss_count: int = 0
    estimates: int = 0

    @classmethod
    def of(cls, directions: int) -> Pending:
        return cls([0.0] * directions, [0.0] * directions)

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss_sum)

    def slopes(self, two_sided: bool) -> list[float]:
        """Mean over the estimates of (L+ - L-) / 2 or L+ - L: the change of L per eps z, [K]."""
        width = 2.0 if two_sided else 1.0
        return [(a - b) / (width * self.estimates) for a, b in zip(self.plus, self.minus)]


@dataclass
class Readings:
    """Calls the closure and keeps its losses; `like` tells dtype and device to answer in."""

    closure: Callable[[], Any]
    losses: list[float] = field(default_factory=list)
    like: Tensor | None = None

    def take(self) -> float:
        # Under an outer autocast the cast weights of the last evaluation are cached, unperturbed.
        torch.clear_autocast_cache()
        value, self.like = checks.loss_value(self.closure())
        self.losses.append(value)
        return value

    def mean(self) -> Tensor:
        """0-dim, on the losses' device: fp64 from Python numbers and fp64 losses, else fp32."""
        mean = sum(self.losses) / len(self.losses)
        if self.like is None or self.like.dtype == torch.float64:
            dtype = torch.float64
        else:
            dtype = torch.float32
        device = None if self.like is None else self.like.device
        return torch.tensor(mean, dtype=dtype, device=device)


@torch.no_grad()
def measure(
    readings: Readings,
    weights: ExactWeights | InplaceWeights,
    plan: Plan,
    two_sided: bool,
    pending: Pending,
) -> None:
    """Adds one estimate along each direction of `plan` to `pending`.

    Leaves the weights at the last perturbation. A closure that raises leaves `pending` as it was.
    """
    plus, minus = [], []
    if not two_sided:
        weights.home()
        baseline = readings.take()
    for direction in plan.directions:
        weights.move(plan, direction, plan.eps)
        plus.append(readings.take())
        if two_sided:
            weights.move(plan, direction, -plan.eps)
            minus.append(readings.take())
        else:
            minus.append(baseline)
    pending.plus = [a + b for a, b in zip(pending.plus, plus)]
    pending.minus = [a + b for a, b in zip(pending.minus, minus)]
    pending.loss_sum += sum(readings.losses)
    pending.loss_count += len(readings.losses)
    pending.estimates += 1


def apply(
    weights: ExactWeights | InplaceWeights,
    plan: Plan,
    groups: list[dict[str, Any]],
    slopes: list[float],
) -> bool:
    """theta <- (1 - lr wd) theta - lr / K * sum of g_k z_k, restoring on the way: one pass.

    With D = eps_j z in group j and slope s along D, g_k = s_k / eps_j is an unbiased estimate of
    the smoothed gradient in each group whatever the other groups' eps (SPSA, Spall 1992).
    Returns False, and changes nothing, where a coefficient overflows fp32.
    """

    def of_group(key: str) -> Tensor:
        values = [float(group[key]) for group in groups]
        return torch.tensor([values[g] for g in plan.group_of], dtype=torch.float64)

    lr = of_group("lr")
    rate = lr * (2.0 * of_group("maximize") - 1.0) / (plan.eps * len(slopes))
    terms = [(direction, rate * s) for direction, s in zip(plan.directions, slopes)]
    if not all(bool(scale.float().isfinite().all()) for _, scale in terms):
        return False
    weights.update(plan, terms, 1.0 - lr * of_group("weight_decay"))
    return True
