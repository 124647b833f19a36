"""Many passes in one over the memory: the bits of the passes made one by one."""

from __future__ import annotations

import itertools

import pytest
import torch
from kernels.bits import assert_same_bits
from kernels.cases import DTYPES, KEPT, TARGETS, make_sequence, options_of

import zopro_kernels as zk
from zopro_kernels import reference
from zopro_kernels.dispatch import backends
from zopro_kernels.passes import PassSequence

SIZES = (3, 1023, 4096, 20_011)
ON_CPU = [name for name in ("reference", "cpu") if backends()[name] == "available"]


def one_by_one(s: PassSequence) -> list[torch.Tensor]:
    for record in s.records:
        reference.add_noise_(s.single(*record))
    return s.tensors


def compare(perform, make) -> None:
    """`perform` on make(device) against the reference's passes; both sequences are made anew."""
    ours = make()
    perform(ours)
    for t, (a, b) in enumerate(zip(ours.tensors, one_by_one(make()))):
        assert_same_bits(a.cpu(), b, f"tensor {t}")


def record(j: int, seeds: int, rounding: str) -> zk.Record:
    return zk.Record(
        [2**63 + 7 * j + k for k in range(seeds)],
        [[0.01 * (j + k + 1), 0.02 * (k - j)] for k in range(seeds)]
        if seeds == 2 else [0.01 * (j + k + 1) for k in range(seeds)],
        decay=[1.0, 0.99 - 0.01 * j], streams=list(range(seeds)),
        rounding_seed=j if rounding == "stochastic" else None, prev_coeffs=0.3 + j, v_coeffs=-0.2,
    )  # fmt: skip


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("rounding", ("nearest", "stochastic"))
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_the_loop_over_add_noise(backend, distribution, rounding):
    """Of strided tensors, too, and of dtypes mixed in one call."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((70, 130), (9001,))

    def made(dtype, strided):
        tensors = [torch.randn(s, generator=generator.manual_seed(1)) for s in shapes]
        tensors = [tensors[0].to(dtype), tensors[1].to(torch.bfloat16)]
        if strided:
            tensors[0] = tensors[0].t().contiguous().t()
        return tensors

    records = [record(j, k, rounding) for j, k in enumerate((1, 2, 0, 1))]
    for dtype, form, strided in zip(DTYPES, KEPT, (True, False, True)):
        beside = [
            [KEPT[form](torch.randn(s, generator=generator), o) for s, o in zip(shapes, (5, 0))]
            for _ in range(2)
        ]
        common = dict(
            distribution=distribution, params=[3, 1], offsets=[5, 0], rounding=rounding,
            prev=beside[0], v=beside[1], backend=backend,
        )  # fmt: skip
        ours, theirs = made(dtype, strided), made(dtype, strided)
        zk.add_noise_sequence_(ours, iter(records), **common)
        for r in records:
            zk.add_noise_(
                theirs, r.seeds, r.coeffs, decay=r.decay, streams=r.streams,
                rounding_seed=r.rounding_seed, prev_coeffs=r.prev_coeffs, v_coeffs=r.v_coeffs,
                **common,
            )  # fmt: skip
        for a, b in zip(ours, theirs):
            assert_same_bits(a, b, f"{dtype} {form} {strided}")


@pytest.mark.skipif("cpu" not in ON_CPU, reason="the C++ module is not there")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_cpu(distribution, dtype):
    from zopro_kernels import cpu

    for (targets, form), stochastic in itertools.product(TARGETS, (False, True)):
        options = options_of(targets, form, stochastic)
        compare(
            cpu.add_noise_sequence_,
            lambda o=options: make_sequence(dtype, "cpu", distribution, sizes=SIZES, **o),
        )


def test_no_record_writes_nothing():
    x = torch.ones(5)
    zk.add_noise_sequence_([x], [])
    zk.add_noise_sequence_([], [zk.Record([1], [1.0])])
    assert (x == 1).all()


@pytest.mark.parametrize(
    "records, error, message",
    (
        ([zk.Record([1], [1.0]), zk.Record([1], [1.0, 2.0])], ValueError, "coeffs has shape"),
        ([zk.Record([1], [1.0]), zk.Record([1], [float("inf")])], ValueError, "not finite"),
        ([zk.Record([1], [1.0]), ([1], [1.0])], TypeError, r"records\[1\] is a tuple: give a zk"),
        ([zk.Record([2**64], [1.0])], ValueError, "seeds has 18446744073709551616"),
    ),
)
def test_refusals_write_nothing(records, error, message):
    x = torch.ones(8)
    with pytest.raises(error, match=message):
        zk.add_noise_sequence_([x], records)
    with pytest.raises(ValueError, match="rounding='up' is not known"):
        zk.add_noise_sequence_([x], records[:1], rounding="up")
    assert (x == 1).all()


def test_a_record_that_is_not_finite_on_the_device_writes_nothing():
    x, expected = torch.ones(8), torch.ones(8)
    zk.add_noise_([expected], [3], [0.5])
    bad = zk.Record([1], torch.tensor([float("nan")]))
    zk.add_noise_sequence_([x], [bad, zk.Record([3], [0.5])])
    assert_same_bits(x, expected)


def test_autograd_is_told():
    w = torch.ones(3, requires_grad=True)
    y = (w * w).sum()
    with torch.no_grad():
        zk.add_noise_sequence_([w], [zk.Record([1], [1.0])])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
