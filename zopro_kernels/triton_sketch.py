"""Triton kernels of the sketch: csrc/include/zopro/sketch.h has the law.

A program of one warp sums a chunk in global memory (a few KiB: the nearest cache), block after
block. Program element k has the sums k, 128 + k, ... all along and gathers element k ^ r of each
block, so nothing that one thread stores is read by another. The calls are made once a warp and
block: with 32 lanes for 128 elements that is the greater part of the instructions.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_law import NATIVE, random_words, widen

SIGN = tl.constexpr(3)  # the law's domains
PLACE = tl.constexpr(4)


@triton.jit
def _pick(which, words):
    """Word `which` (uint32 [128], 0 to 3) of a call's four (uint32 [1])."""
    low = tl.where(which == 0, words[0], words[1])
    high = tl.where(which == 2, words[2], words[3])
    return tl.where(which < 2, low, high)


@triton.jit
def _tensor_of(table, count, chunk):
    low = count * 0
    high = count
    while high - low > 1:
        middle = (low + high) // 2
        before = tl.load(table + middle * 6 + 5) <= chunk
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    return table + low * 6


@triton.jit(do_not_specialize=["count", "first", "buckets"])
def sketch_chunks(table, integers, sums, count, first, buckets, DTYPE: tl.constexpr):
    """table: int64 [T, 6]; integers: int64 [2], seed and stream; sums: fp32 [programs, 128
    buckets], 0 before, chunks `first` + program after."""
    chunk = first + tl.program_id(0)
    row = _tensor_of(table, count, chunk)
    begin = tl.load(row + 2)
    start = ((begin >> 17) + chunk - tl.load(row + 5)) << 17
    low = tl.maximum(begin, start)
    high = tl.minimum(begin + tl.load(row + 1), start + 131072)
    seed, stream = tl.load(integers).to(tl.uint64), tl.load(integers + 1).to(tl.uint32)
    param = tl.load(row + 3).to(tl.uint32)
    STORED: tl.constexpr = DTYPE if NATIVE or DTYPE == tl.float32 else tl.uint16
    memory = tl.load(row).to(tl.pointer_type(STORED))
    k = tl.arange(0, 128).to(tl.uint32)
    one = tl.arange(0, 1).to(tl.uint64)  # calls are tensors of one element
    sums += tl.program_id(0).to(tl.int64) * buckets * 128
    quad = low >> 9
    while quad << 9 < high:
        places = random_words(one + quad.to(tl.uint64), PLACE, seed, param, stream)
        for which in tl.static_range(4):
            block = quad * 4 + which
            signs = random_words(one + block.to(tl.uint64), SIGN, seed, param, stream)
            bucket = ((places[which] >> 7).to(tl.uint64) * buckets) >> 25
            inside = k ^ (places[which] & 127)
            at = (block << 7) + inside.to(tl.int64)
            x = tl.load(memory + (at - begin), mask=(at >= low) & (at < high), other=0)
            sign = (_pick(inside >> 5, signs) << (31 - (inside & 31))) & 0x80000000
            x = (widen(x, DTYPE).to(tl.uint32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)
            to = sums + (bucket.to(tl.int64) * 128 + k)
            tl.store(to, tl.load(to) + x)
        quad += 1


@triton.jit(do_not_specialize=["count", "first", "chunks", "dim"])
def add_sketches(table, sums, out, count, first, chunks, dim):
    """Adds sums fp32 [chunks, dim] to the rows of out, fp64 [G, dim], in the order of the chunks.
    A program has 128 columns."""
    column = tl.program_id(0) * 128 + tl.arange(0, 128)
    chunk = first * 0
    while chunk < chunks:
        row = tl.load(_tensor_of(table, count, first + chunk) + 4)
        to = out + row * dim + column
        tl.store(to, tl.load(to) + tl.load(sums + chunk.to(tl.int64) * dim + column).to(tl.float64))
        chunk += 1
