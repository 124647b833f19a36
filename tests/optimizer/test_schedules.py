"""The weight of the previous update over a run."""

import itertools

import pytest

from zopro import ZOPrO
from zopro.schedules import START, linear, resolve, weight

from .helpers import parameters


@pytest.mark.parametrize("name", ["linear", "exponential", "cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 10, 3000])
def test_from_0999_down_and_never_below_0(name, steps):
    function = resolve(name, steps, 0.1)
    values = [weight(function, t, steps) for t in range(2 * steps + 2)]
    assert values[0] == START == 0.999
    assert all(0.0 <= b <= a for a, b in itertools.pairwise(values))


def test_values_against_their_formulas():
    assert weight(resolve("linear", 1000, 0.1), 250, 1000) == pytest.approx(0.749)
    assert weight(resolve("linear", 1000, 0.1), 1000, 1000) == 0.0  # negative in the reference
    assert weight(resolve("linear", 1000, 0.1), 5000, 1000) == 0.0
    assert linear(5000, 1000) == 0.0
    assert weight(resolve("cosine", 1000, 0.1), 500, 1000) == pytest.approx(0.4995)
    assert weight(resolve("cosine", 1000, 0.1), 1000, 1000) == 0.0
    for steps in (100, 100_000):  # a share of the run, whatever its length
        assert weight(resolve("exponential", steps, 0.1), steps // 10, steps) == 0.999 / 2
        assert weight(resolve("exponential", steps, 0.25), steps // 2, steps) == 0.999 / 4
    assert weight(resolve("constant", None, 0.1), 10**6, None) == 0.999


def test_a_callable_gets_step_and_steps_and_is_clamped():
    asked = []

    def schedule(step, steps):
        asked.append((step, steps))
        return 0.5 - step

    (p,) = parameters((4,))
    opt = ZOPrO([p], lr=0.0)
    opt.step(lambda: 0.0)  # the schedule counts from set_targets
    opt.set_targets([p.detach()], schedule=schedule, steps=7)
    asked.clear()
    for _ in range(3):
        opt.step(lambda: 0.0)
    assert asked == [(0, 7), (1, 7), (2, 7)]
    assert weight(schedule, 2, 7) == 0.0
