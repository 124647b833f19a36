"""What the tests of the reference implementation's defects share."""

import pytest
import torch

from zopro import ZOPrO

PLAIN = {"num_generations": 2, "beta": 0.0}


def fails_on(check, *faulty):
    with pytest.raises(AssertionError):
        check(*faulty)


def one(size=64, **options):
    """A parameter, its ZOPrO with targets, and the updates that aim it."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(size))
    opt = options.pop("cls", ZOPrO)([p], **options)
    prev, u = torch.randn(size), torch.randn(size)
    opt.set_targets([prev], [u], schedule="linear", steps=10)
    return p, opt


def square(p):
    return lambda: (p * p).sum()
