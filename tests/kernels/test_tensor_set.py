"""Prepared tensors: the bits of a plain list, whatever happens to the tensors between passes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from kernels.bits import assert_same_bits

import zopro_kernels as zk

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import host_time

SHAPES = [(16, 64), (5,), (3, 7), ()]


def made(dtype=torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def compare(prepared: zk.TensorSet, expected: list[torch.Tensor], **options) -> None:
    """One pass over both; `expected` are equal copies, not prepared."""
    zk.add_noise_(prepared, [3, 2**64 - 1], [0.5, -2.0], decay=0.9, **options)
    zk.add_noise_(expected, [3, 2**64 - 1], [0.5, -2.0], decay=0.9, **options)
    for t, (a, b) in enumerate(zip(prepared.tensors, expected)):
        assert_same_bits(a, b, f"tensor {t}")


CHANGES = {
    "nothing": lambda x: None,
    "data": lambda x: setattr(x[0], "data", torch.ones(16, 64)),
    "data of another shape": lambda x: setattr(x[0], "data", torch.ones(70, 64)),
    "strides": lambda x: setattr(x[0], "data", torch.ones(64, 16).t()),
    "dtype": lambda x: setattr(x[0], "data", torch.ones(16, 64).bfloat16()),
    "all dtypes": lambda x: [setattr(t, "data", t.data.half()) for t in x],
    "resize to more": lambda x: x[1].resize_(4096).fill_(1.0),
    "into one memory": lambda x: setattr(x[1], "data", x[0].data.view(-1)[7:12].clone()[:4]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_set_sees_what_happens_to_its_tensors(change):
    prepared = zk.TensorSet(made())
    expected = made()
    compare(prepared, expected)
    CHANGES[change](prepared.tensors)
    expected = [t.clone() for t in prepared.tensors]
    for _ in range(2):
        compare(prepared, expected, rounding="stochastic")


def test_another_shape_in_the_same_memory_is_seen_by_refreshed():
    prepared = zk.TensorSet(made())
    assert not prepared.refreshed()
    prepared.tensors[0].data = prepared.tensors[0].data[:5]
    assert prepared.refreshed() and not prepared.refreshed()
    compare(prepared, [t.clone() for t in prepared.tensors])
    prepared.tensors[0].data = prepared.tensors[0].data.t()
    assert prepared.refreshed()
    compare(prepared, [t.clone() for t in prepared.tensors])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None], ids=str)
def test_companions_params_and_offsets_are_the_sets_own(dtype):
    x = made(dtype or torch.float32)
    if dtype is None:  # of two dtypes, one not contiguous
        x[1], x[0] = x[1].half(), x[0].t().contiguous().t()
    own = dict(params=[9, 2**32 - 1, 0, 4], offsets=[0, 5, 2**33 + 1, 8], prev=made(), v=made())
    prepared, expected = zk.TensorSet(x, **own), [t.clone() for t in x]
    more = dict(prev_coeffs=[0.5, 1.0, 0.0, 2.0], v_coeffs=-0.25)
    zk.add_noise_(prepared, torch.tensor([7]), torch.tensor([0.5]), **more)
    zk.add_noise_(expected, [7], [0.5], **own, **more)
    for t, (a, b) in enumerate(zip(prepared.tensors, expected)):
        assert_same_bits(a, b, f"tensor {t}")
    with pytest.raises(ValueError, match="params, offsets, prev and v belong to the TensorSet"):
        zk.add_noise_(prepared, [7], [0.5], params=[1, 2, 3, 4])


def test_dots_of_a_set_and_seeds_from_memory():
    vectors, params = made(), [3, 1, 4, 1]
    prepared = zk.TensorSet(vectors, params=params)
    expected = zk.noise_dots(vectors, 2**64 - 3, stream=2**32 - 1, params=params)
    seed, stream = torch.tensor(-3), torch.tensor([2**32 - 1])
    assert torch.equal(zk.noise_dots(prepared, seed, stream=stream), expected)
    prepared.tensors[0].data = torch.zeros(16, 64)
    assert zk.noise_dots(prepared, 5)[0, 0] == 0.0
    with pytest.raises(TypeError, match="use a TensorSet of float32, bfloat16 or Int8"):
        zk.noise_dots(zk.TensorSet(made(torch.half)), 5)


def test_a_change_that_does_not_fit_is_told_before_anything_is_written():
    x, prev = made(), made()
    prepared = zk.TensorSet(x, prev=prev)
    x[0].data = torch.ones(3)
    with pytest.raises(ValueError, match=r"prev\[0\] is \(16, 64\) on cpu where its tensor is"):
        zk.add_noise_(prepared, [1], [1.0])
    assert all(torch.equal(a, b) for a, b in zip(x[1:], made()[1:])) and (x[0] == 1).all()


def test_autograd_sees_the_writes_of_a_set():
    p = torch.ones(3, requires_grad=True)
    prepared, loss = zk.TensorSet([p]), (p * p).sum()
    zk.add_noise_(prepared, [1], [1.0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_host_time_does_not_grow_by_a_loop_over_tensors(monkeypatch):
    """CPU time of this thread, generous: a loop of Python that checks takes ten times as long."""
    host_time.idle(monkeypatch.setattr)
    assert host_time.microseconds(host_time.scalars_pass(300, True)) < 100
    one, many = (host_time.microseconds(host_time.write(n, True)) for n in (1, 300))
    assert many - one < 200
