"""What restore="inplace" leaves in the weights: unbiased where rounding is stochastic."""

from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
STEPS, NUMEL = 100, 100_000


@pytest.fixture
def inplace_drift(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import inplace_drift

    return inplace_drift


def after_steps(module, distribution: str, rounding: str) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(NUMEL, generator=generator) * module.DEVIATION).bfloat16()
    start, step = x.clone(), module.ours(x, distribution, rounding)
    for _ in range(STEPS):
        step()
    return module.drift(x, start)


@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_stochastic_rounding_drifts_without_bias(inplace_drift, distribution):
    found = after_steps(inplace_drift, distribution, "stochastic")
    assert found["changed"] > 0.9
    assert abs(found["mean_over_error"]) < 4
    assert abs(found["away_from_zero_over_error"]) < 4


def test_rounding_to_nearest_is_seen_to_be_biased(inplace_drift):
    found = after_steps(inplace_drift, "rademacher", "nearest")
    assert found["away_from_zero_over_error"] < -10


def test_the_figures_of_a_known_drift(inplace_drift):
    start = torch.tensor([1.0, -1.0, 1.0, -1.0])
    found = inplace_drift.drift(start * torch.tensor([1.0, 1.0, 0.5, 0.5]), start)
    assert found["changed"] == 0.5
    assert found["rms_over_weights"] == pytest.approx(0.125**0.5)
    assert found["mean_over_error"] == 0
    assert found["away_from_zero_over_weights"] == -0.25
    assert found["away_from_zero_over_error"] == pytest.approx(-(3**0.5))
