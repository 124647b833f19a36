"""ZOPrO: a torch.optim.Optimizer that needs forward passes alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import checks
from .directions import ROUNDING, Plan, derive_seed, plain_directions
from .restore import choose_policy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepReport:
    """What a step measured and did. K directions; means over the estimates of the step.

    losses_minus is L(theta - eps z), or with estimator="one_sided" the baseline L(theta), K times.
    projected_gradients is the slope along z: (L+ - L-) / (2 eps), or (L+ - L) / eps, with the eps
    of the first group. eps and lr have one entry a group.
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


@dataclass
class _Pending:
    """Sums over the estimates that wait for a step: [K] each, and every loss for the mean."""

    plus: list[float]
    minus: list[float]
    losses: list[float] = field(default_factory=list)
    estimates: int = 0


class ZOPrO(Optimizer):
    def __init__(
        self,
        params,
        lr: float = 1e-4,
        eps: float | str = 1e-3,
        distribution: str = "rademacher",
        weight_decay: float = 0.0,
        num_directions: int = 1,
        estimator: str = "two_sided",
        rounding: str = "auto",
        restore: str = "auto",
        seed: int = 0,
        maximize: bool = False,
        backend: str | None = None,
    ) -> None:
        self._distribution = checks.choice("distribution", distribution, checks.DISTRIBUTIONS)
        self._estimator = checks.choice("estimator", estimator, checks.ESTIMATORS)
        self._rounding = checks.choice("rounding", rounding, checks.ROUNDINGS)
        self._restore = checks.choice("restore", restore, checks.RESTORES)
        self._num_directions = checks.integer("num_directions", num_directions, 1)
        self._seed = checks.integer("seed", seed, 0, 2**64)
        self._backend = backend
        self._step_count = 0
        self._passes = 0
        self._indices: dict[Tensor, int] = {}
        self._plan: Plan | None = None
        self._pending: _Pending | None = None
        self._weights = None
        self._defer_restore = False
        self.skipped_steps = 0
        self.last: StepReport | None = None
        defaults = dict(lr=lr, eps=eps, weight_decay=weight_decay, maximize=maximize)
        checks.group_options(defaults)
        super().__init__(params, defaults)
        if not self._indices:
            raise ValueError("params has no parameter that requires grad: nothing to train")

    @property
    def step_count(self) -> int:
        """Steps so far, skipped ones included: with the seed, what fixes the next direction."""
        return self._step_count

    @property
    def restore_policy(self) -> str:
        """ "exact" or "inplace": what restore="auto" came to."""
        return self._weights.policy

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self._pending is not None:
            raise RuntimeError("add_param_group: estimates wait for a step; call step() first")
        super().add_param_group(param_group)
        try:
            checks.group_options(self.param_groups[-1])
            self._index_trainable()
        except BaseException:
            self.param_groups.pop()
            raise
        self._plan = None
        self._weights = choose_policy(self._restore, list(self._indices))(self._rounding_seed)

    def estimate(self, closure: Callable[[], Any]) -> Tensor:
        try:
            loss = self._measure(closure)
        except BaseException:
            self._weights.home()
            raise
        if not self._defer_restore:
            self._weights.home()
        return loss

    def step(self, closure: Callable[[], Any] | None = None) -> Tensor | None:
        loss = None
        try:
            if closure is not None:
                loss = self._measure(closure)
            self._apply()
        finally:
            self._weights.home()
        return loss

    @contextmanager
    def perturbed(self, sign: float, direction: int = 0) -> Iterator[None]:
        scale = float(sign)
        k = checks.integer("direction", direction, 0, self._num_directions)
        plan = self._current_plan()
        if self._weights.away:
            raise RuntimeError("perturbed: the weights are perturbed already; leave that first")
        try:
            self._weights.move(plan, plan.directions[k], plan.eps * scale)
            yield
        finally:
            self._weights.home()

    def _rounding_seed(self) -> int:
        """Fresh for every pass, so that the roundings of two passes are independent."""
        self._passes += 1
        return derive_seed(self._seed, ROUNDING, self._passes)

    def _index_trainable(self) -> None:
        for g, group in enumerate(self.param_groups):
            for i, p in enumerate(group["params"]):
                if p.requires_grad and p not in self._indices:
                    checks.parameter(f"parameter {i} of group {g}", p)
                    self._indices[p] = len(self._indices)

    def _current_plan(self) -> Plan:
        if self._plan is None:
            self._index_trainable()
            members = [
                (p, g)
                for g, group in enumerate(self.param_groups)
                for p in group["params"]
                if p.requires_grad
            ]
            eps = [float(self.param_groups[g]["eps"]) for _, g in members]
            self._plan = Plan(
                tensors=[p for p, _ in members],
                indices=[self._indices[p] for p, _ in members],
                group_of=[g for _, g in members],
                eps=torch.tensor(eps, dtype=torch.float64),
                directions=plain_directions(
                    self._seed, self._step_count, self._num_directions, len(members)
                ),
                distribution=self._distribution,
                rounding="nearest" if self._rounding == "nearest" else "stochastic",
                backend=self._backend,
            )
        return self._plan

    @torch.no_grad()
    def _measure(self, closure: Callable[[], Any]) -> Tensor:
        plan = self._current_plan()
        losses: list[float] = []
        kind: list[Tensor | None] = []

        def evaluate() -> float:
            value, tensor = checks.loss_value(closure())
            losses.append(value)
            kind.append(tensor)
            return value

        plus, minus = [], []
        if self._estimator == "one_sided":
            self._weights.home()
            baseline = evaluate()
        for direction in plan.directions:
            self._weights.move(plan, direction, plan.eps)
            plus.append(evaluate())
            if self._estimator == "two_sided":
                self._weights.move(plan, direction, -plan.eps)
                minus.append(evaluate())
            else:
                minus.append(baseline)
        if self._pending is None:
            self._pending = _Pending([0.0] * len(plus), [0.0] * len(minus))
        pending = self._pending
        pending.plus = [a + b for a, b in zip(pending.plus, plus)]
        pending.minus = [a + b for a, b in zip(pending.minus, minus)]
        pending.losses += losses
        pending.estimates += 1
        mean = sum(losses) / len(losses)
        like = kind[0]
        if like is None:
            return torch.tensor(mean, dtype=torch.float64)
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        return torch.tensor(mean, dtype=dtype, device=like.device)

    def _apply(self) -> None:
        pending, plan = self._pending, self._plan
        if pending is None or plan is None:
            raise RuntimeError("step() without an estimate: call estimate(closure) first, "
                               "or step(closure)")  # fmt: skip
        width = 2.0 if self._estimator == "two_sided" else 1.0
        slopes = [
            (a - b) / (width * pending.estimates) for a, b in zip(pending.plus, pending.minus)
        ]
        groups = self.param_groups
        skipped = not all(math.isfinite(loss) for loss in pending.losses)
        if not skipped:
            lr = torch.tensor([float(groups[g]["lr"]) for g in plan.group_of], dtype=torch.float64)
            wd = torch.tensor([float(groups[g]["weight_decay"]) for g in plan.group_of]).double()
            sign = torch.tensor([-1.0 if groups[g]["maximize"] else 1.0 for g in plan.group_of])
            rate = -sign.double() * lr / plan.eps / len(slopes)
            terms = [(d, rate * s) for d, s in zip(plan.directions, slopes)]
            self._weights.update(plan, terms, 1.0 - lr * wd)
        self.last = StepReport(
            step=self._step_count,
            seed=plan.directions[0].seed,
            loss=sum(pending.losses) / len(pending.losses),
            losses_plus=tuple(a / pending.estimates for a in pending.plus),
            losses_minus=tuple(b / pending.estimates for b in pending.minus),
            projected_gradients=tuple(s / float(groups[0]["eps"]) for s in slopes),
            eps=tuple(float(g["eps"]) for g in groups),
            lr=tuple(float(g["lr"]) for g in groups),
            estimates=pending.estimates,
            skipped=skipped,
        )
        self.skipped_steps += skipped
        self._step_count += 1
        self._pending = self._plan = None

    def state_dict(self) -> dict[str, Any]:
        self._weights.home()
        state = super().state_dict()
        state["zopro"] = dict(
            seed=self._seed, step=self._step_count, passes=self._passes,
            skipped_steps=self.skipped_steps,
        )  # fmt: skip
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        own = state_dict["zopro"]
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "zopro"})
        self._seed, self._step_count = own["seed"], own["step"]
        self._passes, self.skipped_steps = own["passes"], own["skipped_steps"]
        self._plan = self._pending = None
