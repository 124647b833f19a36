"""Properties of the primitive over what hypothesis draws: cuts, orders of strides, threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.bits import assert_same_bits

import zopro_kernels as zk
from zopro_kernels.dispatch import backends

ON_CPU = [name for name in ("reference", "cpu") if backends().get(name) == "available"]


@pytest.mark.parametrize("backend", ON_CPU)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_cuts_strides_and_threads_change_no_bit(backend, data):
    """One tensor, drawn, against itself: permuted, in parts at drawn places, by other threads."""
    shape = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    order = data.draw(st.permutations(range(len(shape))))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    offset = data.draw(st.integers(0, 2**62))
    threads = data.draw(st.integers(1, 3))
    count = data.draw(st.integers(1, 3))
    kw = dict(
        seeds=[data.draw(st.integers(0, 2**64 - 1)) for _ in range(count)],
        coeffs=[data.draw(st.floats(-4, 4, width=32)) for _ in range(count)],
        decay=data.draw(st.floats(-2, 2, width=32)),
        distribution=data.draw(st.sampled_from(["rademacher", "gaussian"])),
        rounding=data.draw(st.sampled_from(["nearest", "stochastic"])),
        rounding_seed=data.draw(st.integers(0, 2**64 - 1)),
        prev_coeffs=data.draw(st.floats(-2, 2, width=32)),
        backend=backend,
    )
    start, prev = torch.randn(shape).to(dtype), torch.randn(shape)
    whole = start.clone()
    zk.add_noise_([whole], params=[5], offsets=[offset], prev=[prev], **kw)

    inverse = [order.index(i) for i in range(len(shape))]
    permuted = start.permute(order).clone(memory_format=torch.contiguous_format).permute(inverse)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        zk.add_noise_([permuted], params=[5], offsets=[offset], prev=[prev], **kw)
    finally:
        torch.set_num_threads(before)
    assert_same_bits(permuted.contiguous(), whole, f"order {order}, {threads} threads")

    cuts = sorted(data.draw(st.lists(st.integers(0, start.numel()), max_size=3)))
    parts = list(start.flatten().clone().tensor_split(cuts))
    starts = [offset, *(offset + cut for cut in cuts)]
    pieces = list(prev.flatten().tensor_split(cuts))
    zk.add_noise_(parts, params=[5] * len(parts), offsets=starts, prev=pieces, **kw)
    assert_same_bits(torch.cat(parts), whole.flatten(), f"cuts {cuts}")
