"""What a run tells of its optimizer's health: see `health` for the names in the logs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from zopro.auto_eps import POINTS
from zopro.optimizer import ZOPrO

NEAR = 1.0 / 32.0  # of eps: a cubic counts 1 / 32,768 of what it does over eps


def loss_noise(optimizer: ZOPrO, closure: Callable[[], Any]) -> float:
    """The standard deviation of one loss, from one draw: what of a loss does not repeat.

    The third difference of four equally spaced points cancels every quadratic and has 20 times a
    loss's variance (see zopro.auto_eps); they are near theta, as what bends further than a
    quadratic over a whole eps would be taken for noise. Four calls of the closure; the weights are
    theta afterwards. One draw is within a factor of 3 in two cases of
    three: take the root mean square of several.
    """
    losses = []
    for x in POINTS:
        with optimizer.perturbed(NEAR * x):
            losses.append(float(closure()))
    a, b, c, d = losses
    return abs(d - 3.0 * c + 3.0 * b - a) / math.sqrt(20.0)


def noise_is_due(args: Any, optimizer: ZOPrO) -> bool:
    """At the first step, and each `args.zo_noise_every` after it."""
    every = args.zo_noise_every
    return bool(every) and optimizer.step_count % every == 0


def health(optimizer: ZOPrO, noise: float | None) -> dict[str, float]:
    """What the last step says of the optimizer; empty before the first.

    grad_norm: |g|, the root mean square of the slopes along the step's directions. zo_eps: of the
    first group. zo_d: the previous update's weight in the directions, where there are targets.
    zo_loss_change: the root mean square of the loss differences that the slopes come from.
    zo_loss_noise: of such a difference, where it was measured since the last log. zo_skipped_steps:
    how many steps had losses that were not finite, where there are any.
    """
    last = getattr(optimizer, "last", None)
    if last is None:
        return {}
    slopes, plus, minus = last.projected_gradients, last.losses_plus, last.losses_minus
    logs = {"grad_norm": _rms(slopes), "zo_eps": last.eps[0]}
    if optimizer.target_weight is not None:
        logs["zo_d"] = optimizer.target_weight
    logs["zo_loss_change"] = _rms([a - b for a, b in zip(plus, minus)])
    if noise is not None:
        # A loss is the mean of its micro-batches' estimates, each with noise of its own.
        logs["zo_loss_noise"] = noise * math.sqrt(2.0 / last.estimates)
    if optimizer.skipped_steps:
        logs["zo_skipped_steps"] = optimizer.skipped_steps
    return logs


def _rms(values: Any) -> float:
    return math.sqrt(sum(x * x for x in values) / len(values))
