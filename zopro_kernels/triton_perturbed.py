"""Triton kernels: the pass over perturbed copies of one tensor, each with its own stream.

Arguments, in device memory:
out       [K, numel]         copies of the tensor, written in place
prev, v   [R, numel], [numel]   FORM; or anything, where HAS_PREV or HAS_V is not
prev_scales, v_scales        fp32, of the blocks of prev and v; read if FORM is int8
integers  int64 [K, 4]       rounding seed, seed, stream, row of prev
floats    fp32 [K, 5]        decay, prev_coeff, v_coeff, live (0: nothing is written), coeff
normals   fp32 [2048]        the law's Gaussian table
numel, offset, param         of the tensor; aligned: 1 if 16-byte accesses fit
A program takes a tile of 4,096 elements (axis 0) of a copy (axis 1).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_kernels import _gaussian_chunk, _sign_chunk


@triton.jit
def _address(pointer):
    return pointer.to(tl.int64)


@triton.jit
def _place(
    out, prev, v, prev_scales, v_scales, integers, numel, offset, param, aligned,
    DTYPE: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """What triton_kernels' chunks work on: (tensor, tile, first element, whether 16 bytes fit)."""
    copy = tl.program_id(1).to(tl.int64)
    numel, offset = numel.to(tl.int64), offset.to(tl.int64)
    SIZE: tl.constexpr = DTYPE.primitive_bitwidth // 8
    KEPT: tl.constexpr = FORM.primitive_bitwidth // 8
    row = tl.load(integers + copy * 4 + 3)
    tile = (offset >> 12) + tl.program_id(0)
    start = tile * 4096 - offset
    before = (offset >> 8) * 4
    inside = (aligned != 0) & (start >= 0) & (start + 4096 <= numel)
    tensor = (
        _address(out) + copy * numel * SIZE, _address(prev) + row * numel * KEPT, _address(v),
        numel, param.to(tl.uint32), _address(prev_scales) - before, _address(v_scales) - before,
    )  # fmt: skip
    return copy, tensor, tile, start, inside


@triton.jit(do_not_specialize=["numel", "offset", "param", "aligned"])
def perturbed_signs(
    out, prev, v, prev_scales, v_scales, integers, floats, numel, offset, param, aligned,
    DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr, HAS_V: tl.constexpr,
    FORM: tl.constexpr,
):  # fmt: skip
    """Adds each copy's signs, prev and v to it. Writes `out`."""
    copy, tensor, tile, start, inside = _place(
        out, prev, v, prev_scales, v_scales, integers, numel, offset, param, aligned, DTYPE, FORM
    )
    scale, own = floats + copy * 5, integers + copy * 4
    live = tl.load(scale + 3) != 0.0
    if live & inside:
        _sign_chunk(tensor, scale, own, 1, tile, start, 1, True, DTYPE, STOCHASTIC, HAS_PREV, HAS_V,
                    FORM, False)  # fmt: skip
    elif live:
        _sign_chunk(tensor, scale, own, 1, tile, start, 1, True, DTYPE, STOCHASTIC, HAS_PREV, HAS_V,
                    FORM, True)  # fmt: skip


@triton.jit(do_not_specialize=["numel", "offset", "param", "aligned"])
def perturbed_gaussians(
    out, prev, v, prev_scales, v_scales, integers, floats, normals, numel, offset, param, aligned,
    GROUPS: tl.constexpr, DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr,
    HAS_V: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """Adds each copy's Gaussians, prev and v to it. Writes `out`."""
    copy, tensor, tile, start, inside = _place(
        out, prev, v, prev_scales, v_scales, integers, numel, offset, param, aligned, DTYPE, FORM
    )
    scale, own = floats + copy * 5, integers + copy * 4
    live = tl.load(scale + 3) != 0.0
    if live & inside:
        _gaussian_chunk(tensor, scale, own, 1, normals, tile, start, 1, GROUPS, DTYPE, STOCHASTIC,
                        HAS_PREV, HAS_V, FORM, False)  # fmt: skip
    elif live:
        _gaussian_chunk(tensor, scale, own, 1, normals, tile, start, 1, GROUPS, DTYPE, STOCHASTIC,
                        HAS_PREV, HAS_V, FORM, True)  # fmt: skip
