"""Triton kernel: each group of sequences times its own perturbed copy of a weight, never stored.

    y[g] = x[g] (theta + c_g n(seed_g, stream_g) + a_g prev[row_g] + b_g v)^T

A program makes tiles of the copy in registers, in the weight's dtype with the bits of
perturbed_signs and perturbed_gaussians, and feeds them to the tensor cores. Where all columns fit
one tile (LoRA's B) it is made once and serves a range of tokens; else (LoRA's A) a program goes
through all columns for its tokens.

Arguments, in device memory:
x         [G, tokens, ins]   XTYPE
weight    [outs, ins]        DTYPE
y         [G, tokens, outs]  XTYPE, written
prev, v, prev_scales, v_scales, integers [G, 4], floats [G, 5], normals: as in triton_perturbed.py
offset, param                of the weight; blocks: of BT tokens, that a program takes
WHOLE: rows of the weight are whole groups of eight of the law, which share a Philox call; else each
element makes its own (ranks such as 4, few elements).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_law import (
    GAUSSIAN,
    NATIVE,
    RADEMACHER,
    gaussian8,
    narrow,
    random_words,
    rounding_bits,
    widen,
)


@triton.jit
def _reach(pointer, DTYPE: tl.constexpr):
    """Interpreted, 16-bit elements travel as integers (triton_law.py)."""
    if NATIVE or DTYPE == tl.float32 or DTYPE == tl.int8:
        return pointer
    else:
        return pointer.to(tl.int64).to(tl.pointer_type(tl.uint16))


@triton.jit
def _bound(n):
    """A loop's: interpreted by Triton 3.6 on NumPy 2.4, tensors of one element are no numbers."""
    if NATIVE:
        return n
    else:
        return n.handle.data.item()


@triton.jit
def _own(values, index, WHOLE: tl.constexpr):
    """Of the eight values (uint32 [n, 8]) of each group: all, or [n, 1], that of element index."""
    if WHOLE:
        return values
    else:
        mine = tl.arange(0, 8)[None, :] == (index & 7).to(tl.int32)[:, None]
        return tl.sum(tl.where(mine, values, 0), 1)[:, None]


@triton.jit
def _signs(index, coeff, seed, param, stream, WHOLE: tl.constexpr):
    """coeff * sign: fp32 [n, 8 or 1] of the groups (or elements) at `index` (int64 [n])."""
    block = ((index >> 12) << 5) + ((index >> 3) & 31)
    w0, w1, w2, w3 = random_words(block.to(tl.uint64), RADEMACHER, seed, param, stream)
    row = ((index >> 8) & 15).to(tl.uint32)
    word = tl.where(row < 8, tl.where(row < 4, w0, w1), tl.where(row < 12, w2, w3))
    word = word >> (8 * (row & 3))
    sub = tl.arange(0, 8)[None, :].to(tl.uint32)
    if not WHOLE:
        sub = (index & 7).to(tl.uint32)[:, None]
    turn = (word[:, None] << (31 - sub)) & 0x80000000
    return (turn ^ coeff.to(tl.uint32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def _gaussians(index, seed, param, stream, normals, WHOLE: tl.constexpr):
    block = (index >> 3).to(tl.uint64)
    values = gaussian8(random_words(block, GAUSSIAN, seed, param, stream), normals)
    return _own(values.to(tl.uint32, bitcast=True), index, WHOLE).to(tl.float32, bitcast=True)


@triton.jit
def _kept(pointer, scales, index, offset, begin, at, inside, FORM: tl.constexpr):
    """Elements of prev or v, kept as FORM: fp32 [n, 8 or 1], 0 outside."""
    x = widen(tl.load(_reach(pointer, FORM) + begin + at, mask=inside, other=0), FORM)
    if FORM == tl.int8:
        block = (index >> 8) - (offset >> 8)
        x = x * tl.load(scales + block[:, None], mask=inside, other=0.0)
    return x


@triton.jit
def _copy(
    weight, prev, v, prev_scales, v_scales, integers, floats, normals, first_row, column, outs, ins,
    offset, param, BO: tl.constexpr, BK: tl.constexpr, WHOLE: tl.constexpr, SIGNS: tl.constexpr,
    DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr, HAS_V: tl.constexpr,
    FORM: tl.constexpr,
):  # fmt: skip
    """A tile [BO, BK] of a group's copy, as `narrow` makes it; beyond the weight anything finite.

    integers, floats: the group's.
    """
    EACH: tl.constexpr = 8 if WHOLE else 1
    n = tl.arange(0, BO * BK // EACH)
    row, col = n // (BK // EACH), column + n % (BK // EACH) * EACH
    begin = first_row.to(tl.int64) * ins
    index = offset + begin + row * ins + col
    at = (row * ins + col)[:, None] + tl.arange(0, EACH)[None, :]
    inside = ((first_row + row < outs) & (col < ins))[:, None]
    theta = tl.load(_reach(weight, DTYPE) + begin + at, mask=inside, other=0)
    seed, stream = tl.load(integers + 1).to(tl.uint64), tl.load(integers + 2).to(tl.uint32)
    coeff = tl.load(floats + 4)
    acc = tl.load(floats) * widen(theta, DTYPE)
    if SIGNS:
        acc += _signs(index, coeff, seed, param, stream, WHOLE)
    else:
        acc += coeff * _gaussians(index, seed, param, stream, normals, WHOLE)
    if HAS_PREV:
        skip = tl.load(integers + 3) * outs * ins
        acc += tl.load(floats + 1) * _kept(
            prev, prev_scales, index, offset, begin + skip, at, inside, FORM
        )
    if HAS_V:
        acc += tl.load(floats + 2) * _kept(v, v_scales, index, offset, begin, at, inside, FORM)
    random = 0
    if STOCHASTIC:
        bits = rounding_bits((index >> 3).to(tl.uint64), tl.load(integers).to(tl.uint64), param)
        random = _own(bits, index, WHOLE)
    moved = narrow(acc, random, DTYPE, STOCHASTIC)
    return tl.reshape(tl.where(tl.load(floats + 3) != 0.0, moved, theta), (BO, BK))


@triton.jit
def _product(x, copy, acc, DTYPE: tl.constexpr, XTYPE: tl.constexpr):
    """acc + x copy^T, of both in XTYPE, summed in fp32."""
    if NATIVE:
        return tl.dot(x, tl.trans(copy.to(XTYPE)), acc, input_precision="ieee")
    else:
        wide = widen(copy, DTYPE)
        if DTYPE != XTYPE:
            wide = widen(narrow(wide, 0, XTYPE, False), XTYPE)
        return tl.dot(widen(x, XTYPE), tl.trans(wide), acc, input_precision="ieee")


@triton.jit
def _tokens(x, first, column, tokens, ins, BT: tl.constexpr, BK: tl.constexpr):
    """A tile [BT, BK] of a group's x; 0 outside."""
    row, col = first + tl.arange(0, BT), column + tl.arange(0, BK)
    inside = (row < tokens)[:, None] & (col < ins)[None, :]
    return tl.load(x + row.to(tl.int64)[:, None] * ins + col[None, :], mask=inside, other=0)


@triton.jit(do_not_specialize=["tokens", "offset", "param", "blocks"])
def perturbed_linear(
    x, weight, y, prev, v, prev_scales, v_scales, integers, floats, normals, tokens, outs, ins,
    offset, param, blocks, BT: tl.constexpr, BO: tl.constexpr, BK: tl.constexpr,
    ONE: tl.constexpr, WHOLE: tl.constexpr, SIGNS: tl.constexpr, XTYPE: tl.constexpr,
    DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, HAS_PREV: tl.constexpr, HAS_V: tl.constexpr,
    FORM: tl.constexpr,
):  # fmt: skip
    """A program a range of tokens, a block of BO rows of the weight and a group. Writes y. ONE: all
    columns lie in one tile."""
    ranges, row_blocks = tl.cdiv(tokens, blocks * BT), tl.cdiv(outs, BO)
    program = tl.program_id(0)
    start, rest = program % ranges * blocks * BT, program // ranges
    first_row, group = rest % row_blocks * BO, (rest // row_blocks).to(tl.int64)
    offset, param = offset.to(tl.int64), param.to(tl.uint32)
    x = _reach(x, XTYPE) + group * tokens * ins
    y = _reach(y, XTYPE) + group * tokens * outs
    integers += group * 4
    floats += group * 5
    if ONE:
        copy = _copy(
            weight, prev, v, prev_scales, v_scales, integers, floats, normals, first_row, 0, outs,
            ins, offset, param, BO, BK, WHOLE, SIGNS, DTYPE, STOCHASTIC, HAS_PREV, HAS_V, FORM,
        )  # fmt: skip
    col = first_row + tl.arange(0, BO)
    end = tl.minimum(start + blocks * BT, tokens)
    for first in range(_bound(start), _bound(end), BT):
        acc = tl.zeros((BT, BO), tl.float32)
        if ONE:
            acc = _product(_tokens(x, first, 0, tokens, ins, BT, BK), copy, acc, DTYPE, XTYPE)
        else:
            for column in range(0, _bound(ins), BK):
                tile = _copy(
                    weight, prev, v, prev_scales, v_scales, integers, floats, normals, first_row,
                    column, outs, ins, offset, param, BO, BK, WHOLE, SIGNS, DTYPE, STOCHASTIC,
                    HAS_PREV, HAS_V, FORM,
                )  # fmt: skip
                seen = _tokens(x, first, column, tokens, ins, BT, BK)
                acc = _product(seen, tile, acc, DTYPE, XTYPE)
        row = first + tl.arange(0, BT)
        where = row.to(tl.int64)[:, None] * outs + col[None, :]
        inside = (row < tokens)[:, None] & (col < outs)[None, :]
        tl.store(y + where, narrow(acc, 0, XTYPE, False), mask=inside)
