"""How far sketched inner products and cosines are from the exact ones."""

from __future__ import annotations

import pytest
import torch

import zopro_kernels as zk

DIM, SEEDS, COUNT = 8192, 8, 80
ROWS, WIDTH = 24, 2048  # 49,152 elements


def vectors(kind: str) -> torch.Tensor:
    """fp32 [COUNT, ROWS WIDTH]."""
    x = torch.randn(COUNT, ROWS, WIDTH, generator=torch.Generator().manual_seed(1))
    if kind == "correlated":  # cosines from 0.1 to 0.9 between pairs
        weight = torch.linspace(0.3, 3.0, COUNT).view(-1, 1, 1)
        x = x + weight * x[0].roll(1, 0)
    if kind == "outliers":  # a LoRA factor whose inputs have a few columns of large activations
        x[..., [7, 135, 1031, 1600, 2047]] *= 20.0
    return x.flatten(1)


def cosines(x: torch.Tensor) -> torch.Tensor:
    x = torch.nn.functional.normalize(x.double(), dim=1)
    rows, columns = torch.triu_indices(len(x), len(x), 1)
    return (x @ x.T)[rows, columns]


@pytest.mark.parametrize("kind", ["random", "correlated", "outliers"])
def test_cosines(kind):
    x = vectors(kind)
    exact = cosines(x)
    errors = torch.stack([
        cosines(torch.stack([zk.sketch([row], seed, DIM) for row in x])) - exact
        for seed in range(SEEDS)
    ])  # fmt: skip
    assert errors.numel() > 25_000 and exact.max() > (0.85 if kind == "correlated" else 0.0)
    assert errors.abs().quantile(0.99) < 0.03
    # The standard error that the documentation states.
    stated = (1 - exact**2) / DIM**0.5
    ratio = (errors / stated).square().mean().sqrt()
    assert 0.85 < ratio < 1.1, ratio


def sampled(x: torch.Tensor, y: torch.Tensor, dim: int, seeds: int) -> torch.Tensor:
    """fp64 [seeds] of <S x, S y>."""
    return torch.stack([zk.sketch([x], s, dim) @ zk.sketch([y], s, dim) for s in range(seeds)])


@pytest.mark.parametrize("concentrated", [False, True], ids=["spread", "concentrated"])
def test_inner_products_are_unbiased_and_their_variance_is_the_stated_one(concentrated):
    dim, seeds, n = 256, 4000, 1024
    g = torch.Generator().manual_seed(2)
    x, y = torch.randn(2, n, generator=g)
    y = y + 0.5 * x
    if concentrated:  # eight elements of different blocks hold all but a thousandth
        x[::128] *= 100.0
        y[::128] *= 100.0
    found = sampled(x, y, dim, seeds)
    x, y = x.double(), y.double()
    exact, blocks = x @ y, (x * y).view(-1, 128).sum(1)
    # Pairs of one block never meet, so they leave the sum over all pairs.
    inside = x.square().view(-1, 128).sum(1) @ y.square().view(-1, 128).sum(1)
    variance = x.square().sum() * y.square().sum() + exact**2 - inside - blocks.square().sum()
    variance = variance / dim
    bound = (x.square().sum() * y.square().sum() + exact**2 - 2 * (x * y).square().sum()) / dim
    assert variance < bound
    assert abs(found.mean() - exact) < 4 * (variance / seeds) ** 0.5
    spread = 0.3 if concentrated else 0.1  # rare and large errors: their square varies more
    assert abs(found.var() / variance - 1) < spread


def test_its_randomness_is_not_the_noise_of_training():
    """A sketch of the noise under its own seed is that of any random vector."""
    n = zk.noise(49_152, 5, distribution="rademacher")
    squares = zk.sketch([n], 5, 1024).square().sum() / n.square().sum()
    assert abs(squares - 1) < 5 * (2 / 1024) ** 0.5
