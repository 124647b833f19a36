"""A step that waits to be written, its numbers still on their way to the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..directions import Plan
from ..engine import Engine
from ..measure import Record as Taken
from ..restore import Place
from ..seeds import CALIBRATION, DIRECTION, derive_seed
from . import layout as f

Trace = Sequence[tuple[Plan, Place]]


class Waiting:
    """What a step's records are made of, once its numbers have arrived.

    first: of first_of_groups. trace: its passes in place, the update last; of other restores, none.
    whole: whether no pass before it is in the log already. ahead: the plan to which its update led.
    """

    def __init__(
        self,
        opt: Engine,
        plan: Plan,
        taken: Taken,
        first: dict[int, int],
        trace: Trace,
        whole: bool,
        ahead: Plan | None,
    ) -> None:
        self._inplace, self._whole = opt.restore_policy == "inplace", whole
        self._two_sided = opt._estimator == "two_sided"
        self._step, self._passes, self._estimates = taken.step, opt._passes, taken.estimates
        self._d, self._next_d = plan.d, None if ahead is None else ahead.d
        self._lr, self._count = taken.lr, len(plan.directions)
        self._groups = [
            (g["eps"], float(g["weight_decay"]), bool(g["maximize"])) for g in opt.param_groups
        ]
        self._seeds = _seeds(opt, taken.step)
        self._first = first
        columns = list(self._first.values())
        self._passed, scales = _passed(trace[:-1], columns)
        eps = torch.stack([plan.eps[c] for c in columns])
        self._host = _Host([taken.values[-self._count - 1 :], eps, *scales])

    def records(self) -> tuple[f.Groups, f.Moves | None, f.Step]:
        """Waits for the numbers."""
        values = iter(self._host.read())
        slopes = tuple(next(values) for _ in range(self._count))
        skipped = not next(values)
        eps = self._by_group(values, [1.0 if e == "auto" else float(e) for e, _, _ in self._groups])
        groups = f.Groups(eps, *zip(*[(decay, up) for _, decay, up in self._groups]))
        moves = [self._move(passed, values, eps) for passed in self._passed]
        apart = self._inplace and self._is_usual(moves, apart=True)
        usual = not self._inplace or (self._whole and (apart or self._is_usual(moves, apart=False)))
        step = f.Step(
            step=self._step,
            passes=self._passes,
            estimates=self._estimates,
            lr=self._lr if len(set(self._lr)) > 1 else self._lr[:1],
            d=self._d,
            slopes=slopes,
            skipped=skipped,
            apart=apart,
            next_d=self._next_d,
        )
        return groups, None if usual else f.Moves(self._d, tuple(moves)), step

    def _by_group(self, values, absent: Sequence[float]) -> tuple[float, ...]:
        return tuple(next(values) if g in self._first else x for g, x in enumerate(absent))

    def _move(self, passed: tuple[int, int] | None, values, eps: tuple) -> f.Move:
        if passed is None:
            return f.Move(f.HOME)
        seed, stream = passed
        scale = self._by_group(values, [0.0] * len(eps))
        if self._seeds[seed] == f.FREE:
            for where, sign in ((f.PLUS, 1.0), (f.MINUS, -1.0)):
                if all(scale[g] == sign * eps[g] for g in self._first):
                    return f.Move(where, stream)
        return f.Move(self._seeds[seed], stream, scale)

    def _is_usual(self, moves: list[f.Move], apart: bool) -> bool:
        usual = list(usual_moves(self._count, self._two_sided, self._estimates, apart))
        return moves in (usual, usual[1:])  # the last step's update may have made the first


def usual_moves(directions: int, two_sided: bool, estimates: int, apart: bool):
    """The passes of a step before its update: each estimate goes along every direction and, where
    they are `apart`, home."""
    for estimate in range(estimates):
        if estimate and not apart and not two_sided:
            yield f.Move(f.HOME)  # for its loss at theta
        for k in range(directions):
            yield f.Move(f.PLUS, k)
            if two_sided:
                yield f.Move(f.MINUS, k)
        if apart:
            yield f.Move(f.HOME)


def free_moves(opt: Engine, first: dict[int, int], trace: Trace) -> f.Moves:
    """Passes in place that no step followed yet. Waits for the device."""
    count, moves, seeds = len(opt.param_groups), [], _seeds(opt, opt._step_count)
    for plan, place in trace:
        (passed,), scales = _passed([(plan, place)], list(first.values()))
        if passed is None:
            moves.append(f.Move(f.HOME))
            continue
        seed, stream = passed
        found = dict(zip(first, scales[0].tolist()))
        scale = tuple(found.get(g, 0.0) for g in range(count))
        moves.append(f.Move(seeds[seed], stream, scale))
    return f.Moves(_weight(opt), tuple(moves))


def _seeds(opt: Engine, step: int) -> dict[int, int]:
    """What a pass along a direction is, by the direction's seed."""
    return {
        derive_seed(opt._seed, CALIBRATION, step): f.CALIBRATION,
        derive_seed(opt._seed, DIRECTION, step): f.FREE,
    }


class _Host:
    """fp64 numbers that follow the device's queue: reading waits for them and nothing later."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        values, self._event = torch.cat(list(parts)), None
        if values.device.type == "cuda":
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = pinned.copy_(values, non_blocking=True)
            self._event = torch.cuda.current_stream(parts[0].device).record_event()
        self._values = values

    def read(self) -> list[float]:
        if self._event is not None:
            self._event.synchronize()
        return self._values.tolist()


def _weight(opt: Engine) -> float:
    return 0.0 if opt._targets is None else opt._targets.used


def first_of_groups(group_of: list[int]) -> dict[int, int]:
    """The first parameter of each group that has one: scales are a group's."""
    return {g: group_of.index(g) for g in sorted(set(group_of))}


def _passed(trace: Trace, columns: list[int]) -> tuple[list[tuple[int, int] | None], list[Tensor]]:
    """(seed, stream) of each pass, None for home; the scales of the
    others, fp64 [len(columns)] each."""
    passed, scales = [], []
    for _, place in trace:
        if not place.terms:
            passed.append(None)
            continue
        ((direction, scale),) = place.terms
        passed.append((direction.seed, direction.stream))
        scales.append(scale)
    if not scales:
        return passed, []
    table = torch.stack(scales)
    return passed, list(torch.stack([table[:, c] for c in columns], dim=1).unbind())
