"""Triton kernels: the pass over the weights and the reduction v.n, n.n, all tensors in one launch.

A program takes one chunk: TILES * 4,096 elements of the global index space of one tensor, aligned
to the law's tiles. Chunks that lie wholly inside a tensor whose elements can be reached 16 bytes
at a time go that way; all others go element by element under a mask. Addresses come as integers
(table.py), elements in [n, 8] blocks whose rows hold eight consecutive elements: 16 bytes of bf16
a thread.

Arguments of all kernels; the arrays (table.py has their layout) lie in device memory:
table     int64 [T, 8]      one descriptor a tensor
scales    int64 [T, 2]      addresses of the scales of prev and v; read if FORM is int8
integers  int64 [1 + 2 K]   rounding seed, seeds, streams
floats    fp32 [T, 4 + K]   decay, prev_coeff, v_coeff, live (0: nothing is written), coeffs
normals   fp32 [2048]       the law's Gaussian table
count, seeds                T and K
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_access import _locate, _mask, _reach, _read, _read_kept
from .triton_law import (
    GAUSSIAN,
    NATIVE,
    RADEMACHER,
    gaussian8,
    narrow,
    random_words,
    rounding_bits,
    signed,
)


@triton.jit
def _add_targets(
    acc, tensor, scale, start, at, AHEAD: tl.constexpr, block, HAS_PREV: tl.constexpr,
    HAS_V: tl.constexpr, FORM: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """acc plus prev and v by their coefficients. acc fp32 and at int32 [n, 8]; block uint64 [n]."""
    if HAS_PREV:
        acc += tl.load(scale + 1) * _read_kept(tensor, 1, start, at, AHEAD, block, FORM, MASKED)
    if HAS_V:
        acc += tl.load(scale + 2) * _read_kept(tensor, 2, start, at, AHEAD, block, FORM, MASKED)
    return acc


@triton.jit
def _store(
    value, tensor, start, at, AHEAD: tl.constexpr, DTYPE: tl.constexpr, MASKED: tl.constexpr
):
    """value [n, 8]: as `narrow` makes it."""
    STORED: tl.constexpr = DTYPE if NATIVE or DTYPE == tl.float32 else tl.uint16
    pointers = _reach(tensor[0], start, at, AHEAD, STORED, MASKED)
    if MASKED:
        tl.store(pointers, value, mask=_mask(tensor[3], start, at + AHEAD))
    else:
        tl.store(pointers, value)


@triton.jit
def _finish(
    acc, tensor, scale, start, at, AHEAD: tl.constexpr, block, rounding_seed, DTYPE: tl.constexpr,
    STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr, HAS_V: tl.constexpr, FORM: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Adds prev and v, rounds once, stores."""
    acc = _add_targets(acc, tensor, scale, start, at, AHEAD, block, HAS_PREV, HAS_V, FORM, MASKED)
    random = 0
    if STOCHASTIC:
        random = rounding_bits(block, rounding_seed, tensor[4])
    _store(narrow(acc, random, DTYPE, STOCHASTIC), tensor, start, at, AHEAD, DTYPE, MASKED)


@triton.jit
def _words(integers, seeds, k, block, param, DOMAIN: tl.constexpr):
    seed, stream = tl.load(integers + 1 + k), tl.load(integers + 1 + seeds + k)
    return random_words(block, DOMAIN, seed.to(tl.uint64), param, stream.to(tl.uint32))


@triton.jit
def _add_signs(acc, coeff, words, FIRST: tl.constexpr):
    """acc, a tuple of fp32 [n, 8], one a tile row from FIRST on, plus coeff * signs."""
    out = ()
    for r in tl.static_range(len(acc)):
        out = out + (acc[r] + signed(coeff, words[(FIRST + r) // 4], FIRST + r),)
    return out


@triton.jit
def _sign_places(tile, TILES: tl.constexpr):
    """Of each call of the chunk's tiles: block; i >> 3 at row 0; place in the chunk [n, 8]."""
    call = tl.arange(0, 32 * TILES)
    at = ((call >> 5) * 4096 + (call & 31) * 8)[:, None] + tl.arange(0, 8)[None, :]
    group = tile * 512 + (call >> 5) * 512 + (call & 31)
    return (tile * 32 + call).to(tl.uint64), group.to(tl.uint64), at


@triton.jit
def _sign_chunk(
    tensor, scale, integers, seeds, tile, start, TILES: tl.constexpr, SINGLE: tl.constexpr,
    DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr, HAS_V: tl.constexpr,
    FORM: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One Philox call a lane and seed serves its sixteen rows of eight elements.

    One seed: four rows at a time are loaded, then stored (few registers, many programs at once).
    Several: all sixteen are held, so that each seed's call is made once.
    """
    ROWS: tl.constexpr = 4 if SINGLE else 16
    block, group, at = _sign_places(tile, TILES)
    decay, rounding_seed = tl.load(scale), tl.load(integers).to(tl.uint64)
    if SINGLE:
        words = _words(integers, seeds, 0, block, tensor[4], RADEMACHER)
    for first in tl.static_range(0, 16, ROWS):
        acc = ()
        for r in tl.static_range(ROWS):
            x = _read(tensor, 0, start, at, (first + r) * 256, DTYPE, MASKED)
            acc = acc + (decay * x,)
        if SINGLE:
            acc = _add_signs(acc, tl.load(scale + 4), words, first)
        else:
            k = seeds * 0
            while k < seeds:
                words = _words(integers, seeds, k, block, tensor[4], RADEMACHER)
                acc = _add_signs(acc, tl.load(scale + 4 + k), words, first)
                k += 1
        for r in tl.static_range(ROWS):
            _finish(
                acc[r], tensor, scale, start, at, (first + r) * 256, group + (first + r) * 32,
                rounding_seed, DTYPE, STOCHASTIC, HAS_PREV, HAS_V, FORM, MASKED,
            )  # fmt: skip


@triton.jit
def _gaussian_chunk(
    tensor, scale, integers, seeds, normals, tile, start, TILES: tl.constexpr,
    GROUPS: tl.constexpr, DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr,
    HAS_V: tl.constexpr, FORM: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One Philox call and eight look-ups a seed give eight consecutive elements."""
    group = tl.arange(0, GROUPS)
    block = (tile * 512 + group).to(tl.uint64)
    at = (group * 8)[:, None] + tl.arange(0, 8)[None, :]
    decay, rounding_seed = tl.load(scale), tl.load(integers).to(tl.uint64)
    step = seeds * 0
    while step < TILES * 512 // GROUPS:
        acc = decay * _read(tensor, 0, start, at, 0, DTYPE, MASKED)
        k = seeds * 0
        while k < seeds:
            words = _words(integers, seeds, k, block, tensor[4], GAUSSIAN)
            acc += tl.load(scale + 4 + k) * gaussian8(words, normals)
            k += 1
        _finish(
            acc, tensor, scale, start, at, 0, block, rounding_seed, DTYPE, STOCHASTIC, HAS_PREV,
            HAS_V, FORM, MASKED,
        )  # fmt: skip
        start += GROUPS * 8
        block += GROUPS
        step += 1


@triton.jit(do_not_specialize=["count", "seeds"])
def add_signs(
    table, scales, integers, floats, count, seeds, TILES: tl.constexpr, SINGLE: tl.constexpr,
    DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr, HAS_V: tl.constexpr,
    FORM: tl.constexpr,
):  # fmt: skip
    """The pass with signs; a program a chunk. SINGLE: K is 1. Writes the tensors of `table`."""
    t, tensor, tile, start, inside = _locate(table, scales, count, tl.program_id(0), TILES, FORM)
    scale = floats + t * (4 + seeds)
    live = tl.load(scale + 3) != 0.0
    if live & inside:
        _sign_chunk(tensor, scale, integers, seeds, tile, start, TILES, SINGLE, DTYPE, STOCHASTIC,
                    HAS_PREV, HAS_V, FORM, False)  # fmt: skip
    elif live:
        _sign_chunk(tensor, scale, integers, seeds, tile, start, TILES, SINGLE, DTYPE, STOCHASTIC,
                    HAS_PREV, HAS_V, FORM, True)  # fmt: skip


@triton.jit(do_not_specialize=["count", "seeds"])
def add_gaussians(
    table, scales, integers, floats, normals, count, seeds, TILES: tl.constexpr,
    GROUPS: tl.constexpr, DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr,
    HAS_V: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """The pass with Gaussians; a program a chunk. Writes the tensors of `table`."""
    t, tensor, tile, start, inside = _locate(table, scales, count, tl.program_id(0), TILES, FORM)
    scale = floats + t * (4 + seeds)
    live = tl.load(scale + 3) != 0.0
    if live & inside:
        _gaussian_chunk(tensor, scale, integers, seeds, normals, tile, start, TILES, GROUPS, DTYPE,
                        STOCHASTIC, HAS_PREV, HAS_V, FORM, False)  # fmt: skip
    elif live:
        _gaussian_chunk(tensor, scale, integers, seeds, normals, tile, start, TILES, GROUPS, DTYPE,
                        STOCHASTIC, HAS_PREV, HAS_V, FORM, True)  # fmt: skip
