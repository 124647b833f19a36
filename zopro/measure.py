"""What a step measures: losses at the perturbed weights, their sums, a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import checks
from .devices import moved
from .directions import Plan
from .restore import Weights
from .seeds import MASK


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


@dataclass(frozen=True)
class Record:
    """A step as it was taken, its numbers still on the device: what a StepReport is read from."""

    step: int | Tensor
    seed: int | Tensor
    sums: Tensor  # of Pending, fp64 [2 K + 1]
    slopes: Tensor  # fp64 [K]
    applied: Tensor  # bool, 0-dim: whether the update was
    first_eps: float  # of the first tensor
    eps: tuple[float, ...]
    lr: tuple[float | Tensor, ...]
    loss_count: int
    estimates: int

    @classmethod
    def of(
        cls,
        step: int | Tensor,
        plan: Plan,
        pending: Pending,
        slopes: Tensor,
        applied: Tensor,
        groups: list[dict[str, Any]],
    ) -> Record:
        eps = tuple(float(group["eps"]) for group in groups)
        # Tensors that are counted or scheduled in place are copied.
        rates = [group["lr"] for group in groups]
        if isinstance(step, Tensor):
            lr = tuple(x.detach().clone() if isinstance(x, Tensor) else x for x in rates)
            step = step.clone()
        else:
            lr = tuple(map(float, rates))
        return cls(
            step=step,
            seed=plan.directions[0].seed,
            sums=pending.sums,
            slopes=slopes,
            applied=applied,
            first_eps=eps[plan.group_of[0]],
            eps=eps,
            lr=lr,
            loss_count=pending.loss_count,
            estimates=pending.estimates,
        )

    @property
    def values(self) -> Tensor:
        """fp64 [3 K + 2], on the device: sums of the losses, slopes, whether it was applied."""
        return torch.cat([self.sums, self.slopes, self.applied.double().view(1)])

    def read(self) -> StepReport:
        """Waits for the device."""
        *values, applied = self.values.tolist()
        k = len(values) // 3
        return StepReport(
            step=int(self.step),
            seed=int(self.seed) & MASK,
            loss=values[2 * k] / self.loss_count,
            losses_plus=tuple(a / self.estimates for a in values[:k]),
            losses_minus=tuple(a / self.estimates for a in values[k : 2 * k]),
            projected_gradients=tuple(s / self.first_eps for s in values[2 * k + 1 :]),
            eps=self.eps,
            lr=tuple(map(float, self.lr)),
            estimates=self.estimates,
            skipped=not applied,
        )


@dataclass
class Pending:
    """What the estimates that wait for a step add up to.

    sums: fp64 [2 K + 1], on the plan's device: L+ and L- of each direction, all losses.
    """

    sums: Tensor
    loss_count: int
    estimates: int
    walk: Any = None  # the update, where another than update.apply; a population's
    accumulates: ClassVar[bool] = True  # whether further estimates may be added

    def on(self, device: torch.device) -> Pending:
        if self.sums.device == device:
            return self
        return replace(self, sums=moved(self.sums, device))

    def slopes(self, two_sided: bool) -> Tensor:
        """Mean over the estimates of (L+ - L-) / 2 or L+ - L: the change of L per eps z, [K]."""
        k = len(self.sums) // 2
        width = 2.0 if two_sided else 1.0
        return (self.sums[:k] - self.sums[k : 2 * k]) / (width * self.estimates)

    def state(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint. Waits for the device."""
        *sums, loss_sum = self.sums.tolist()
        k = len(sums) // 2
        return {
            "plus": sums[:k],
            "minus": sums[k:],
            "loss_sum": loss_sum,
            "loss_count": self.loss_count,
            "estimates": self.estimates,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Pending:
        sums = [*state["plus"], *state["minus"], state["loss_sum"]]
        return cls(torch.tensor(sums, dtype=torch.float64), state["loss_count"], state["estimates"])


@dataclass
class Readings:
    """Calls the closure and keeps its losses: fp64, 0-dim, on the device of the first; `dtype` is
    that to answer in."""

    closure: Callable[[], Any]
    weights: Weights
    losses: list[Tensor] = field(default_factory=list)
    dtype: torch.dtype = torch.float64
    _total: tuple[int, Tensor] | None = None

    def take(self) -> Tensor:
        # Under an outer autocast the cast weights of the last evaluation are cached, unperturbed.
        torch.clear_autocast_cache()
        with self.weights.evaluation():
            loss, self.dtype = checks.loss_value(self.closure())
        self.losses.append(moved(loss, self.losses[0].device) if self.losses else loss)
        return self.losses[-1]

    def total(self) -> Tensor:
        """fp64, 0-dim, of the losses so far."""
        if self._total is None or self._total[0] != len(self.losses):
            self._total = len(self.losses), torch.stack(self.losses).sum()
        return self._total[1]

    def mean(self) -> Tensor:
        """0-dim, on the losses' device: fp64 from Python numbers and fp64 losses, else fp32."""
        return (self.total() / len(self.losses)).to(self.dtype)


@torch.no_grad()
def measure(
    readings: Readings,
    weights: Weights,
    plan: Plan,
    two_sided: bool,
    pending: Pending | None,
) -> Pending:
    """`pending`, if any, plus one estimate along each direction of `plan`.

    Leaves the weights at the last perturbation.
    """
    plus, minus = [], []
    if not two_sided:
        weights.home()
        baseline = readings.take()
    for direction in plan.directions:
        weights.move(plan, direction, plan.eps)
        plus.append(readings.take())
        if two_sided:
            weights.move(plan, direction, plan.multiples[-1])
            minus.append(readings.take())
        else:
            minus.append(baseline)
    sums = moved(torch.stack([*plus, *minus, readings.total()]), plan.device)
    count = len(readings.losses)
    if pending is None:
        return Pending(sums, count, 1)
    sums += moved(pending.sums, plan.device)
    return Pending(sums, pending.loss_count + count, pending.estimates + 1)
