"""Updates far below one unit in the last place arrive, as rounding stochastically promises."""

import sys
from pathlib import Path

import pytest
import torch

from .tiny_module import Tiny

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import small_twins
import small_updates


@pytest.fixture(scope="module")
def moved():
    rows = small_updates.movement(numel=8000, steps=1000, share=0.02)
    return {(r["dtype"], r["rounding"]): r for r in rows}


@pytest.mark.parametrize("dtype", small_updates.DTYPES)
def test_the_mean_movement_is_that_of_fp32(moved, dtype):
    """Within three standard errors; rounded to nearest, most weights never move."""
    row, nearest = moved[dtype, "stochastic"], moved[dtype, "nearest"]
    assert abs(row["share_of_fp32"] - 1) < 3 * row["share_error"] < 0.3
    assert abs(row["mean_difference_over_error"]) < 3
    assert nearest["share_of_fp32"] < 0.3 and nearest["never_moved"] > 0.8


def test_a_twin_fed_the_same_slopes_stays_near():
    """A store is off by up to eps |w| with a variance of at most a quarter of its square: after n
    steps by sqrt(n) eps / 2 of the weights, and on the mean by nothing."""
    steps = 200
    torch.manual_seed(0)
    model = Tiny(width=32)
    rows = small_updates.trajectory(model, model, steps=steps, lr=1e-4)
    found = {(r["dtype"], r["rounding"]): r for r in rows}
    for dtype, kind in small_updates.DTYPES.items():
        row = found[dtype, "stochastic"]
        assert row["share_of_way"] == pytest.approx(1.0, abs=0.1)
        assert row["distance_over_weights"] < torch.finfo(kind).eps * steps**0.5 / 2
    assert found["bf16", "nearest"]["share_of_way"] < 0.9


def test_twins_on_their_own_losses_scatter_about_the_fp32_run():
    """From fp32 they are less far than from each other (sqrt(1/2) of it without a bias), and end at
    its loss but for a tenth of what it gained."""
    model = Tiny(width=32)
    rows = small_twins.twins(model, lambda m: m(), lambda m: m(), steps=150, lr=3e-4, seeds=(1, 2))
    for row in rows:
        assert row["to_each_other"] > 0.0
        assert row["to_fp32_over_each_other"] < 1.0
        assert row["fp32_gain"] > 0.05
        assert abs(row["loss_difference"]) < 0.1 * row["fp32_gain"]
