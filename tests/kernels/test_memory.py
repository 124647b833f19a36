"""A pass needs no memory to speak of, however the tensors lie in theirs."""

from __future__ import annotations

import pytest
import torch
from kernels.bits import assert_same_bits
from torch.profiler import ProfilerActivity, profile

import zopro_kernels as zk

LIMIT = 1 << 20
ROWS, COLUMNS = 2048, 4096  # 8 M elements


def peak_bytes(work) -> int:
    """The most bytes that torch held at once during `work`, from the profiler's allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    held = most = 0
    for event in sorted(found.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def test_the_measure_sees_a_copy():
    x = torch.ones(1 << 20)
    assert (1 << 22) <= peak_bytes(lambda: x.clone().clone()) < (1 << 23) + 4096


LAYOUTS = {
    "dense": lambda x: x.contiguous(),
    "transposed": lambda x: x.t().contiguous().t(),
    "every other row": lambda x: x.repeat_interleave(2, 0)[::2],
    "every other column": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "short rows": lambda x: x.view(-1, 64).repeat(1, 2)[:, :64],
}


@pytest.mark.skipif(zk.backends()["cpu"] != "available", reason="the C++ module is not built")
@pytest.mark.parametrize(
    ("theta", "others"),
    [("transposed", "transposed"), ("dense", "transposed"), ("every other row", "dense"),
     ("every other column", "every other row"), ("short rows", "short rows"), ("dense", "dense")],
)  # fmt: skip
def test_eight_million_elements_take_no_more_than_one_mebibyte(theta, others):
    generator = torch.Generator().manual_seed(0)
    base, prev, v = (torch.randn(ROWS, COLUMNS, generator=generator) for _ in range(3))
    x = LAYOUTS[theta](base)
    prev, v = (LAYOUTS[others](p.view_as(x)) for p in (prev, v))
    assert x.is_contiguous() == (theta == "dense")
    expected = base.clone().view_as(x)
    kw = dict(decay=0.9, prev_coeffs=0.5, v_coeffs=-0.25, params=[4], backend="cpu")

    def work(target, prev, v):
        zk.add_noise_([target], [9], [0.1], prev=[prev], v=[v], **kw)

    assert peak_bytes(lambda: work(x, prev, v)) <= LIMIT
    work(expected, prev.contiguous(), v.contiguous())
    assert_same_bits(x.contiguous(), expected)
