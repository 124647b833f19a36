"""Targets stored in bf16 or 8 bits: the formulas, of what is stored."""

import math

import pytest
import torch

import zopro_kernels as zk
from zopro import ZOPrO

from .helpers import noise_of
from .test_targets import formula

SHAPES = [(40, 30), (7,)]
FORMS = {"bf16": lambda x: x.to(torch.bfloat16).float(), "int8": lambda x: zk.quantise(x).float()}


def aimed(storage, reward, distribution="rademacher", d=0.5):
    generator = torch.Generator().manual_seed(4)
    prev, u = ([torch.randn(s, generator=generator) for s in SHAPES] for _ in range(2))
    params = [torch.nn.Parameter(torch.zeros(s)) for s in SHAPES]
    opt = ZOPrO(params, lr=0.0, eps=1.0, distribution=distribution, seed=3)
    opt.set_targets(prev, u if reward else None, schedule=lambda *_: d, storage=storage)
    with opt.perturbed(1):
        z = [p.detach().clone() for p in params]
    opt.step(lambda: 0.0)
    return opt, params, prev, u, z


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("reward", [True, False])
@pytest.mark.parametrize("storage", FORMS)
def test_a_direction_is_the_formulas_of_what_is_stored(storage, reward, distribution):
    opt, params, prev, u, z = aimed(storage, reward, distribution)
    prev = [FORMS[storage](x) for x in prev]
    v = [FORMS[storage](x / x.norm()) if reward else None for x in u]
    wanted = formula(noise_of(opt, params, 0, distribution), prev, v, 0.5, [0, 0])
    for got, x in zip(z, wanted):
        assert (got.double() - x).norm() <= 1e-6 * x.norm()


@pytest.mark.parametrize("storage", FORMS)
def test_it_is_orthogonal_to_the_stored_v(storage):
    _, _, _, u, z = aimed(storage, True, d=0.0)
    for x, p in zip(u, z):
        v = FORMS[storage](x / x.norm()).double()
        assert abs((v * p).sum()) < 3e-7 * v.norm() * p.norm()


def test_smaller_forms_are_near_fp32_and_smaller():
    z = {s: torch.cat([x.flatten() for x in aimed(s, True)[-1]]) for s in ("fp32", *FORMS)}
    for storage, least in (("bf16", 0.99999), ("int8", 0.9999)):
        cosine = torch.nn.functional.cosine_similarity(z[storage], z["fp32"], dim=0)
        assert cosine > least and not torch.equal(z[storage], z["fp32"])
    opt, params, *_ = aimed("int8", True)
    assert opt._targets.prev[params[0]].values.dtype == torch.int8
    assert len(opt._targets.prev[params[0]].scales) == math.ceil(1200 / 256)


def test_an_unknown_storage_is_refused_and_changes_nothing():
    opt = aimed("int8", True)[0]
    known = opt._targets
    with pytest.raises(ValueError, match="storage='int4' is not known: use one of 'fp32', 'bf16'"):
        opt.set_targets([torch.ones(s) for s in SHAPES], storage="int4")
    assert opt._targets is known
