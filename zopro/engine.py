"""The machinery of ZOPrO: which tensors, which directions, one estimate, one update."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import aiming, auto_eps, checks, targets
from .devices import common_device
from .directions import Plan
from .measure import Pending, Readings, Record, StepReport, measure
from .prepared import Prepared
from .restore import choose_policy, weights_for
from .seeds import CALIBRATION, DIRECTION, ROUNDING, derive_seed
from .trainable import Trainable
from .update import apply

logger = logging.getLogger(__name__)


class Engine(Trainable):
    """State and private steps; ZOPrO adds what users type."""

    _distribution: str
    _estimator: str
    _rounding: str
    _restore: str
    _num_directions: int
    _seed: int
    _capturable: bool
    _lookahead: bool
    _backend: str | None
    _model: torch.nn.Module | None = None  # for evaluation layer by layer
    _held: tuple[Tensor, ...] = ()

    def __init__(self, params: list, defaults: dict[str, Any]) -> None:
        # Of a capturable optimizer these are int64, 0-dim, counted in place on the device.
        self._step_count: int | Tensor = 0
        self._passes: int | Tensor = 0
        self._plan: Plan | None = None
        self._weights: Any = None
        self._prepared = Prepared()
        self._pending: Pending | None = None
        self._targets: targets.Targets | None = None
        self._busy: str | None = None
        self._skipped: int | Tensor = 0  # a tensor where the device has counted
        self._last: Record | StepReport | None = None
        self._step_log: Any = None  # told of every step by taken(plan, record, ahead)
        super().__init__(params, defaults)

    @property
    def skipped_steps(self) -> int:
        """Steps whose losses were not all finite, or whose update was not. Waits for the device."""
        return int(self._skipped)

    @property
    def last(self) -> StepReport | None:
        """What the last step measured and did. Waits for the device."""
        if isinstance(self._last, Record):
            report = self._last.read()
            if self._capturable:
                return report  # the next replay writes into the record
            self._last = report
        return self._last

    def _idle(self, what: str, *, no_estimates: bool = False) -> None:
        """Refuses `what` while a closure or a `perturbed` block holds the weights."""
        if self._busy is not None:
            raise RuntimeError(
                f"{what} inside {self._busy}: the weights are perturbed there; leave it first"
            )
        waiting = self._pending is not None and not self._pending.accumulates
        if waiting and what in ("estimate", "perturbed"):
            raise RuntimeError(f"{what}: a population waits for a step; call step() first")
        if no_estimates and self._pending is not None:
            raise RuntimeError(f"{what}: estimates wait for a step; call step() first")

    def _choose_weights(self) -> None:
        policy = choose_policy(self._restore, list(self._indices), self._model)
        self._weights = weights_for(
            policy, self._rounding_seed, self._model, self._held, self._restore == "auto"
        )

    def _count_on(self, device: torch.device) -> None:
        """Moves the counters of a capturable optimizer to `device`."""
        for name in ("_step_count", "_passes", "_skipped"):
            counter = getattr(self, name)
            if not isinstance(counter, Tensor) or counter.device != device:
                counter = torch.full((), int(counter), dtype=torch.int64, device=device)
                setattr(self, name, counter)

    def _rounding_seed(self) -> int | Tensor:
        """Fresh for every pass, so that the roundings of two passes are independent."""
        self._passes += 1
        return derive_seed(self._seed, ROUNDING, self._passes)

    def _step_seed(self, purpose: int, ahead: int = 0) -> int | Tensor:
        """The seed of this step, or of one `ahead`, on the device where it is counted there."""
        if self._capturable:
            checks.capturable(list(self._indices), self.param_groups)
            self._count_on(common_device(self._indices))
        return derive_seed(self._seed, purpose, self._step_count + ahead)

    def _build_plan(self, seed: int | Tensor, count: int, ahead: int = 0) -> Plan:
        """The plan for `count` directions under `seed`, for this step or one `ahead`; eps is nan
        where it is still "auto"."""
        members, lists = self._trainable(), None
        if self._targets is not None:
            lists = aiming.lists_of(self._prepared, self._targets, members)
        beside = (None, None) if lists is None else (lists.prev, lists.beside)
        plan = Plan(
            members,
            self._prepared.placed(members, *beside),
            self._group_eps(),
            self._distribution,
            "nearest" if self._rounding == "nearest" else "stochastic",
            self._backend,
            self._prepared,
            *beside,
        )
        plan.draw(seed, count)
        if lists is not None:
            aiming.aim(plan, self._targets, lists, self._step_count + ahead)
        return plan

    def _current_plan(self) -> Plan:
        if self._pending is None or self._plan is None:
            for group in self.param_groups:  # a scheduler or the user may have changed them
                checks.group_options(group, unseen=self._capturable)
            if self._plan is not None and not self._still_right(self._plan):
                self._weights.home()
                self._plan = None
        if self._plan is None:
            self._plan = self._build_plan(self._step_seed(DIRECTION), self._num_directions)
        return self._plan

    def _group_eps(self) -> tuple[float, ...]:
        found = [group["eps"] for group in self.param_groups]
        return tuple(math.nan if e == "auto" else float(e) for e in found)

    def _still_right(self, plan: Plan) -> bool:
        """Whether a plan made ahead of its step is what would be made now."""
        members = self._trainable()
        if members is not plan.members or self._group_eps() != plan.group_eps:
            return False
        placed = self._prepared.placed(members, plan.prev, plan.v)
        if placed.device != plan.device or len(placed.parts) != len(plan.parts):
            return False
        plan.placed = placed  # the tensors may have moved
        return True

    def _measure(self, closure: Callable[[], Any]) -> Tensor:
        """One estimate into `_pending`; leaves the weights where the last loss was taken."""
        self._idle("estimate")
        if not callable(closure):
            raise TypeError(
                f"closure is a {type(closure).__name__}: give a function that returns the loss"
            )
        readings = Readings(closure, self._weights)
        try:
            self._busy = "a closure"
            if any(group["eps"] == "auto" for group in self.param_groups):
                self._find_eps(Readings(closure, self._weights))
            plan = self._current_plan()
            two_sided = self._estimator == "two_sided"
            self._pending = measure(readings, self._weights, plan, two_sided, self._pending)
        finally:
            self._busy = None
        return readings.mean()

    @torch.no_grad()
    def _find_eps(self, readings: Readings) -> None:
        """Replaces eps="auto" in all groups that have it; the others stay unperturbed."""
        plan = self._build_plan(self._step_seed(CALIBRATION), auto_eps.DIRECTIONS)
        auto = plan.eps.isnan().double()

        def loss_at(k: int, x: float) -> float:
            self._weights.move(plan, plan.directions[k], auto * x)
            return readings.take().item()

        found = auto_eps.find_eps(loss_at, self._estimator == "two_sided")
        self._weights.home()
        for group in self.param_groups:
            if group["eps"] == "auto":
                group["eps"] = found.eps
        self._plan = None
        logger.info(
            "eps='auto' is %.3g: loss difference %.3g, its noise %.3g, %d closure calls",
            found.eps,
            found.signal,
            found.noise,
            found.calls,
        )

    def _finish_step(self) -> None:
        """Restore and update in one pass, or restore and skip; the next step's direction is new."""
        self._idle("step")
        pending = self._pending
        if pending is None:
            raise RuntimeError(
                "step() without an estimate: call estimate(closure) first, or step(closure)"
            )
        plan = self._current_plan()
        pending = pending.on(plan.device)
        slopes = pending.slopes(self._estimator == "two_sided")
        total = pending.sums[-1]
        finite = total - total == 0.0  # half the operations of isfinite
        ahead = None
        if self._lookahead:
            ahead = self._build_plan(self._step_seed(DIRECTION, 1), self._num_directions, ahead=1)
            if ahead.eps is not plan.eps or ahead.members is not plan.members:
                ahead = None  # eps or what trains changed between estimate and step
        walk = pending.walk or apply
        applied = walk(self._weights, plan, self.param_groups, slopes, finite, ahead)
        if self._capturable:
            self._skipped += applied.logical_not()
        else:
            if isinstance(self._skipped, Tensor) and self._skipped.device != plan.device:
                self._skipped = self.skipped_steps  # the parameters have moved: count on there
            self._skipped = applied.logical_not() + self._skipped
        self._last = Record.of(self._step_count, plan, pending, slopes, applied, self.param_groups)
        self._step_count += 1
        self._pending, self._plan = None, ahead
        if self._step_log is not None:
            self._step_log.taken(plan, self._last, ahead)
