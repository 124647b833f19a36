"""Statistics of the law at 10^8 draws. Seeds are fixed, so these pass or fail for ever.

A p-value below 1e-4 fails: with some twenty tests here, a right law would have failed one of them
in one choice of seeds out of five hundred.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import zopro_kernels as zk

CHUNK = 1 << 22
DRAWS = 24 * CHUNK  # 1.007e8
CELLS = 1 << 16
ALPHA = 1e-4

pytestmark = pytest.mark.skipif(
    zk.backends()["cpu"] != "available",
    reason="10^8 draws take minutes on the reference, whose bits are tested to be the same",
)


def chunks(distribution: str, seed: int = 2026):
    for offset in range(0, DRAWS, CHUNK):
        yield zk.noise(CHUNK, seed, offset=offset, distribution=distribution, backend="cpu")


@pytest.fixture(scope="module")
def gaussian() -> tuple[list[float], torch.Tensor, float]:
    """Power sums 1..6, counts in CELLS cells of equal probability, largest |n|."""
    powers, counts, largest = [0.0] * 7, torch.zeros(CELLS, dtype=torch.int64), 0.0
    for n in chunks("gaussian"):
        x = n.double()
        power = torch.ones_like(x)
        for k in range(1, 7):
            power *= x
            powers[k] += power.sum().item()
        cell = (torch.special.ndtr(x) * CELLS).long().clamp_(max=CELLS - 1)
        counts += torch.bincount(cell, minlength=CELLS)
        largest = max(largest, n.abs().max().item())
    return [p / DRAWS for p in powers], counts, largest


@pytest.mark.parametrize("k", range(1, 7))
def test_gaussian_moments(gaussian, k):
    moment = [0, 0, 1, 0, 3, 0, 15][k]
    central = [1, 1, 3, 15, 105, 945, 10395]  # E n^(2k) of the normal law
    deviation = math.sqrt((central[k] - moment**2) / DRAWS)
    assert 2 * stats.norm.sf(abs(gaussian[0][k] - moment) / deviation) > ALPHA


def test_gaussian_kolmogorov_smirnov(gaussian):
    cdf = gaussian[1].cumsum(0).double() / DRAWS
    expected = torch.arange(1, CELLS + 1, dtype=torch.float64) / CELLS
    statistic = (cdf - expected).abs().max().item()  # on the grid of cells
    assert stats.kstwobign.sf(statistic * math.sqrt(DRAWS)) > ALPHA


@pytest.mark.parametrize("cells", [64, 1024, 8192])
def test_gaussian_chi_square(gaussian, cells):
    counts = gaussian[1].view(cells, -1).sum(1)
    assert stats.chisquare(counts.numpy()).pvalue > ALPHA


@pytest.mark.parametrize("reach", [3.0, 4.0, 4.5])
def test_gaussian_tail(reach):
    """Counts beyond `reach` on both sides, against the normal law's."""
    beyond = sum(int((n.abs() > reach).sum()) for n in chunks("gaussian", seed=7))
    expected = 2 * stats.norm.sf(reach) * DRAWS
    assert 2 * stats.norm.sf(abs(beyond - expected) / math.sqrt(expected)) > ALPHA


def test_gaussian_reaches_past_five_sigma(gaussian):
    assert 5.2 < gaussian[2] < 10.3


def test_gaussian_blocks_are_uncorrelated_to_second_order():
    """The eight values of one call: correlations of n and of n^2 (they share a rotation)."""
    first, second, blocks = torch.zeros(8, 8).double(), torch.zeros(8, 8).double(), DRAWS // 8
    for n in chunks("gaussian", seed=11):
        x = n.view(-1, 8).double()
        y = (x * x - 1) / math.sqrt(2)
        first += x.T @ x
        second += y.T @ y
    off = ~torch.eye(8, dtype=torch.bool)
    z = torch.cat([(m / math.sqrt(blocks))[off] for m in (first, second)])
    assert 2 * stats.norm.sf(z.abs().max().item()) * 56 > ALPHA  # 56 distinct pairs


def test_rademacher_balance_and_runs():
    total, agreements = 0, 0
    for n in chunks("rademacher"):
        total += int(n.sum())
        agreements += int((n[1:] == n[:-1]).sum()) - int((n[1:] != n[:-1]).sum())
    pairs = DRAWS - DRAWS // CHUNK
    for value, count in ((total, DRAWS), (agreements, pairs)):
        assert 2 * stats.norm.sf(abs(value) / math.sqrt(count)) > ALPHA


def test_rademacher_bytes_chi_square():
    weights = (1 << torch.arange(8)).to(torch.int32)
    counts = torch.zeros(256, dtype=torch.int64)
    for n in chunks("rademacher", seed=3):
        counts += torch.bincount(((n.view(-1, 8) < 0).int() * weights).sum(1), minlength=256)
    assert stats.chisquare(counts.numpy()).pvalue > ALPHA


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("name", ["seed", "param", "stream"])
def test_neighbours_are_independent(distribution, name):
    """Correlation of n and n^2 - 1 between 0, 1, 2, 3 of a seed, parameter or stream, and lags."""
    rows = []
    for j in range(4):
        key = {"seed": 99, "param": 5, "stream": 5, name: j}
        rows.append(zk.noise(CHUNK, distribution=distribution, backend="cpu", **key).double())
    rows += [rows[0].roll(1), rows[0].roll(8), rows[0].roll(256), rows[0].roll(4096)]
    if distribution == "gaussian":
        rows += [(x * x - 1) / math.sqrt(2) for x in rows[:4]]
    x = torch.stack(rows)
    gram = (x @ x.T / math.sqrt(CHUNK))[~torch.eye(len(rows), dtype=torch.bool)]
    assert 2 * stats.norm.sf(gram.abs().max().item()) * gram.numel() / 2 > ALPHA
