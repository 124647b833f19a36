"""Triton kernels of the reduction v.n and n.n in fixed point, all vectors in one launch.

Products are rounded to fp32, scaled by a power of two and truncated to integers, whose sums have
no order. Arguments as in triton_kernels.py; `sums` is int64 [T, 2], added to: v.n in units of
2^-40, n.n in units of 2^-24 (of signs n.n is the number of elements: the caller knows it).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_access import _locate, _mask, _read_kept
from .triton_kernels import _sign_places, _words
from .triton_law import GAUSSIAN, RADEMACHER, gaussian8, signed


@triton.jit
def _fixed(product, SCALE: tl.constexpr):
    return (product * SCALE).to(tl.int64)  # truncates toward zero


@triton.jit
def _sign_sum(
    tensor, integers, tile, start, TILES: tl.constexpr, FORM: tl.constexpr, MASKED: tl.constexpr
):
    block, group, at = _sign_places(tile, TILES)
    words = _words(integers, 1, 0, block, tensor[4], RADEMACHER)
    total = tl.zeros((32 * TILES, 8), tl.int64)
    for row in tl.static_range(16):
        # 0 outside the tensor
        x = _read_kept(tensor, 0, start, at, row * 256, group + row * 32, FORM, MASKED)
        one = tl.full((), 1.0, tl.float32)
        total += _fixed(x * signed(one, words[row // 4], row), 1099511627776.0)
    return tl.sum(tl.sum(total, 1), 0)


@triton.jit
def _gaussian_sums(
    tensor, integers, normals, tile, start, TILES: tl.constexpr, GROUPS: tl.constexpr,
    FORM: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    group = tl.arange(0, GROUPS)
    block = (tile * 512 + group).to(tl.uint64)
    at = (group * 8)[:, None] + tl.arange(0, 8)[None, :]
    vn = tl.zeros((GROUPS, 8), tl.int64)
    nn = tl.zeros((GROUPS, 8), tl.int64)
    step = tl.program_id(0) * 0
    while step < TILES * 512 // GROUPS:
        x = _read_kept(tensor, 0, start, at, 0, block, FORM, MASKED)
        n = gaussian8(_words(integers, 1, 0, block, tensor[4], GAUSSIAN), normals)
        if MASKED:
            n = tl.where(_mask(tensor[3], start, at), n, 0.0)
        vn += _fixed(x * n, 1099511627776.0)
        nn += _fixed(n * n, 16777216.0)
        start += GROUPS * 8
        block += GROUPS
        step += 1
    return tl.sum(tl.sum(vn, 1), 0), tl.sum(tl.sum(nn, 1), 0)


@triton.jit(do_not_specialize=["count"])
def dot_signs(table, scales, integers, sums, count, TILES: tl.constexpr, FORM: tl.constexpr):
    """v.n of signs; a program a chunk."""
    t, tensor, tile, start, inside = _locate(table, scales, count, tl.program_id(0), TILES, FORM)
    if inside:
        tl.atomic_add(sums + 2 * t, _sign_sum(tensor, integers, tile, start, TILES, FORM, False))
    else:
        tl.atomic_add(sums + 2 * t, _sign_sum(tensor, integers, tile, start, TILES, FORM, True))


@triton.jit(do_not_specialize=["count"])
def dot_gaussians(
    table, scales, integers, normals, sums, count, TILES: tl.constexpr, GROUPS: tl.constexpr,
    FORM: tl.constexpr,
):  # fmt: skip
    """v.n and n.n of Gaussians; a program a chunk."""
    t, tensor, tile, start, inside = _locate(table, scales, count, tl.program_id(0), TILES, FORM)
    if inside:
        vn, nn = _gaussian_sums(tensor, integers, normals, tile, start, TILES, GROUPS, FORM, False)
    else:
        vn, nn = _gaussian_sums(tensor, integers, normals, tile, start, TILES, GROUPS, FORM, True)
    tl.atomic_add(sums + 2 * t, vn)
    tl.atomic_add(sums + 2 * t + 1, nn)
