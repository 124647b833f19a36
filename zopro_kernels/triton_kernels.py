"""Triton kernels: the pass over the weights and the reduction v.n, n.n; one launch for all tensors.

A program takes one chunk: CHUNK elements of the global index space of one tensor, aligned to the
law's tiles of 4,096. Chunks that lie wholly inside a 16-byte aligned tensor, at an offset that is
a multiple of 8, go 16 bytes a thread; all others element by element under a mask.

Arguments common to the kernels (all in device memory, so that a captured launch can be replayed
with other values; the layout is table.py's):
table     int64 [T, 8]      descriptors, see table.py
integers  int64 [1 + 2 K]   rounding seed, seeds, streams (uint64 and uint32 as int64)
floats    fp32 [T, 3 + K]   decay, prev_coeff, v_coeff, coeffs
normals   fp32 [2048]       the law's Gaussian table
count, seeds                T and K
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_law import (
    GAUSSIAN,
    RADEMACHER,
    gaussian8,
    narrow,
    random_words,
    rounding_bits,
    signed,
    widen,
)

COLUMNS = tl.constexpr(8)  # of the table
TILE = tl.constexpr(4096)


@triton.jit
def _locate(table, count, chunk, CHUNK: tl.constexpr):
    """Row of the tensor that owns `chunk`; the chunk's first tile; its start inside the tensor."""
    low = count * 0
    high = count
    while high - low > 1:
        middle = (low + high) // 2
        before = tl.load(table + middle * COLUMNS + 6) <= chunk
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    row = table + low.to(tl.int64) * COLUMNS
    offset = tl.load(row + 4)
    tile = (offset >> 12) + (chunk - tl.load(row + 6)) * (CHUNK // TILE)
    return low, row, tile, tile * TILE - offset


@triton.jit
def _pointers(row, COLUMN: tl.constexpr, start, place, DTYPE: tl.constexpr, MASKED: tl.constexpr):
    base = tl.load(row + COLUMN).to(tl.pointer_type(DTYPE)) + start
    pointers = base + place
    if not MASKED:
        pointers = tl.max_contiguous(tl.multiple_of(pointers, (1, 16)), (1, 8))
    return pointers


@triton.jit
def _read(row, COLUMN: tl.constexpr, start, place, DTYPE: tl.constexpr, MASKED: tl.constexpr):
    pointers = _pointers(row, COLUMN, start, place, DTYPE, MASKED)
    if MASKED:
        at = start + place
        return tl.load(pointers, mask=(at >= 0) & (at < tl.load(row + 3)), other=0)
    return tl.load(pointers)


@triton.jit
def _write(row, start, place, value, DTYPE: tl.constexpr, MASKED: tl.constexpr):
    pointers = _pointers(row, 0, start, place, DTYPE, MASKED)
    if MASKED:
        at = start + place
        tl.store(pointers, value, mask=(at >= 0) & (at < tl.load(row + 3)))
    else:
        tl.store(pointers, value)


@triton.jit
def _finish(
    acc, row, scale, start, place, block, seed, param,
    DTYPE: tl.constexpr, STORED: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr,
    HAS_V: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Adds prev and v, rounds once and stores; acc fp32 [n, 8], block uint64 [n]: its i >> 3."""
    if HAS_PREV:
        acc += tl.load(scale + 1) * _read(row, 1, start, place, tl.float32, MASKED)
    if HAS_V:
        acc += tl.load(scale + 2) * _read(row, 2, start, place, tl.float32, MASKED)
    random = 0
    if STOCHASTIC:
        random = rounding_bits(block, seed, param)
    value = narrow(acc, random, DTYPE, STOCHASTIC, STORED == DTYPE)
    _write(row, start, place, value, STORED, MASKED)


@triton.jit
def _sign_rows(
    row, scale, integers, seeds, words, tile, start, param,
    FIRST: tl.constexpr, ROWS: tl.constexpr, TILES: tl.constexpr, SINGLE: tl.constexpr,
    DTYPE: tl.constexpr, STORED: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr,
    HAS_V: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Rows FIRST .. FIRST + ROWS - 1 of TILES tiles: all of them are loaded before one is stored."""
    call = tl.arange(0, 32 * TILES)
    place = ((call >> 5) * 4096 + (call & 31) * 8)[:, None] + tl.arange(0, 8)[None, :]
    decay = tl.load(scale)
    acc = ()
    for r in tl.static_range(ROWS):
        x = _read(row, 0, start, place + (FIRST + r) * 256, STORED, MASKED)
        acc = acc + (decay * widen(x, DTYPE, STORED == DTYPE),)
    if SINGLE:
        done = ()
        coeff = tl.load(scale + 3)
        for r in tl.static_range(ROWS):
            done = done + (acc[r] + signed(coeff, words[(FIRST + r) // 4], FIRST + r),)
        acc = done
    else:
        k = seeds * 0
        while k < seeds:
            seed, stream = tl.load(integers + 1 + k), tl.load(integers + 1 + seeds + k)
            block = (tile * 32 + call).to(tl.uint64)
            words = random_words(
                block, RADEMACHER, seed.to(tl.uint64), param, stream.to(tl.uint32)
            )
            coeff = tl.load(scale + 3 + k)
            done = ()
            for r in tl.static_range(ROWS):
                done = done + (acc[r] + signed(coeff, words[(FIRST + r) // 4], FIRST + r),)
            acc = done
            k += 1
    seed = tl.load(integers).to(tl.uint64)
    for r in tl.static_range(ROWS):
        block = (tile * 512 + (call >> 5) * 512 + (FIRST + r) * 32 + (call & 31)).to(tl.uint64)
        _finish(
            acc[r], row, scale, start, place + (FIRST + r) * 256, block, seed, param,
            DTYPE, STORED, STOCHASTIC, HAS_PREV, HAS_V, MASKED,
        )  # fmt: skip


@triton.jit
def _sign_chunk(
    row, scale, integers, seeds, tile, start, param,
    TILES: tl.constexpr, SINGLE: tl.constexpr, DTYPE: tl.constexpr, STORED: tl.constexpr,
    STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr, HAS_V: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    if SINGLE:  # four rows at a time: few registers, many programs in flight
        seed, stream = tl.load(integers + 1), tl.load(integers + 2)
        block = (tile * 32 + tl.arange(0, 32 * TILES)).to(tl.uint64)
        words = random_words(block, RADEMACHER, seed.to(tl.uint64), param, stream.to(tl.uint32))
        for quad in tl.static_range(4):
            _sign_rows(
                row, scale, integers, seeds, words, tile, start, param, 4 * quad, 4, TILES, SINGLE,
                DTYPE, STORED, STOCHASTIC, HAS_PREV, HAS_V, MASKED,
            )  # fmt: skip
    else:  # all sixteen in registers, so that one call a seed serves them all
        _sign_rows(
            row, scale, integers, seeds, (0, 0, 0, 0), tile, start, param, 0, 16, TILES, SINGLE,
            DTYPE, STORED, STOCHASTIC, HAS_PREV, HAS_V, MASKED,
        )  # fmt: skip


@triton.jit
def _gaussian_chunk(
    row, scale, integers, seeds, normals, tile, start, param,
    TILES: tl.constexpr, GROUPS: tl.constexpr, DTYPE: tl.constexpr, STORED: tl.constexpr,
    STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr, HAS_V: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    group = tl.arange(0, GROUPS)
    place = (group * 8)[:, None] + tl.arange(0, 8)[None, :]
    decay = tl.load(scale)
    rounding_seed = tl.load(integers).to(tl.uint64)
    block = (tile * 512 + group).to(tl.uint64)
    step = seeds * 0
    while step < TILES * 512 // GROUPS:
        x = _read(row, 0, start, place, STORED, MASKED)
        acc = decay * widen(x, DTYPE, STORED == DTYPE)
        k = seeds * 0
        while k < seeds:
            seed, stream = tl.load(integers + 1 + k), tl.load(integers + 1 + seeds + k)
            w0, w1, w2, w3 = random_words(
                block, GAUSSIAN, seed.to(tl.uint64), param, stream.to(tl.uint32)
            )
            acc += tl.load(scale + 3 + k) * gaussian8(w0, w1, w2, w3, normals)
            k += 1
        _finish(
            acc, row, scale, start, place, block, rounding_seed, param,
            DTYPE, STORED, STOCHASTIC, HAS_PREV, HAS_V, MASKED,
        )  # fmt: skip
        start += GROUPS * 8
        block += GROUPS
        step += 1
