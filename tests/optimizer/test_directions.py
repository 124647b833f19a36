"""Seeds: distinct, reproducible, and no global generator touched."""

import random

import numpy
import torch

from zopro import ZOPrO
from zopro.seeds import CALIBRATION, DIRECTION, ROUNDING, derive_seed

from .helpers import parameters, quadratic


def test_seeds_are_distinct_over_steps_purposes_and_bases():
    seeds = {
        derive_seed(base, purpose, counter)
        for base in range(5)
        for purpose in (DIRECTION, ROUNDING, CALIBRATION)
        for counter in range(2000)
    }
    assert len(seeds) == 5 * 3 * 2000
    assert all(0 <= s < 2**64 for s in seeds)
    bits = torch.tensor([[(s >> b) & 1 for b in range(64)] for s in seeds], dtype=torch.float64)
    assert ((bits.mean(0) - 0.5).abs() < 4.5 * 0.5 / len(seeds) ** 0.5).all()


def test_seeds_stay_what_they_are():
    """A log names seeds by step: changing the derivation would silently replay another run."""
    assert derive_seed(0, DIRECTION, 0) == 2558736989570252433
    assert derive_seed(2**64 - 1, ROUNDING, 123) == 7868585972680632815


def test_global_generators_are_left_alone():
    params = parameters((20,), dtype=torch.bfloat16)
    torch.manual_seed(1), random.seed(1), numpy.random.seed(1)
    expected = (torch.rand(3), random.random(), numpy.random.rand())
    torch.manual_seed(1), random.seed(1), numpy.random.seed(1)
    opt = ZOPrO(params, eps="auto", restore="inplace", distribution="gaussian")
    for _ in range(3):
        opt.step(quadratic(params))
    got = (torch.rand(3), random.random(), numpy.random.rand())
    assert torch.equal(got[0], expected[0]) and got[1:] == expected[1:]


def test_same_seed_same_path_other_seed_other_path():
    ends = []
    for seed in (3, 3, 4):
        params = parameters((20,), (2, 3))
        opt = ZOPrO(params, lr=1e-2, seed=seed)
        torch.manual_seed(len(ends))  # the global generator has no say
        for _ in range(4):
            opt.step(quadratic(params))
        ends.append(torch.cat([p.detach().flatten() for p in params]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
