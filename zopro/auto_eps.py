"""eps="auto": the smallest perturbation whose loss difference rises clear of the loss's noise.

A perturbation below the rounding floor of the forward pass measures rounding, not slope: the
"gradient" is then noise of any size. The noise is measured by third differences along random
directions, as in More and Wild, "Estimating computational noise" (SIAM J. Sci. Comput. 33, 2011):
from four equally spaced points,

    L(1) - 3 L(1/3) + 3 L(-1/3) - L(-1)     (in units of eps along z)

cancels every quadratic, so what remains is noise with 1 + 9 + 9 + 1 = 20 times the variance of
one loss. It contains all that does not repeat: the rounding of weights, activations and loss, and
a closure that draws its own random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

POINTS = (-1.0, -1.0 / 3.0, 1.0 / 3.0, 1.0)
DIRECTIONS = 4  # four noise samples a rung; the rms of four slopes is rarely near 0 by chance
CLEAR = 10.0  # signal to noise of an accepted eps
FIRST = 1e-5
RUNGS = 10
WIDTH = 4.0  # the search ends when clear and unclear are this factor apart


@dataclass(frozen=True)
class AutoEps:
    """The eps found; rms loss difference and its noise there; the closure calls it took."""

    eps: float
    signal: float
    noise: float
    calls: int


def find_eps(loss_at: Callable[[int, float], float], two_sided: bool = True) -> AutoEps:
    """The smallest eps (within a factor of 4) with signal >= 10 x noise.

    loss_at(k, x) is the loss at theta + x z_k, k < 4. The signal is the rms over the directions
    of the difference the estimator takes, L(eps) - L(-eps) or, one-sided, half of it; the noise
    that of a difference of two losses. Starts at 1e-5 and climbs, because far above the answer
    curvature looks like noise. Costs 16 calls a rung: two to six rungs as a rule, at most 10.

    Raises RuntimeError where no eps is clear.
    """
    low, best, eps, calls = 0.0, None, FIRST, 0
    noises: dict[float, float] = {}
    for _ in range(RUNGS):
        signal, noises[eps] = _probe(loss_at, eps, two_sided)
        # Noise grows with eps, if anything: what smaller ones showed is a lower bound, without
        # which a rung of four small noise samples would pass for clear by luck.
        below = [n * n for e, n in noises.items() if e <= eps]
        noise = max(noises[eps], math.sqrt(sum(below) / len(below)))
        calls += DIRECTIONS * len(POINTS)
        if not (math.isfinite(signal) and math.isfinite(noise)):
            low = max(low, eps)
            break  # larger ones would not be finite either
        ratio = _ratio(signal, noise)
        if ratio >= CLEAR:
            best = AutoEps(eps, signal, noise, calls)
            if low == 0.0 and ratio > CLEAR * WIDTH:
                eps /= min(ratio / (1.5 * CLEAR), 100.0)
                continue
        elif best is None:
            low = eps
            # Below 2 the signal is noise too and says nothing of the way to go.
            eps *= 10.0 if ratio < 2.0 else 1.5 * CLEAR / ratio
            continue
        else:
            low = max(low, eps)
        if best.eps <= WIDTH * low or low == 0.0:
            break
        eps = math.sqrt(low * best.eps)
    if best is None:
        raise RuntimeError(
            f"eps='auto' found no perturbation up to {low:g} whose loss difference is {CLEAR:g} "
            "times its noise: give eps as a number, or a closure that repeats its loss"
        )
    return AutoEps(best.eps, best.signal, best.noise, calls)


def _ratio(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf if signal > 0.0 else 0.0  # nothing moved at all: climb
    return signal / noise


def _probe(
    loss_at: Callable[[int, float], float], eps: float, two_sided: bool
) -> tuple[float, float]:
    squares = thirds = 0.0
    for k in range(DIRECTIONS):
        a, b, c, d = (loss_at(k, x * eps) for x in POINTS)
        squares += (d - a) ** 2
        thirds += (d - 3.0 * c + 3.0 * b - a) ** 2 / 20.0
    difference = math.sqrt(squares / DIRECTIONS)
    return difference if two_sided else difference / 2.0, math.sqrt(2.0 * thirds / DIRECTIONS)
