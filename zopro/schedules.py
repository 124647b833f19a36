"""The weight d of the previous update in a targeted direction, over the steps of a run.

A schedule is a function (step, steps) -> d, with step counted from 0 at `set_targets`. The start
0.999 and the linear fall are those of ZOPrO (arXiv 2503.03460). A weight never goes below 0, where
sqrt(1 - d^2) would grow back.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import checks

START = 0.999
Schedule = Callable[[int, "int | None"], float]


def linear(step: int, steps: int) -> float:
    """0.999 - step / steps, and 0 once that is negative."""
    return max(0.0, START - step / steps)


def cosine(step: int, steps: int) -> float:
    """Half a cosine from 0.999 at step 0 to 0 at `steps`; 0 after it."""
    return START * (1.0 + math.cos(math.pi * min(step / steps, 1.0))) / 2.0


def constant(step: int, steps: int | None) -> float:
    """0.999 throughout."""
    return START


def exponential(half_life: float) -> Schedule:
    """0.999 halved every `half_life` * steps: a share of the run, so that N steps or 10 N fade
    alike (exp(-step) would be gone within five steps, whatever the length of the run)."""

    def value(step: int, steps: int) -> float:
        return START * 2.0 ** (-step / (half_life * steps))

    return value


NAMES = ("linear", "exponential", "cosine", "constant")


def resolve(schedule: str | Schedule, steps: int | None, half_life: float) -> Schedule:
    """The function for a name, or the callable itself.

    Raises ValueError for an unknown name or a missing `steps`, TypeError for another type.
    """
    checks.number("half_life", half_life, 0.0, open_low=True)
    if steps is not None:
        checks.integer("steps", steps, 1)
    if callable(schedule):
        return schedule
    if not isinstance(schedule, str) or schedule not in NAMES:
        known = ", ".join(repr(name) for name in NAMES)
        raise ValueError(
            f"schedule={schedule!r} is not known: use one of {known}, or a callable "
            "(step, steps) -> d"
        )
    if steps is None and schedule != "constant":
        raise ValueError(f"steps=None: schedule {schedule!r} needs the number of steps of the run")
    if schedule == "exponential":
        return exponential(half_life)
    return {"linear": linear, "cosine": cosine, "constant": constant}[schedule]


def weight_on_device(schedule: str, step: Tensor, steps: int | None, half_life: float) -> Tensor:
    """The named schedule's d at `step` (int64, 0-dim): fp64, on its device. The host waits for
    nothing."""
    share = step.double() / (steps or 1)
    if schedule == "linear":
        d = START - share
    elif schedule == "cosine":
        d = START * (1.0 + (math.pi * share.clamp(max=1.0)).cos()) / 2.0
    elif schedule == "exponential":
        d = START * (-share / half_life).exp2()
    else:
        d = torch.full_like(share, START)
    return d.clamp(min=0.0)


def weight(schedule: Schedule, step: int, steps: int | None) -> float:
    """schedule(step, steps), checked: a finite number, at most 1; below 0 counts as 0."""
    d: Any = schedule(step, steps)
    if isinstance(d, bool) or not isinstance(d, numbers.Real):
        raise TypeError(f"the schedule returned {type(d).__name__} at step {step}: return a number")
    d = float(d)
    if not math.isfinite(d) or d > 1.0:
        raise ValueError(f"the schedule returned {d} at step {step}: return at most 1")
    return max(0.0, d)
