"""Triton kernels of many passes in one: weights stay in registers through all records.

Programs, tables and paths as in triton_kernels.py. Each record's result is rounded to the weights'
dtype and widened again, so the bits are those of the passes made one by one. Beside those of
triton_kernels.py the arguments are:
records   int64 [R, 4]      places of a record's first integer and float, its K, 0
integers  int64             of each record 1 + 2 K; floats fp32: of each T rows of 4 + K
number                      R
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_access import _locate, _read
from .triton_kernels import _add_signs, _add_targets, _sign_places, _store, _words
from .triton_law import GAUSSIAN, RADEMACHER, gaussian8, narrow, rounding_bits, widen


@triton.jit
def _record(records, integers, floats, r, t):
    """Its integers, its floats of tensor t, K, and whether it writes the tensor."""
    place = records + r * 4
    seeds = tl.load(place + 2).to(tl.int32)
    scale = floats + tl.load(place + 1) + t * (4 + seeds)
    return integers + tl.load(place), scale, seeds, tl.load(scale + 3) != 0.0


@triton.jit
def _rounded(acc, block, rounding_seed, param, DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr):
    """What a pass would store and the next one read: fp32 [n, 8]."""
    random = 0
    if STOCHASTIC:
        random = rounding_bits(block, rounding_seed, param)
    return widen(narrow(acc, random, DTYPE, STOCHASTIC), DTYPE)


@triton.jit
def _sign_rows(
    acc, FIRST: tl.constexpr, tensor, scale, integers, seeds, block, group, start, at,
    DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr, HAS_V: tl.constexpr,
    FORM: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """A record on the rows of a tile from FIRST on, fp32 [n, 8] each."""
    decay, rounding_seed = tl.load(scale), tl.load(integers).to(tl.uint64)
    decayed = ()
    for r in tl.static_range(len(acc)):
        decayed = decayed + (decay * acc[r],)
    acc = decayed
    k = seeds * 0
    while k < seeds:
        words = _words(integers, seeds, k, block, tensor[4], RADEMACHER)
        acc = _add_signs(acc, tl.load(scale + 4 + k), words, FIRST)
        k += 1
    out = ()
    for r in tl.static_range(len(acc)):
        row = group + (FIRST + r) * 32
        x = _add_targets(
            acc[r], tensor, scale, start, at, (FIRST + r) * 256, row, HAS_PREV, HAS_V, FORM, MASKED
        )
        out = out + (_rounded(x, row, rounding_seed, tensor[4], DTYPE, STOCHASTIC),)
    return out


@triton.jit
def _sign_chunk(
    t, tensor, records, integers, floats, number, tile, start, TILES: tl.constexpr,
    DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr, HAS_V: tl.constexpr,
    FORM: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Sixteen rows at once where the registers hold them, so that each seed's call is made once;
    else eight (with sixteen ptxas spills 40 bytes of bf16 rounded stochastically)."""
    LIGHT: tl.constexpr = DTYPE != tl.float32 and not (STOCHASTIC or HAS_PREV or HAS_V)
    ROWS: tl.constexpr = 16 if LIGHT else 8
    block, group, at = _sign_places(tile, TILES)
    for first in tl.static_range(0, 16, ROWS):
        acc = ()
        for r in tl.static_range(ROWS):
            acc = acc + (_read(tensor, 0, start, at, (first + r) * 256, DTYPE, MASKED),)
        record, written = number * 0, number < 0
        while record < number:
            own, scale, seeds, live = _record(records, integers, floats, record, t)
            if live:
                acc = _sign_rows(acc, first, tensor, scale, own, seeds, block, group, start, at,
                                 DTYPE, STOCHASTIC, HAS_PREV, HAS_V, FORM, MASKED)  # fmt: skip
                written = live
            record += 1
        if written:
            for r in tl.static_range(ROWS):
                x = narrow(acc[r], 0, DTYPE, False)  # exact: it has been rounded
                _store(x, tensor, start, at, (first + r) * 256, DTYPE, MASKED)


@triton.jit
def _gaussian_chunk(
    t, tensor, records, integers, floats, normals, number, tile, start, TILES: tl.constexpr,
    GROUPS: tl.constexpr, DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr,
    HAS_V: tl.constexpr, FORM: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    group = tl.arange(0, GROUPS)
    block = (tile * 512 + group).to(tl.uint64)
    at = (group * 8)[:, None] + tl.arange(0, 8)[None, :]
    step = number * 0
    while step < TILES * 512 // GROUPS:
        acc = _read(tensor, 0, start, at, 0, DTYPE, MASKED)
        record, written = number * 0, number < 0
        while record < number:
            own, scale, seeds, live = _record(records, integers, floats, record, t)
            if live:
                acc *= tl.load(scale)
                k = seeds * 0
                while k < seeds:
                    words = _words(own, seeds, k, block, tensor[4], GAUSSIAN)
                    acc += tl.load(scale + 4 + k) * gaussian8(words, normals)
                    k += 1
                acc = _add_targets(
                    acc, tensor, scale, start, at, 0, block, HAS_PREV, HAS_V, FORM, MASKED
                )
                seed = tl.load(own).to(tl.uint64)
                acc = _rounded(acc, block, seed, tensor[4], DTYPE, STOCHASTIC)
                written = live
            record += 1
        if written:
            _store(narrow(acc, 0, DTYPE, False), tensor, start, at, 0, DTYPE, MASKED)
        start += GROUPS * 8
        block += GROUPS
        step += 1


@triton.jit(do_not_specialize=["count", "number"])
def add_signs_sequence(
    table, scales, records, integers, floats, count, number, TILES: tl.constexpr,
    DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr, HAS_V: tl.constexpr,
    FORM: tl.constexpr,
):  # fmt: skip
    """The passes with signs; a program a chunk. Writes the tensors of `table`."""
    t, tensor, tile, start, inside = _locate(table, scales, count, tl.program_id(0), TILES, FORM)
    if inside:
        _sign_chunk(t, tensor, records, integers, floats, number, tile, start, TILES, DTYPE,
                    STOCHASTIC, HAS_PREV, HAS_V, FORM, False)  # fmt: skip
    else:
        _sign_chunk(t, tensor, records, integers, floats, number, tile, start, TILES, DTYPE,
                    STOCHASTIC, HAS_PREV, HAS_V, FORM, True)  # fmt: skip


@triton.jit(do_not_specialize=["count", "number"])
def add_gaussians_sequence(
    table, scales, records, integers, floats, normals, count, number, TILES: tl.constexpr,
    GROUPS: tl.constexpr, DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr,
    HAS_V: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """The passes with Gaussians; a program a chunk. Writes the tensors of `table`."""
    t, tensor, tile, start, inside = _locate(table, scales, count, tl.program_id(0), TILES, FORM)
    if inside:
        _gaussian_chunk(t, tensor, records, integers, floats, normals, number, tile, start, TILES,
                        GROUPS, DTYPE, STOCHASTIC, HAS_PREV, HAS_V, FORM, False)  # fmt: skip
    else:
        _gaussian_chunk(t, tensor, records, integers, floats, normals, number, tile, start, TILES,
                        GROUPS, DTYPE, STOCHASTIC, HAS_PREV, HAS_V, FORM, True)  # fmt: skip
