"""How the Triton kernels reach tensors: the table, rows of eight elements, forms of prev and v.

triton_kernels.py says how work is cut and what the arguments are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_law import NATIVE, widen


@triton.jit
def _locate(table, scales, count, chunk, TILES: tl.constexpr, FORM: tl.constexpr):
    """Which tensor owns `chunk`: its number, its (addresses of theta, prev and v, numel, param,
    where the scales of prev and v would begin for the global index 0), the chunk's first tile, its
    first element in the tensor, and whether it may go 16 bytes a time.
    """
    low = count * 0
    high = count
    while high - low > 1:
        middle = (low + high) // 2
        before = tl.load(table + middle * 8 + 6) <= chunk
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    row = table + low * 8
    numel, offset = tl.load(row + 3), tl.load(row + 4)
    tile = (offset >> 12) + (chunk - tl.load(row + 6)) * TILES
    start = tile * 4096 - offset
    inside = (tl.load(row + 7) != 0) & (start >= 0) & (start + TILES * 4096 <= numel)
    param = tl.load(row + 5).to(tl.uint32)
    prev_scales, v_scales = numel, numel  # whatever: nobody reads them
    if FORM == tl.int8:
        before = (offset >> 8) * 4
        prev_scales = tl.load(scales + low * 2) - before
        v_scales = tl.load(scales + low * 2 + 1) - before
    tensor = (
        tl.load(row), tl.load(row + 1), tl.load(row + 2), numel, param, prev_scales, v_scales
    )  # fmt: skip
    return low, tensor, tile, start, inside


@triton.jit
def _reach(address, start, at, AHEAD: tl.constexpr, DTYPE: tl.constexpr, MASKED: tl.constexpr):
    """Pointers to elements start + at + AHEAD; AHEAD comes last, as the accesses' immediates."""
    pointers = address.to(tl.pointer_type(DTYPE)) + start + at
    if not MASKED:
        BYTES: tl.constexpr = 8 if DTYPE == tl.int8 else 16
        pointers = tl.max_contiguous(tl.multiple_of(pointers, (1, BYTES)), (1, 8))
    return pointers + AHEAD


@triton.jit
def _mask(numel, start, at):
    """Which elements start + at lie in the tensor; in 32 bits, since a chunk is small."""
    first = tl.maximum(-start, 0).to(tl.int32)
    end = tl.minimum(numel - start, 1 << 30).to(tl.int32)
    return (at >= first) & (at < end)


@triton.jit
def _read(
    tensor, WHICH: tl.constexpr, start, at, AHEAD: tl.constexpr, DTYPE: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Elements start + at + AHEAD of theta (0), prev (1) or v (2); fp32, 0 outside.

    at: int32 [n, 8], eight consecutive places a row.
    """
    if NATIVE and DTYPE == tl.bfloat16 and not MASKED:
        # Two at a time: an instruction an element, where halves of words take one and a half.
        even, _ = tl.split(tl.reshape(at >> 1, (at.shape[0], 4, 2)))
        pointers = tensor[WHICH].to(tl.pointer_type(tl.uint32)) + (start >> 1) + even
        pointers = tl.max_contiguous(tl.multiple_of(pointers, (1, 16)), (1, 4))
        pair = tl.load(pointers + AHEAD // 2)
        both = tl.join(pair << 16, pair & 0xFFFF0000).to(tl.float32, bitcast=True)
        return tl.reshape(both, at.shape)
    WHOLE: tl.constexpr = NATIVE or DTYPE == tl.float32 or DTYPE == tl.int8
    STORED: tl.constexpr = DTYPE if WHOLE else tl.uint16
    pointers = _reach(tensor[WHICH], start, at, AHEAD, STORED, MASKED)
    if MASKED:
        inside = _mask(tensor[3], start, at + AHEAD)
        return widen(tl.load(pointers, mask=inside, other=0), DTYPE)
    return widen(tl.load(pointers), DTYPE)


@triton.jit
def _read_kept(
    tensor, WHICH: tl.constexpr, start, at, AHEAD: tl.constexpr, block, FORM: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """As `_read`, of a vector (0), prev (1) or v (2) kept as FORM (fp32, bf16 or int8).

    block: uint64 [n], the elements' global indices >> 3; 32 of them share a scale.
    """
    x = _read(tensor, WHICH, start, at, AHEAD, FORM, MASKED)
    if FORM == tl.int8:
        SCALES: tl.constexpr = 6 if WHICH == 2 else 5
        pointers = tensor[SCALES].to(tl.pointer_type(tl.float32)) + (block >> 5).to(tl.int64)
        if MASKED:
            inside = tl.max(_mask(tensor[3], start, at + AHEAD).to(tl.int32), 1) != 0
            scale = tl.load(pointers, mask=inside, other=0.0)
        else:
            scale = tl.load(pointers)
        x = x * scale[:, None]
    return x
