"""Linear layers by sequence on the backend "triton": their host side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .copies import Copies
from .reference_law import gaussian_table
from .stored import Int8Blocks, memory
from .triton_backend import _on, _triton_type

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PROGRAMS = 1024  # beyond these (eight a processor of an H100) a program takes more tokens
ONE_TILE = 64  # columns at most where a program holds all of a copy's


@dataclass(frozen=True)
class Shape:
    """How the kernel is cut: tiles [BT, BO, BK] of tokens, rows and columns of the weight."""

    BT: int
    BO: int
    BK: int
    ONE: bool  # all columns in one tile
    WHOLE: bool  # rows of whole groups of eight
    num_warps: int
    num_stages: int


def shape_of(
    tokens: int, outs: int, ins: int, offset: int, wide: bool, targeted: bool, small: bool = True
) -> Shape:
    """Tiles that spill no registers (tools/static_report.py).

    wide: x is fp32, which has no tensor cores here and takes smaller tiles; targeted: with prev or
    v, whose loads are not prefetched as far; small: False for the interpreter, which has no
    registers and pays by the step.
    """
    one, whole = ins <= ONE_TILE, (ins | offset) % 8 == 0
    rows, stages = min(64, _power(outs)), 2 if targeted else 3
    most = min(64 if wide else 128, _power(tokens))
    if one:
        columns = _power(ins)
        if wide:
            large = columns > 16
            return Shape(
                min(most, 32 if large else 64), min(rows, 32), columns, one, whole,
                8 if large else 4, stages,
            )  # fmt: skip
        return Shape(most, rows, columns, one, whole, 4, stages)
    columns = 16 if small and (wide or not whole) else 64
    rows = min(rows, 32) if wide and not whole else rows
    return Shape(most, rows, columns, one, whole, 4 if rows == 16 else 8, stages)


def _power(n: int) -> int:
    """The least power of two that is n or more, and 16."""
    return max(16, 1 << (n - 1).bit_length())


def perturbed_linear(x: Tensor, c: Copies, y: Tensor) -> None:
    """Writes y [G, T, out] from x [G, T, in], both contiguous: one launch, no copy is kept."""
    from . import triton_linear

    (groups, tokens, ins), outs, device = x.shape, y.shape[2], x.device
    targeted = c.prev is not None or c.v is not None
    wide = x.dtype == torch.float32 and x.is_cuda
    s = shape_of(tokens, outs, ins, c.offset, wide, targeted, x.is_cuda)
    ranges, row_blocks = -(-tokens // s.BT), -(-outs // s.BO)
    blocks = 1
    if s.ONE:  # as many as leave enough programs
        blocks = min(ranges, max(1, groups * row_blocks * ranges // PROGRAMS))
        ranges = -(-ranges // blocks)
    prev, v = (c.floats if k is None else memory(k) for k in (c.prev, c.v))
    scales = [k.scales if isinstance(k, Int8Blocks) else c.floats for k in (c.prev, c.v)]
    with _on(device):
        triton_linear.perturbed_linear[(ranges * row_blocks * groups,)](
            x, c.tensor, y, prev, v, *scales, c.integers, c.floats, gaussian_table(device), tokens,
            outs, ins, c.offset, c.param, blocks, BT=s.BT, BO=s.BO, BK=s.BK, ONE=s.ONE,
            WHOLE=s.WHOLE, SIGNS=c.distribution == "rademacher", XTYPE=_triton_type(x.dtype),
            DTYPE=_triton_type(c.tensor.dtype),
            STOCHASTIC=c.stochastic and c.tensor.dtype != torch.float32,
            HAS_PREV=c.prev is not None, HAS_V=c.v is not None, FORM=_triton_type(c.form),
            num_warps=s.num_warps, num_stages=s.num_stages, enable_fp_fusion=False,
        )  # fmt: skip
