"""Properties of the primitive over what hypothesis draws: cuts, strides, threads, backends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernels.bits import assert_same_bits
from kernels.cases import DTYPES, KEPT
from kernels.teams import team_of
from torch import Tensor

import zopro_kernels as zk
from zopro_kernels.dispatch import backends

AVAILABLE = [name for name in ("reference", "cpu", "triton") if backends().get(name) == "available"]
ON_CPU = [name for name in AVAILABLE if name != "triton"]
# Large cases are not shrunk: that takes minutes, and says no more.
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
TILE = 4096  # a thread has at least four of them: csrc/cpu/tiles.h


def drawn(data: st.DataObject, count: int | None = None) -> dict[str, Any]:
    """Keywords of `add_noise_` but for tensors, prev and v; count: of seeds (default: 1 to 3)."""
    count = data.draw(st.integers(1, 3)) if count is None else count
    return dict(
        seeds=[data.draw(st.integers(0, 2**64 - 1)) for _ in range(count)],
        coeffs=[data.draw(st.floats(-4, 4, width=32)) for _ in range(count)],
        streams=[data.draw(st.integers(0, 2**32 - 1)) for _ in range(count)],
        decay=data.draw(st.floats(-2, 2, width=32)),
        distribution=data.draw(st.sampled_from(["rademacher", "gaussian"])),
        rounding=data.draw(st.sampled_from(["nearest", "stochastic"])),
        rounding_seed=data.draw(st.integers(0, 2**64 - 1)),
    )


def normal(data: st.DataObject, *shape: int) -> Tensor:
    """A tensor that the drawn seed decides."""
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    )


def targets(data: st.DataObject, numels: list[int], offsets: list[int]) -> dict[str, Any]:
    """offsets and prev, v, both or none, in a drawn form, with their coefficients."""
    keep, found = KEPT[data.draw(st.sampled_from(sorted(KEPT)))], {"offsets": offsets}
    for name in data.draw(st.sampled_from([(), ("prev",), ("v",), ("prev", "v")])):
        found[name] = [keep(normal(data, n), o) for n, o in zip(numels, offsets)]
        found[f"{name}_coeffs"] = data.draw(st.floats(-2, 2, width=32))
    return found


@pytest.mark.parametrize("backend", ON_CPU)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_cuts_and_strides_change_no_bit(backend, data):
    """One tensor, drawn, against itself: permuted, and in parts at drawn places."""
    shape = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    order = data.draw(st.permutations(range(len(shape))))
    offset = data.draw(st.integers(0, 2**62))
    kw = drawn(data) | {"prev_coeffs": data.draw(st.floats(-2, 2, width=32)), "backend": backend}
    start = normal(data, *shape).to(data.draw(st.sampled_from(DTYPES)))
    prev, whole = normal(data, *shape), start.clone()
    zk.add_noise_([whole], params=[5], offsets=[offset], prev=[prev], **kw)

    inverse = [order.index(i) for i in range(len(shape))]
    permuted = start.permute(order).clone(memory_format=torch.contiguous_format).permute(inverse)
    zk.add_noise_([permuted], params=[5], offsets=[offset], prev=[prev], **kw)
    assert_same_bits(permuted.contiguous(), whole, f"order {order}")

    cuts = sorted(data.draw(st.lists(st.integers(0, start.numel()), max_size=3)))
    parts = list(start.flatten().clone().tensor_split(cuts))
    starts = [offset, *(offset + cut for cut in cuts)]
    pieces = list(prev.flatten().tensor_split(cuts))
    zk.add_noise_(parts, params=[5] * len(parts), offsets=starts, prev=pieces, **kw)
    assert_same_bits(torch.cat(parts), whole.flatten(), f"cuts {cuts}")


@pytest.mark.skipif("cpu" not in AVAILABLE, reason="the C++ module is not there")
@settings(max_examples=12, deadline=None, phases=UNSHRUNK)
@given(st.data())
def test_teams_of_threads_change_no_bit(data):
    """A tensor large enough for a team, by one thread and by several, against the reference."""
    numel = data.draw(st.integers(8 * TILE, 30 * TILE))
    threads = data.draw(st.integers(2, 7))
    offset = data.draw(st.integers(0, 2**62))
    kw = drawn(data) | targets(data, [numel], [offset]) | {"params": [7]}
    start = normal(data, numel).to(data.draw(st.sampled_from(DTYPES)))
    expected, alone, together = (start.clone() for _ in range(3))
    zk.add_noise_([expected], backend="reference", **kw)
    assert team_of(lambda: zk.add_noise_([alone], backend="cpu", **kw), 1) == 1
    team = team_of(lambda: zk.add_noise_([together], backend="cpu", **kw), threads)
    tiles = (offset + numel - 1) // TILE - offset // TILE + 1
    assert team == min(threads, tiles // 4) > 1
    assert_same_bits(alone, expected, "one thread")
    assert_same_bits(together, expected, f"{team} threads")


@pytest.mark.parametrize("backend", [name for name in AVAILABLE if name != "reference"])
@settings(max_examples=4, deadline=None)
@given(st.data())
def test_backends_agree_with_the_reference(backend, data):
    """Two small tensors, drawn, with their targets and offsets."""
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    numels = data.draw(st.lists(st.integers(1, 3000), min_size=2, max_size=2))
    kw = drawn(data) | targets(data, numels, [data.draw(st.integers(0, 2**62)) for _ in numels])
    dtype = data.draw(st.sampled_from(DTYPES))
    expected = [normal(data, n).to(dtype) for n in numels]
    found = [x.clone().to(device) for x in expected]
    zk.add_noise_(expected, backend="reference", **kw)
    for name in {"prev", "v"} & kw.keys():
        kw[name] = [x.to(device) for x in kw[name]]
    zk.add_noise_(found, backend=backend, **kw)
    for a, b in zip(found, expected):
        assert_same_bits(a, b, backend)
