"""The machinery of ZOPrO: which tensors, which directions, one estimate, one update."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import zopro_kernels as zk

from . import auto_eps, checkpoint, checks, targets
from .devices import common_device, numbers
from .directions import CALIBRATION, DIRECTION, ROUNDING, Plan, Prepared, derive_seed, draw
from .measure import Pending, Readings, Record, StepReport, apply, measure
from .restore import choose_policy

logger = logging.getLogger(__name__)


class Engine(Optimizer):
    """State and private steps; ZOPrO adds what users type."""

    _distribution: str
    _estimator: str
    _rounding: str
    _restore: str
    _num_directions: int
    _seed: int
    _backend: str | None

    def __init__(self, params: list, defaults: dict[str, Any]) -> None:
        self._step_count = 0
        self._passes = 0
        self._indices: dict[Tensor, int] = {}
        self._plan: Plan | None = None
        self._prepared = Prepared()
        self._pending: Pending | None = None
        self._targets: targets.Targets | None = None
        self._busy: str | None = None
        self._defer_restore = False  # estimate() then leaves the way back to what comes next
        self._skipped: int | Tensor = 0  # a tensor where the device has counted
        self._last: Record | StepReport | None = None
        self._step_log: Any = None  # told of every step by taken(plan, record)
        super().__init__(params, defaults)

    @property
    def skipped_steps(self) -> int:
        """Steps whose losses were not all finite, or whose update was not. Waits for the device."""
        self._skipped = int(self._skipped)
        return self._skipped

    @property
    def last(self) -> StepReport | None:
        """What the last step measured and did. Waits for the device."""
        if isinstance(self._last, Record):
            self._last = self._last.read()
        return self._last

    def __getstate__(self) -> dict[str, Any]:
        """For copy.deepcopy and pickle: as torch's, without hooks, with everything of ours."""
        self._idle("copying the optimizer")
        self._weights.home()
        own = {
            key: value
            for key, value in self.__dict__.items()
            if not key.startswith("_optimizer_") and not callable(value)
        }
        fresh = {"_weights": None, "_plan": None, "_prepared": Prepared(), "_step_log": None}
        return {**own, **super().__getstate__(), **fresh}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.__dict__.get("_weights") is None:
            self._choose_weights()

    def _idle(self, what: str, *, no_estimates: bool = False) -> None:
        """Refuses `what` while a closure or a `perturbed` block holds the weights."""
        if self._busy is not None:
            raise RuntimeError(
                f"{what} inside {self._busy}: the weights are perturbed there; leave it first"
            )
        if no_estimates and self._pending is not None:
            raise RuntimeError(f"{what}: estimates wait for a step; call step() first")

    def _choose_weights(self) -> None:
        self._weights = choose_policy(self._restore, list(self._indices))(self._rounding_seed)

    def _rounding_seed(self) -> int:
        """Fresh for every pass, so that the roundings of two passes are independent."""
        self._passes += 1
        return derive_seed(self._seed, ROUNDING, self._passes)

    def _index_trainable(self) -> None:
        """Gives trainable parameters that have none the next indices; an index never changes."""
        fresh: dict[Tensor, str] = {}
        for g, group in enumerate(self.param_groups):
            for i, p in enumerate(group["params"]):
                if p.requires_grad and p not in self._indices and p not in fresh:
                    fresh[p] = f"parameter {i} of group {g}"
                    checks.parameter(fresh[p], p)
        if fresh:
            checks.no_overlap([*self._indices, *fresh])
            self._indices |= {p: len(self._indices) + n for n, p in enumerate(fresh)}

    def _members(self) -> list[tuple[Tensor, str | None, int]]:
        """(parameter, name, group) of all that require grad now, in order."""
        self._index_trainable()
        found = []
        for g, group in enumerate(self.param_groups):
            names = group.get("param_names", [None] * len(group["params"]))
            found += [(p, n, g) for p, n in zip(group["params"], names) if p.requires_grad]
        if not found:
            raise RuntimeError("no parameter requires grad any more: nothing to train")
        return found

    def _build_plan(self, seed: int, count: int) -> Plan:
        """The plan for `count` directions under `seed`; eps is nan where it is still "auto"."""
        members = self._members()
        tensors = [p for p, _, _ in members]
        eps = [self.param_groups[g]["eps"] for _, _, g in members]
        plan = Plan(
            tensors=tensors,
            indices=[self._indices[p] for p, _, _ in members],
            group_of=[g for _, _, g in members],
            eps=numbers(
                [float("nan") if e == "auto" else float(e) for e in eps], common_device(tensors)
            ),
            directions=draw(seed, count, tensors),
            distribution=self._distribution,
            rounding="nearest" if self._rounding == "nearest" else "stochastic",
            backend=self._backend,
            prepared=self._prepared,
        )
        if self._targets is not None:
            targets.aim(plan, self._targets, self._step_count)
        return plan

    def _current_plan(self) -> Plan:
        if self._plan is None:
            for group in self.param_groups:  # a scheduler or the user may have changed them
                checks.group_options(group)
            seed = derive_seed(self._seed, DIRECTION, self._step_count)
            self._plan = self._build_plan(seed, self._num_directions)
        return self._plan

    def _measure(self, closure: Callable[[], Any]) -> Tensor:
        """One estimate into `_pending`; leaves the weights where the last loss was taken."""
        self._idle("estimate")
        if not callable(closure):
            raise TypeError(
                f"closure is a {type(closure).__name__}: give a function that returns the loss"
            )
        readings = Readings(closure)
        try:
            self._busy = "a closure"
            if any(group["eps"] == "auto" for group in self.param_groups):
                self._find_eps(Readings(closure))
            plan = self._current_plan()
            pending = self._pending or Pending.of(len(plan.directions), plan.device)
            two_sided = self._estimator == "two_sided"
            self._pending = measure(readings, self._weights, plan, two_sided, pending)
        finally:
            self._busy = None
        return readings.mean()

    @torch.no_grad()
    def _find_eps(self, readings: Readings) -> None:
        """Replaces eps="auto" in all groups that have it; the others stay unperturbed."""
        seed = derive_seed(self._seed, CALIBRATION, self._step_count)
        plan = self._build_plan(seed, auto_eps.DIRECTIONS)
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
        finite = pending.sums[-1].isfinite()
        applied = apply(self._weights, plan, self.param_groups, slopes, finite)
        if isinstance(self._skipped, Tensor) and self._skipped.device != plan.device:
            self._skipped = self.skipped_steps  # the parameters have moved: count on over there
        self._skipped = applied.logical_not() + self._skipped
        self._last = Record.of(self._step_count, plan, pending, slopes, applied, self.param_groups)
        self._step_count += 1
        self._pending = self._plan = None
        if self._step_log is not None:
            self._step_log.taken(plan, self._last)

    def _flat(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _own_state(self) -> dict[str, Any]:
        position = {p: i for i, p in enumerate(self._flat())}
        return {
            "law": zk.LAW,
            "seed": self._seed,
            "step": self._step_count,
            "passes": self._passes,
            "skipped_steps": self.skipped_steps,
            "distribution": self._distribution,
            "estimator": self._estimator,
            "num_directions": self._num_directions,
            "trainable": [position[p] for p in self._indices],
            "shapes": [list(p.shape) for p in self._indices],
            "pending": None if self._pending is None else self._pending.state(),
            "targets": checkpoint.pack_targets(self._targets, position),
        }

    def _take_state(self, own: dict[str, Any], loaded: targets.Targets | None) -> None:
        flat = self._flat()
        self._seed, self._step_count, self._passes = own["seed"], own["step"], own["passes"]
        self._skipped = own["skipped_steps"]
        self._distribution, self._estimator = own["distribution"], own["estimator"]
        self._num_directions = own["num_directions"]
        self._indices = {flat[i]: n for n, i in enumerate(own["trainable"])}
        self._pending = None if own["pending"] is None else Pending.from_state(own["pending"])
        self._targets, self._plan = loaded, None
        self._prepared = Prepared()  # an index of the law may be another's now
