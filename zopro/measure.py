"""What a step measures: losses at the perturbed weights, their sums, a report; the update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

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
    values: Tensor  # fp64 [3 K + 2]: sums of the losses, slopes, whether the update was applied
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
            values=torch.cat([pending.sums, slopes, applied.double().view(1)]),
            first_eps=eps[plan.group_of[0]],
            eps=eps,
            lr=lr,
            loss_count=pending.loss_count,
            estimates=pending.estimates,
        )

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
    loss_count: int = 0
    estimates: int = 0

    @classmethod
    def of(cls, directions: int, device: torch.device) -> Pending:
        return cls(torch.zeros(2 * directions + 1, dtype=torch.float64, device=device))

    def on(self, device: torch.device) -> Pending:
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

    def take(self) -> Tensor:
        # Under an outer autocast the cast weights of the last evaluation are cached, unperturbed.
        torch.clear_autocast_cache()
        with self.weights.evaluation():
            loss, self.dtype = checks.loss_value(self.closure())
        self.losses.append(moved(loss, self.losses[0].device) if self.losses else loss)
        return self.losses[-1]

    def total(self) -> Tensor:
        return torch.stack(self.losses).sum()

    def mean(self) -> Tensor:
        """0-dim, on the losses' device: fp64 from Python numbers and fp64 losses, else fp32."""
        return (self.total() / len(self.losses)).to(self.dtype)


@torch.no_grad()
def measure(
    readings: Readings,
    weights: Weights,
    plan: Plan,
    two_sided: bool,
    pending: Pending,
) -> Pending:
    """`pending` plus one estimate along each direction of `plan`.

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
            weights.move(plan, direction, -plan.eps)
            minus.append(readings.take())
        else:
            minus.append(baseline)
    sums = moved(torch.stack([*plus, *minus, readings.total()]), plan.device)
    before = pending.on(plan.device)
    return Pending(
        before.sums + sums, before.loss_count + len(readings.losses), before.estimates + 1
    )


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

    def of_group(key: str) -> Tensor:
        """fp64 [T], on the plan's device."""
        values = [group[key] for group in groups]
        if not any(isinstance(x, Tensor) for x in values):
            return constants([float(values[g]) for g in plan.group_of], plan.device)
        columns = [
            moved(x.detach().double().view(1), plan.device)
            if isinstance(x, Tensor)
            else constants([float(x)], plan.device)
            for x in values
        ]
        index = constants(plan.group_of, plan.device, torch.int64)
        return torch.cat(columns).index_select(0, index)

    constants = plan.prepared.constants
    lr = of_group("lr")
    signed = lr * (2.0 * of_group("maximize") - 1.0)
    decay = 1.0 - lr * of_group("weight_decay")
    rate = signed / (plan.eps * len(slopes))
    used = [c for d in plan.directions for c in (d.noise, d.prev, d.v) if c is not None]
    reach = torch.stack(list({id(c): c for c in used}.values())).abs().max()
    for direction in plan.directions:
        finite = finite if direction.sound is None else finite & direction.sound
    applied = finite & (reach * rate.abs().max() * slopes.abs().sum() < LARGEST)
    slopes = torch.where(applied, slopes, 0.0)
    terms = [(direction, rate * s) for direction, s in zip(plan.directions, slopes.unbind())]
    weights.update(plan, terms, torch.where(applied, decay, 1.0), ahead)
    return applied
